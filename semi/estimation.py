"""The class distribution of the unlabeled images, from a network that learns from labels alone (`--est`, estimate.py).

The recipe is the published one: the last `num_val` labeled images of each class are held out, the rest train a
supervised network (SGD, no mixup), and each epoch gives a confusion matrix on the held-out images and predictions on
the unlabeled ones. The estimate uses the predictions averaged over the epochs after the last drop of the learning rate;
`darp.estimation` says how, and also gives what the published rule would have. It is cached in
`<estimation_dir>/<key>.json`; until it is done, `<key>.partial.pt` is what it goes on from.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from darp.estimation import estimate, published_estimate
from data import Dataset, Split
from semi.config import Config, ConfigError, DataConfig, EstimateConfig
from semi.distributed import Ranks
from semi.estimation_training import share, started_or_resumed
from semi.lock import held_alone
from semi.run_folder import digest
from semi.split import dataset_for, split_for
from tracking.local import clear_temporary_files, write_atomically
from tracking.regime import regime_name

# Goes up with a change of the training that no field tells: 2 holds out the last images of a class, not the first.
RECIPE = 2
PARTIAL_SUFFIX = ".partial.pt"  # of the state of an estimation that is not done, beside its record


class NotIdentifiable(ConfigError):
    """The labels at hand do not tell the unlabeled class distribution. The message is one line, with the remedy."""


def estimate_config(config: Config) -> EstimateConfig:
    """The estimation that `--est` asks for: the run's data and network, the recipe's training."""
    shared = {spec.name: getattr(config, spec.name) for spec in dataclasses.fields(DataConfig)}
    del shared["batch_size"]  # the run's own; the recipe has another
    return EstimateConfig(**shared, epochs=config.est_epochs, val_iteration=config.est_val_iteration)


def estimate_path(config: EstimateConfig) -> Path:
    """Where the estimate is cached: a readable name that ends in a digest of all that determines it."""
    regime = regime_name(dataclasses.asdict(config))
    name = f"{regime}_s{config.seed}_recipe{RECIPE}_{digest(config)}.json"
    return Path(config.estimation_dir) / name


def is_file(source: str) -> bool:
    """Whether an `est_from` names a file, not a W&B artifact."""
    return source.endswith((".npy", ".json"))


def estimate_source(config: Config) -> str:
    """Where the target of an `--est` run comes from: a file, or `wandb:NAME`."""
    if is_file(config.est_from):
        return config.est_from
    return f"wandb:{config.est_from}" if config.est_from else str(estimate_path(estimate_config(config)))


def how_to_use(config: EstimateConfig) -> str:
    """The flags with which a training takes this estimate up."""
    shared = {spec.name: getattr(config, spec.name) for spec in dataclasses.fields(DataConfig)}
    del shared["batch_size"]
    steps = {"epochs": config.epochs, "val_iteration": config.val_iteration}
    if estimate_path(EstimateConfig(**shared | steps)) != estimate_path(config):
        return f"--est estimates by another recipe, so train with --est {estimate_path(config)}"
    flags = ["--est"]
    for name, value in {f"est_{name}": value for name, value in steps.items()}.items():
        if value != Config.__dataclass_fields__[name].default:
            flags.append(f"--{name} {value}")
    if config.estimation_dir != EstimateConfig.estimation_dir:
        flags.append(f"--estimation_dir {config.estimation_dir}")
    return f"train with {' '.join(flags)} and the same data flags"


def load_or_estimate(config: EstimateConfig, ranks: Ranks) -> dict[str, Any]:
    """The cached record, or a new one, which is then cached. What was interrupted goes on, but with `overwrite`.

    Processes call this together and get the same record; the first one alone reads and writes files here.

    Raises NotIdentifiable, on all of them, where the distribution cannot be told, with the remedy; ConfigError, on one
    of them, before any training where the folder of the estimates cannot be written to.
    """
    path = estimate_path(config)
    if not config.overwrite and ranks.by_first(path.exists):
        return told(ranks.by_first(lambda: parsed(path)), path)
    dataset, split = ranks.host_by_host(lambda: images_of(config))
    ranks.together(lambda: share(config.batch_size, ranks))
    ranks.by_first(lambda: prove_writable(path.parent))
    partial_file = path.with_suffix(PARTIAL_SUFFIX)

    def prepare() -> bool:
        clear_temporary_files(path.parent, path.stem)
        if config.overwrite:
            partial_file.unlink(missing_ok=True)
        return config.overwrite or not path.exists()  # else another run has made it meanwhile

    def keep(record: dict[str, Any]) -> None:
        write_atomically(path, json.dumps(record, indent=1) + "\n")

    with held_alone(path.with_name(f"{path.name}.lock"), wait=partial(_say_waiting, path), ranks=ranks):
        if ranks.by_first(prepare):
            record = run_estimation(config, ranks, dataset, split, partial_file)
            ranks.by_first(lambda: keep(record))
        ranks.by_first(lambda: partial_file.unlink(missing_ok=True))
    return told(ranks.by_first(lambda: parsed(path)), path)


def images_of(config: EstimateConfig) -> tuple[Dataset, Split]:
    """Raises ConfigError or DataError, one line."""
    dataset = dataset_for(config)
    return dataset, split_for(config, dataset, include_labeled=False)


def _say_waiting(path: Path, holder: str) -> None:
    print(f"{path}: {holder} is estimating it; waiting for that", file=sys.stderr)


def prove_writable(folder: Path) -> None:
    """Make `folder` and write into it, now and not after minutes of training. Raises ConfigError, one line."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"--estimation_dir {folder}: cannot be written to ({error.strerror}); name a folder that can"
        ) from None


