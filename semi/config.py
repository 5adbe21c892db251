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
REFINEMENTS = ("darp", "align", "sinkhorn", "none")
NOT_SHAPING = frozenset(  # fields that do not change what a run computes
    {
        "data_dir", "out", "gpu", "resume", "run_name", "overwrite", "dry_run", "estimation_dir",
        "alerts", "stop_on_collapse",
    }
)  # fmt: skip


class ConfigError(ValueError):
    """A value that cannot work. The message is one line and names field, value and remedy."""


def flag(
    default: Any, help: str, *, flags: Sequence[str] = (), choices: Sequence[str] = (), differs: str = ""
) -> Any:
    """A dataclass field that is also a flag.

    `flags` lists spellings other than the field's own name; `differs` says where a flag of the original does
    something else here on purpose.
    """
    metadata = {"help": help, "flags": tuple(flags), "choices": tuple(choices), "differs": differs}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class DataConfig:
    """Which images, which labels, which network: what training and estimation share."""

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
    step: bool = flag(
        False,
        "two class sizes, the first half of the classes full, instead of a long tail",
        differs="it was ignored",
    )
    shuffle_split: str = flag(
        "",
        "shuffle each class before splitting: a number to seed it with, or the word seed for --seed; empty: file order",
    )

    mix_alpha: float = flag(0.75, "mixup: both parameters of the Beta distribution")
    batch_size: int = flag(64, "labeled images a step, and as many unlabeled ones", flags=["batch-size"])
    seed: int = flag(
        0, "seeds everything", flags=["manualSeed"], differs="it seeded the order of the data alone"
    )
    gpu: str = flag(
        "0",
        "number among the visible GPUs; cpu for none",
        differs="without that GPU the run goes on elsewhere and says so; CUDA_VISIBLE_DEVICES stays as it is",
    )
    data_dir: str = flag("dataset", "folder of the image files", flags=["data-dir"])

    # Estimation of the unlabeled class distribution
    num_val: int = flag(
        10, "estimation: labeled images of each class that are held out (half of a class with fewer)"
    )
    th_cond: float = flag(
        100.0, "estimation: the confusion matrix's condition number that is too large to invert"
    )
    estimation_dir: str = flag("estimation", "folder of the cached estimates")

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


@dataclass(frozen=True)
class Config(DataConfig):
    """A training run."""

    semi_method: str = flag("mix", "how unlabeled images are used", choices=tuple(METHODS))

    # Refinement of the pseudo-labels
    refine: str = flag(
        "",
        "what moves the pseudo-labels towards the target distribution: darp; align, one rescaling; sinkhorn, entropic "
        "transport; none; empty: as --darp says",
        choices=REFINEMENTS,
    )
    darp: bool = flag(False, "short for --refine darp")
    warm: int = flag(500, "refine in epochs after this one (counted from 0)")
    alpha: float = flag(
        2.0, "keep the int(alpha * target count) surest entries of each class; the paper's delta"
    )
    num_iter: int = flag(10, "steps from one refinement to the next")
    iter_T: int = flag(
        10,
        "rounds of the published scheme",
        differs="used with --solver reference alone; the exact solver goes on until it has converged",
    )
    solver: str = flag(
        "exact", "exact: Newton on the dual; reference: the published coordinate scheme", choices=SOLVERS
    )

    est: bool = flag(
        False,
        "aim at the estimated unlabeled class distribution, not the labeled one; estimated if it is not",
        differs="for every data set and setting, estimated when needed; it read four fixed files",
    )
    est_from: str = flag(
        "", "the estimate of this W&B artifact; short: --est wandb:ENTITY/PROJECT/NAME:ALIAS"
    )
    est_epochs: int = flag(200, "epochs of that estimation")
    est_val_iteration: int = flag(200, "steps of an epoch of that estimation")

    # Method
    tau: float = flag(0.95, "FixMatch: least refined confidence for a pseudo-label to count")
    lambda_u: float | None = flag(
        None,
        "weight of the unlabeled loss of mix and remix; None: 75 with mix, 1.5 with remix",
        flags=["lambda-u"],
        differs="a value that is given holds with remix too",
    )
    T: float = flag(0.5, "sharpening temperature of MixMatch and ReMixMatch")
    align: bool = flag(False, "ReMixMatch: align guesses with the labeled class distribution")
    w_rot: float = flag(0.5, "ReMixMatch: weight of the rotation loss")
    w_ent: float = flag(0.5, "ReMixMatch: weight of the loss on the first strong view")

    # Optimisation
    epochs: int = flag(500, "epochs", flags=["epoch"])
    start_epoch: int = flag(
        0,
        "number of the first epoch when nothing is resumed",
        flags=["start-epoch"],
        differs="a resumed run goes on at its own epoch",
    )
    val_iteration: int = flag(
        500, "steps an epoch; then evaluation and one row of the log", flags=["val-iteration"]
    )
    lr: float = flag(0.002, "learning rate of Adam", flags=["learning-rate"])
    ema_decay: float = flag(0.999, "decay of the averaged weights that are evaluated", flags=["ema-decay"])

    # Where
    out: str = flag(
        "result",
        "folder of the runs; each run gets a folder of its own in it",
        differs="the run's own folder holds every setting in its name and is never overwritten",
    )
    run_name: str = flag("", "name of the run's folder; default: made from the configuration")
    resume: str = flag(
        "",
        "a checkpoint.pt to go on from; auto: this run's own if there is one; "
        "wandb:ENTITY/PROJECT/NAME:ALIAS with train_with_wandb.py: an artifact",
        differs="everything is restored: pseudo-labels, random states, the last 20 epochs",
    )
    overwrite: bool = flag(False, "start again in a folder that holds a run; the old one is kept beside it")
    alerts: bool = flag(
        True, "say when pseudo-labels collapse, a class dies, refinement or the loss fails, and what helps"
    )
    stop_on_collapse: bool = flag(
        False, "end with exit code 3 when pseudo-labels collapse or the loss is not finite"
    )
    dry_run: bool = flag(False, "say what would run and be logged, and stop", flags=["dry-run"])

    def __post_init__(self) -> None:
        _validate(self)
        refinement = self.refinement  # two spellings of one configuration become one, with one run name
        object.__setattr__(self, "darp", refinement == "darp")
        object.__setattr__(self, "refine", refinement if refinement in ("align", "sinkhorn") else "")

    @property
    def refinement(self) -> str:
        """One of `REFINEMENTS`, whichever flag asked for it."""
        return self.refine or ("darp" if self.darp else "none")

    @property
    def unlabeled_weight(self) -> float:
        """`lambda_u`, or the method's own."""
        return self.lambda_u if self.lambda_u is not None else 1.5 if self.semi_method == "remix" else 75.0


