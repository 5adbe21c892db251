"""The data set that a configuration asks for, and its labeled and unlabeled images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from data import Dataset, Split, load_dataset, make_split
from semi.config import OWN_DATASETS, ConfigError, DataConfig
from semi.names import DATASETS, found

ORDER = (
    1  # number of the random stream that draws the order; the split's own shuffle and the loader have others
)


def dataset_for(config: DataConfig, *, download: bool = True, full_size: bool = False) -> Dataset:
    """The images and labels, read from `data_dir` or downloaded there; `full_size` as in `load_dataset`.

    Raises DataError, one line.
    """
    if (reader := found(DATASETS, config.dataset)) is not None:
        dataset: Dataset = reader(Path(config.data_dir).expanduser(), download)
        return dataset
    if config.dataset not in OWN_DATASETS:
        return load_dataset(config.dataset, config.data_dir, download=download, full_size=full_size)
    from data.own import Source, read_own  # Pillow: no other data set needs it

    source = Source(
        Path(config.data_dir).expanduser(),
        Path(config.unlabeled_dir).expanduser() if config.unlabeled_dir else None,
        config.image_size,
        config.test_share,
        config.skip_broken,
        config.flip,
    )
    return read_own(config.dataset, source)


def split_for(config: DataConfig, dataset: Dataset, *, include_labeled: bool) -> Split:
    """The split, with its unlabeled images in an order drawn from the seed.

    Classes stand one after the other in `make_split`'s order. Noise removal breaks ties by the row: where many
    predictions are equal, rows in that order would tell the refinement which images are of one class. The drawn order
    knows nothing of the class, nor of which images are labeled too.

    include_labeled: the unlabeled set contains the labeled images, as FixMatch's does.

    Raises ConfigError, one line, when configuration and data set do not fit.
    """
    extra = dataset.extra_unlabeled_images
    try:
        split = make_split(
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
    order = np.random.default_rng([config.seed, ORDER]).permutation(len(split.index_u))
    return replace(split, index_u=split.index_u[torch.from_numpy(order)])