def read_record(path: Path) -> dict[str, Any]:
    """The record that `load_or_estimate` wrote. Raises ConfigError where it holds no class distribution.

    NotIdentifiable where it says itself that the distribution could not be told.
    """
    return told(parsed(path), path)


def told(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """`record` of the file `path`. Raises NotIdentifiable where it says that the distribution could not be told."""
    if not record["identifiable"]:
        raise NotIdentifiable(
            f"--est: the unlabeled class distribution cannot be told: {record['reason']} ({path})"
        )
    return record


def parsed(path: Path) -> dict[str, Any]:
    """A record with a class distribution, or with the reason why there is none. Raises ConfigError for other files."""
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        dist, num_classes = record["dist"], len(record["class_names"])
        if not record["identifiable"] and record["reason"]:
            return record
        numbers = np.array(dist, dtype=np.float64)
        if numbers.shape == (num_classes,) and (numbers >= 0).all() and abs(numbers.sum() - 1) < 1e-6:
            return record
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ConfigError(f"--est: {path} is not an estimate; move it away, or run estimate.py with --overwrite")


def read_estimate(path: Path) -> list[float]:
    """The class distribution in a file: what estimate.py wrote (.json), or K numbers (.npy), which are normalised.

    Published estimates come as .npy. Nothing that is pickled is read. Raises ConfigError, one line.
    """
    if path.suffix == ".json":
        dist: list[float] = read_record(path)["dist"]
        return dist
    remedy = "give a .npy file of K finite numbers, none below 0 and not all 0, one for each class"
    try:
        numbers = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise ConfigError(f"--est {path}: no such file; {remedy}") from None
    except (OSError, ValueError, EOFError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"--est {path}: not readable ({reason}); {remedy}") from None
    if not isinstance(numbers, np.ndarray) or numbers.dtype.kind not in "iuf" or numbers.squeeze().ndim != 1:
        raise ConfigError(f"--est {path}: holds no row of numbers; {remedy}")
    counts = numbers.squeeze().astype(np.float64)
    if not np.isfinite(counts).all() or (counts < 0).any() or counts.sum() <= 0:
        raise ConfigError(f"--est {path}: holds {counts.tolist()}; {remedy}")
    return (counts / counts.sum()).tolist()


def run_estimation(
    config: EstimateConfig,
    ranks: Ranks,
    dataset: Dataset,
    split: Split,
    partial_file: Path | None = None,
) -> dict[str, Any]:
    """Train, predict, estimate: the record as plain values. `split` is without labeled images among the unlabeled ones.

    Writes nothing but its state into `partial_file`, from which it also goes on where one is there.
    """
    training = started_or_resumed(config, ranks, dataset, split, partial_file)
    training.run(partial_file)
    predictions, labels = training.predictions, training.heldout_labels
    found = estimate(
        predictions.heldout / predictions.epochs,
        labels,
        predictions.unlabeled / predictions.epochs,
        max_condition=config.th_cond,
        seed=config.seed,
        group=ranks.group,
    )
    published, accepted = published_estimate(predictions.per_epoch, max_condition=config.th_cond)
    return {
        "config": dataclasses.asdict(config),
        "class_names": list(dataset.class_names),
        "dist": found.dist.tolist(),
        "low": found.low.tolist(),
        "high": found.high.tolist(),
        "condition": found.condition if np.isfinite(found.condition) else None,
        "identifiable": found.identifiable,
        "reason": found.reason,
        "published_dist": None if published is None else published.tolist(),
        "accepted_epochs": accepted,
        "heldout_counts": np.bincount(labels, minlength=len(dataset.class_names)).tolist(),
        "labeled_counts": split.counts_x,
        "unlabeled_images": len(split.index_u),
        **diagnosis(found.dist, split),
    }


def print_estimate(record: dict[str, Any]) -> None:
    """The estimate as a table, beside the labeled prior and, where it is known, the truth."""
    table = Table("class", "share", "95 % interval", "labeled", *(["true"] if "true_dist" in record else []))
    labeled = np.array(record["labeled_counts"]) / sum(record["labeled_counts"])
    for k, name in enumerate(record["class_names"]):
        cells = [
            name,
            f"{record['dist'][k]:.3f}",
            f"{record['low'][k]:.3f} to {record['high'][k]:.3f}",
            f"{labeled[k]:.3f}",
        ]
        table.add_row(*cells, *([f"{record['true_dist'][k]:.3f}"] if "true_dist" in record else []))
    Console().print(table)
    print(
        f"condition number {record['condition']:.1f}; the published rule accepts {record['accepted_epochs']} of "
        f"{record['config']['epochs']} epochs"
    )
    if "tv_true" in record:
        print(
            f"total variation from the truth: {record['tv_true']:.3f}; "
            f"of the labeled distribution: {record['tv_true_of_labeled_prior']:.3f}"
        )


def diagnosis(dist: np.ndarray, split: Split) -> dict[str, Any]:
    """How far the estimate and, beside it, the labeled prior are from the truth, where the truth is known."""
    if not split.counts_u or np.isnan(dist).any():
        return {}
    true = np.array(split.counts_u) / sum(split.counts_u)
    prior = np.array(split.counts_x) / sum(split.counts_x)
    return {
        "true_dist": true.tolist(),
        "tv_true": float(np.abs(dist - true).sum() / 2),
        "tv_true_of_labeled_prior": float(np.abs(prior - true).sum() / 2),
    }
