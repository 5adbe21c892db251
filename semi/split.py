"""The labeled and unlabeled images that a configuration asks for."""

from __future__ import annotations

from data import Dataset, Split, make_split
from semi.config import ConfigError, DataConfig


def split_for(config: DataConfig, dataset: Dataset, *, include_labeled: bool) -> Split:
    """Raises ConfigError, one line, when configuration and data set do not fit.

    include_labeled: the unlabeled set contains the labeled images, as FixMatch's does.
    """
    extra = dataset.extra_unlabeled_images
    try:
        return make_split(
            dataset.train_labels,
            len(dataset.class_names),
            num_max=config.num_max,
            ratio=config.ratio,
            imb_ratio_l=config.imb_ratio_l,
            imb_ratio_u=config.imb_ratio_u,
            imb_ratio_u_reversed=config.imb_ratio_u_reversed,
            step=config.step,
            shuffle_seed=config.split_seed,
            include_labeled=include_labeled,
            extra_unlabeled=0 if extra is None else len(extra),
        )
    except ValueError as error:
        raise ConfigError(f"--{error}") from None
