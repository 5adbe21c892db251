"""The configuration of a run: one frozen dataclass, validated once. Each field is also a flag and a preset's key.

Names and defaults of the first public implementation of DARP ("the original") stay as they are, `-` and `_` included.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from data import DATASETS
from models import ARCHS
from semi.methods import METHODS

WANDB_MODES = ("auto", "online", "offline", "disabled")
SOLVERS = ("exact", "reference")
NOT_SHAPING = frozenset(
    {"data_dir", "out", "gpu", "resume", "run_name", "overwrite", "dry_run"}
)  # the result


class ConfigError(ValueError):
    """A value that cannot work. The message is one line and names field, value and remedy."""


def flag(default: Any, help: str, *, flags: Sequence[str] = (), choices: Sequence[str] = ()) -> Any:
    """A dataclass field that is also a flag. `flags` lists spellings other than the field's own name."""
    return field(default=default, metadata={"help": help, "flags": tuple(flags), "choices": tuple(choices)})


@dataclass(frozen=True)
class Config:
    # What is trained
    semi_method: str = flag("mix", "how unlabeled images are used", choices=tuple(METHODS))
    dataset: str = flag("cifar10", "images; digits needs no file", choices=DATASETS)
    arch: str = flag("wrn28_2", "network; small makes runs on a CPU practical", choices=ARCHS)

    # Which labels
    num_max: int = flag(1500, "labeled images of the largest class")
    ratio: float = flag(2.0, "unlabeled images of the largest class, as a multiple of num_max")
    imb_ratio_l: float = flag(
        100.0, "largest over smallest class of the labeled set (gamma_l); 1 is balanced"
    )
    imb_ratio_u: float = flag(100.0, "the same of the unlabeled set (gamma_u)")
    imb_ratio_u_reversed: bool = flag(False, "the largest labeled class is the smallest unlabeled one")
    step: bool = flag(False, "two class sizes, the first half of the classes full, instead of a long tail")
    shuffle_split: str = flag(
        "",
        "shuffle each class before splitting: a number to seed it with, or the word seed for --seed; empty: file order",
    )

    # DARP
    darp: bool = flag(False, "refine the pseudo-labels until their class distribution meets the target")
    warm: int = flag(500, "refine in epochs after this one (counted from 0)")
    alpha: float = flag(
        2.0, "keep the int(alpha * target count) surest entries of each class; the paper's delta"
    )
    num_iter: int = flag(10, "steps from one refinement to the next")
    iter_T: int = flag(10, "rounds of the published scheme (--solver reference)")
    solver: str = flag(
        "exact", "exact: Newton on the dual; reference: the published coordinate scheme", choices=SOLVERS
    )

    # Method
    tau: float = flag(0.95, "FixMatch: least refined confidence for a pseudo-label to count")
    mix_alpha: float = flag(0.75, "mixup: both parameters of the Beta distribution")
    lambda_u: float | None = flag(
        None, "weight of the unlabeled loss; default 75 with mix, 1.5 with remix", flags=["lambda-u"]
    )
    T: float = flag(0.5, "sharpening temperature of MixMatch and ReMixMatch")
    align: bool = flag(False, "ReMixMatch: align guesses with the labeled class distribution")
    w_rot: float = flag(0.5, "ReMixMatch: weight of the rotation loss")
    w_ent: float = flag(0.5, "ReMixMatch: weight of the loss on the first strong view")

    # Optimisation
    epochs: int = flag(500, "epochs", flags=["epoch"])
    start_epoch: int = flag(0, "number of the first epoch when nothing is resumed", flags=["start-epoch"])
    val_iteration: int = flag(
        500, "steps an epoch; then evaluation and one row of the log", flags=["val-iteration"]
    )
    batch_size: int = flag(64, "labeled images a step, and as many unlabeled ones", flags=["batch-size"])
    lr: float = flag(0.002, "learning rate of Adam", flags=["learning-rate"])
    ema_decay: float = flag(0.999, "decay of the averaged weights that are evaluated", flags=["ema-decay"])
    seed: int = flag(0, "seeds everything", flags=["manualSeed"])

    # Where
    gpu: str = flag("0", "number among the visible GPUs; cpu for none")
    data_dir: str = flag("dataset", "folder of the image files", flags=["data-dir"])
    out: str = flag("result", "folder of the runs; each run gets a folder of its own in it")
    run_name: str = flag("", "name of the run's folder; default: made from the configuration")
    resume: str = flag("", "a checkpoint.pt to go on from, or auto: this run's own if there is one")
    overwrite: bool = flag(False, "start again in a folder that holds a run; the old one is kept beside it")
    dry_run: bool = flag(False, "say what would run and be logged, and stop", flags=["dry-run"])

    def __post_init__(self) -> None:
        _validate(self)

    @property
    def split_seed(self) -> int | None:
        """What seeds the shuffle before the split; None for file order."""
        return (
            self.seed
            if self.shuffle_split == "seed"
            else int(self.shuffle_split)
            if self.shuffle_split
            else None
        )

    @property
    def unlabeled_weight(self) -> float:
        """`lambda_u`, or the method's own."""
        return self.lambda_u if self.lambda_u is not None else 1.5 if self.semi_method == "remix" else 75.0