@dataclass(frozen=True)
class EstimateConfig(DataConfig):
    """An estimation of the unlabeled class distribution: a supervised training with the original's recipe."""

    epochs: int = flag(200, "epochs", flags=["epoch"])
    val_iteration: int = flag(200, "steps an epoch", flags=["val-iteration"])
    lr: float = flag(
        0.1,
        "learning rate of SGD; a tenth after 80 % and again after 90 % of the epochs",
        flags=["learning-rate"],
    )
    overwrite: bool = flag(False, "estimate again although a cached estimate is there")

    def __post_init__(self) -> None:
        _validate_data(self)
        _require_positive(self, "lr")


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
    wandb_artifacts: bool = flag(
        False,
        "upload the best and the last checkpoint (some 25 MB each with wrn28_2 on CIFAR-10) and the pseudo-labels "
        "(8 bytes x images x classes: 4 MB there, 36 MB on CIFAR-100) when the run ends",
    )
    wandb_charts: bool = flag(
        False,
        "draw the custom charts on each run's own page too; `python -m tracking.workspace` makes them known once",
    )

    def __post_init__(self) -> None:
        _require_choices(self)


def _require_choices(options: DataConfig | WandbOptions) -> None:
    for spec in dataclasses.fields(options):
        value, choices = getattr(options, spec.name), spec.metadata["choices"]
        if choices and value not in choices and value != spec.default:
            raise ConfigError(f"--{spec.name} {value}: use one of {', '.join(choices)}")


def _require_at_least(config: DataConfig, least: float, *names: str) -> None:
    for name in names:
        if getattr(config, name) < least:
            raise ConfigError(f"--{name} {getattr(config, name)}: use {least:g} or more")


def _require_positive(config: DataConfig, *names: str) -> None:
    for name in names:
        if getattr(config, name) <= 0:
            raise ConfigError(f"--{name} {getattr(config, name)}: use a number above 0")


def _validate_data(config: DataConfig) -> None:
    _require_choices(config)
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"--{name} {value}: use a finite number")
    _require_at_least(config, 0, "seed")
    _require_at_least(config, 1, "num_max", "batch_size", "imb_ratio_l", "imb_ratio_u", "num_val", "th_cond")
    _require_positive(config, "ratio", "mix_alpha")
    if config.shuffle_split not in ("", "seed") and not config.shuffle_split.isdecimal():
        raise ConfigError(
            f"--shuffle_split {config.shuffle_split}: use a whole number, or seed for the value of --seed"
        )
    if config.gpu not in ("", "cpu") and not config.gpu.isdecimal():
        raise ConfigError(f"--gpu {config.gpu}: use the number of one GPU, or cpu")


def _validate(config: Config) -> None:
    _validate_data(config)
    _require_at_least(config, 0, "warm", "start_epoch", "unlabeled_weight", "w_rot", "w_ent")
    _require_at_least(
        config, 1, "num_iter", "iter_T", "epochs", "val_iteration", "est_epochs", "est_val_iteration"
    )
    _require_positive(config, "alpha", "T", "lr")
    if config.darp and config.refine not in ("", "darp"):
        raise ConfigError(
            f"--refine {config.refine}: contradicts --darp, which is short for --refine darp; give one of the two"
        )
    if not 0 < config.tau <= 1:
        raise ConfigError(f"--tau {config.tau}: the threshold is a probability; use a value in (0, 1]")
    if not 0 <= config.ema_decay < 1:
        raise ConfigError(f"--ema-decay {config.ema_decay}: use a value in [0, 1)")
    if config.start_epoch >= config.epochs:
        raise ConfigError(
            f"--start-epoch {config.start_epoch}: epochs 0 to {config.epochs - 1} are to be trained; use one of them"
        )
    if "/" in config.run_name or config.run_name in (".", ".."):
        raise ConfigError(
            f"--run_name {config.run_name}: a folder's name, not a path; use --out for the folder above it"
        )