@dataclass(frozen=True)
class WandbOptions:
    """Flags of train_with_wandb.py beside those of a run. The environment's WANDB_* variables win over them."""

    wandb_mode: str = flag("auto", "auto: online with a stored key, else offline", choices=WANDB_MODES)
    wandb_project: str = flag("", "W&B project; default: WANDB_PROJECT, else darp")
    wandb_entity: str = flag("", "W&B user or team; default: WANDB_ENTITY, else the account's own")
    wandb_group: str = flag("", "W&B group; default: the regime (data set, ratio, num_max, imbalance)")
    wandb_tags: str = flag("", "tags, separated by commas, beside data set, method and refinement")
    wandb_machine_info: bool = flag(
        True, "false keeps host, paths, hardware, git and console output on this machine"
    )

    def __post_init__(self) -> None:
        _require_choices(self)


def _require_choices(options: Config | WandbOptions) -> None:
    for spec in dataclasses.fields(options):
        value, choices = getattr(options, spec.name), spec.metadata["choices"]
        if choices and value not in choices:
            raise ConfigError(f"--{spec.name} {value}: use one of {', '.join(choices)}")


def _validate(config: Config) -> None:
    _require_choices(config)
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"--{name} {value}: use a finite number")
    at_least: dict[str, float] = {
        "num_max": 1, "warm": 0, "num_iter": 1, "iter_T": 1, "epochs": 1, "start_epoch": 0, "val_iteration": 1,
        "batch_size": 1, "seed": 0, "unlabeled_weight": 0, "w_rot": 0, "w_ent": 0, "imb_ratio_l": 1, "imb_ratio_u": 1,
    }  # fmt: skip
    for name, least in at_least.items():
        if getattr(config, name) < least:
            raise ConfigError(f"--{name} {getattr(config, name)}: use {least:g} or more")
    for name in ("ratio", "alpha", "mix_alpha", "T", "lr"):
        if getattr(config, name) <= 0:
            raise ConfigError(f"--{name} {getattr(config, name)}: use a number above 0")
    if not 0 < config.tau <= 1:
        raise ConfigError(f"--tau {config.tau}: the threshold is a probability; use a value in (0, 1]")
    if not 0 <= config.ema_decay < 1:
        raise ConfigError(f"--ema-decay {config.ema_decay}: use a value in [0, 1)")
    if config.start_epoch >= config.epochs:
        raise ConfigError(
            f"--start-epoch {config.start_epoch}: epochs 0 to {config.epochs - 1} are to be trained; use one of them"
        )
    if config.shuffle_split not in ("", "seed") and not config.shuffle_split.isdecimal():
        raise ConfigError(
            f"--shuffle_split {config.shuffle_split}: use a whole number, or seed for the value of --seed"
        )
    if config.gpu not in ("", "cpu") and not config.gpu.isdecimal():
        raise ConfigError(f"--gpu {config.gpu}: use the number of one GPU, or cpu")
    if "/" in config.run_name or config.run_name in (".", ".."):
        raise ConfigError(
            f"--run_name {config.run_name}: a folder's name, not a path; use --out for the folder above it"
        )
