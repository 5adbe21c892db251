"""The configuration of a run: one frozen dataclass, validated once. Each field is also a flag and a preset's key.

Names and defaults of the first public implementation of DARP ("the original") stay as they are, `-` and `_` included.
What kind a field is stands on the field itself (`kind`): run names, digests, the checks of a resume and the groups of
the report all derive from it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

from data import DATASETS
from models import ARCHS

WANDB_MODES = ("auto", "online", "offline", "disabled")
AUGMENTATIONS = ("auto", "published", "fixmatch")
PUBLISHED_ON = ("cifar10", "cifar100", "stl10")  # the paper's data sets: --augment auto is published there
LOADERS = ("device", "published")
RANDAUGMENTS = ("published", "package")
NAN_CHOICES = ("stop", "continue")
SOLVERS = ("exact", "reference")
REFINEMENTS = ("none", "darp", "align", "sinkhorn")
METHOD_NAMES = ("mix", "remix", "fix", "pseudo", "sup")  # semi/methods has one file for each

# What a field does to a run. shaping: another value is another run. refinement: the same, but only where the
# pseudo-labels are refined; a raw run and its refined counterpart may differ in it. length: the same run goes on for
# longer, in its own folder; reports tell a short one from a long one. incidental: the run computes the same whatever
# the value is.
Kind = Literal["shaping", "refinement", "length", "incidental"]


class ConfigError(ValueError):
    """A value that cannot work. The message is one line and names field, value and remedy."""


def flag(
    default: Any,
    help: str,
    *,
    flags: Sequence[str] = (),
    choices: Sequence[str] = (),
    differs: str = "",
    group: str = "training",
    kind: Kind = "shaping",
    switch: str = "",
) -> Any:
    """A dataclass field that is also a flag.

    Args:
        flags: spellings other than the field's own name.
        differs: where a flag of the original does something else here on purpose.
        group: heading of --help under which the flag stands.
        kind: what another value does to a run.
        switch: one of `choices` for which there is a flag of its own: `--darp` is short for `--refine darp`.
    """
    metadata = {
        "help": help,
        "flags": tuple(flags),
        "choices": tuple(choices),
        "differs": differs,
        "group": group,
        "kind": kind,
        "switch": switch,
    }
    return field(default=default, metadata=metadata)


def fields_of_kind(options: Any, kind: Kind) -> frozenset[str]:
    """Names of the fields of a configuration (class or instance) that are of this kind."""
    return frozenset(spec.name for spec in dataclasses.fields(options) if spec.metadata["kind"] == kind)


def kinds_of(options: Any) -> dict[str, list[str]]:
    """Kind -> names of the fields that make up a run; what a run folder keeps for those who compare runs."""
    return {kind: sorted(fields_of_kind(options, kind)) for kind in ("shaping", "refinement", "length")}


data_flag = partial(flag, group="data")
method_flag = partial(flag, group="method")
refinement_flag = partial(flag, group="refinement", kind="refinement")
folder_flag = partial(flag, group="run folder", kind="incidental")
wandb_flag = partial(flag, group="W&B", kind="incidental")


@dataclass(frozen=True)
class DataConfig:
    """Which images, which labels, which network: what training and estimation share."""

    dataset: str = data_flag("cifar10", "Data set. digits needs no files.", choices=DATASETS)
    num_max: int = data_flag(1500, "Labeled images of the largest class.")
    ratio: float = data_flag(2.0, "Unlabeled images of the largest class, as a multiple of --num_max.")
    imb_ratio_l: float = data_flag(
        100.0, "Largest class over smallest class in the labeled set (gamma_l). 1 is balanced."
    )
    imb_ratio_u: float = data_flag(100.0, "The same in the unlabeled set (gamma_u).")
    imb_ratio_u_reversed: bool = data_flag(
        False, "Reverse the unlabeled imbalance: the largest labeled class is the smallest unlabeled one."
    )
    step: bool = data_flag(
        False,
        "Two class sizes instead of a long tail: the first half of the classes is full.",
        differs="it was ignored",
    )
    shuffle_split: str = data_flag(
        "",
        "Shuffle each class before splitting. Give a number as the seed, or the word seed to use --seed. "
        "Empty: take the images in file order.",
    )
    augment: str = data_flag(
        "auto",
        "Views. published: the original's (16 operations, translation in pixels, black borders), for comparisons with "
        "the paper. fixmatch: FixMatch's own (14 operations, reflected borders). auto: published on cifar10, cifar100 "
        "and stl10, fixmatch on the others.",
        choices=AUGMENTATIONS,
    )
    data_dir: str = data_flag("dataset", "Folder of the image files.", flags=["data-dir"], kind="incidental")

    arch: str = flag("wrn28_2", "Network. small is for runs on a CPU.", choices=ARCHS)
    batch_size: int = flag(64, "Labeled images in a step, and as many unlabeled ones.", flags=["batch-size"])
    seed: int = flag(
        0, "Seed of everything random.", flags=["manualSeed"], differs="it seeded the order of the data alone"
    )
    gpu: str = flag(
        "0",
        "Number of the GPU among the visible ones. cpu: use none.",
        kind="incidental",
        differs="falls back to the CPU with a warning if that GPU is missing; CUDA_VISIBLE_DEVICES is not changed",
    )

    num_val: int = refinement_flag(
        10, "Estimation: labeled images of each class to hold out (half of a class that has fewer)."
    )
    th_cond: float = refinement_flag(
        100.0, "Estimation: reject a confusion matrix whose condition number reaches this."
    )
    estimation_dir: str = refinement_flag(
        "estimation", "Estimation: folder of the cached estimates.", kind="incidental"
    )

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

    semi_method: str = method_flag("mix", "Semi-supervised method.", choices=METHOD_NAMES)
    tau: float = method_flag(0.95, "FixMatch: smallest refined confidence at which a pseudo-label counts.")
    lambda_u: float | None = method_flag(
        None,
        "Weight of the unlabeled loss of mix and remix. None: 75 with mix, 1.5 with remix.",
        flags=["lambda-u"],
        differs="a value that is given holds with remix too",
    )
    mix_alpha: float = method_flag(0.75, "Both parameters of mixup's Beta distribution.")
    T: float = method_flag(0.5, "Sharpening temperature of MixMatch and ReMixMatch.")
    align: bool = method_flag(False, "ReMixMatch: align the guesses with the target class distribution.")
    w_rot: float = method_flag(0.5, "ReMixMatch: weight of the rotation loss.")
    w_ent: float = method_flag(0.5, "ReMixMatch: weight of the loss on the first strong view.")

    refine: str = refinement_flag(
        "none",
        "How to move the pseudo-labels towards the target class distribution. darp: the convex problem. "
        "align: one rescaling. sinkhorn: entropic transport.",
        choices=REFINEMENTS,
        switch="darp",
    )
    warm: int = refinement_flag(
        500, "Refine after this epoch. Epochs count from 0. -1: from the first epoch on."
    )
    alpha: float = refinement_flag(
        2.0, "Keep the int(alpha * target count) most confident entries of each class (the paper's delta)."
    )
    num_iter: int = refinement_flag(10, "Steps from one refinement to the next.")
    iter_T: int = refinement_flag(
        10,
        "Rounds of the published scheme.",
        differs="only --solver reference uses it; the exact solver stops when it has converged",
    )
    solver: str = refinement_flag(
        "exact",
        "exact: Newton's method on the dual. reference: the published coordinate scheme.",
        choices=SOLVERS,
    )
    est: bool = refinement_flag(
        False,
        "Use the estimated unlabeled class distribution as the target, not the labeled one. "
        "A missing estimate is made first.",
        differs="works for every data set and setting; it read four fixed files",
    )
    est_from: str = refinement_flag(
        "",
        "Where the estimate comes from, if it is not made here: a W&B artifact, a .npy file of K numbers, or a file of "
        "estimate.py. Short forms: --est wandb:ENTITY/PROJECT/NAME:ALIAS, --est FILE.npy, --est FILE.json",
    )
    est_epochs: int = refinement_flag(200, "Epochs of that estimation.")
    est_val_iteration: int = refinement_flag(200, "Steps in an epoch of that estimation.")

    loader: str = data_flag(
        "device",
        "device: make batches where the images are. published: the slow pipeline behind a large data_time (Pillow "
        "images, two DataLoaders with 4 workers, restarted when exhausted); it needs --augment published.",
        choices=LOADERS,
    )
    randaugment: str = data_flag(
        "published",
        "Strong views of --loader published. published: the list of 16. package: PyPI's randaugment. That is not the "
        "code that the original uses: it has no number and no magnitude of operations.",
        choices=RANDAUGMENTS,
    )
    epochs: int = flag(
        500,
        "Number of epochs. With --resume auto a finished run goes on to a larger number.",
        flags=["epoch"],
        kind="length",
    )
    start_epoch: int = flag(
        0,
        "Number of the first epoch when nothing is resumed.",
        flags=["start-epoch"],
        differs="a resumed run continues at its own epoch",
    )
    val_iteration: int = flag(
        500, "Steps in an epoch. Each epoch ends with an evaluation and one row.", flags=["val-iteration"]
    )
    lr: float = flag(0.002, "Learning rate of Adam.", flags=["learning-rate"])
    ema_decay: float = flag(0.999, "Decay of the averaged weights that are evaluated.", flags=["ema-decay"])
    alerts: bool = flag(
        True,
        "Warn when pseudo-labels collapse, a class dies, or the refinement or the loss fails.",
        kind="incidental",
    )
    nan: str = flag(
        "stop",
        "What a loss or weight that is not finite does. stop: end with exit code 3 and keep the checkpoint before. "
        "continue: train on.",
        choices=NAN_CHOICES,
        kind="incidental",
    )
    stop_on_collapse: bool = flag(
        False,
        "Stop with exit code 3 when pseudo-labels collapse.",
        kind="incidental",
    )

    out: str = folder_flag(
        "result",
        "Folder of the runs. Each run has its own folder in it.",
        differs="the run's folder is named after its settings and is never overwritten",
    )
    run_name: str = folder_flag("", "Name of the run's folder. Empty: made from the settings.")
    resume: str = folder_flag(
        "",
        "Continue from this checkpoint.pt. auto: from the run's own checkpoint, if it has one. "
        "wandb:ENTITY/PROJECT/NAME:ALIAS: from an artifact (train_with_wandb.py).",
        differs="everything is restored: pseudo-labels, random states, the last 20 epochs",
    )
    checkpoint_every_s: float = folder_flag(
        300.0,
        "Seconds from one checkpoint to the next within an epoch; longer where saving would take more than 1 % of the "
        "time. Each epoch ends with one in any case.",
    )
    overwrite: bool = folder_flag(False, "Start again in a folder that holds a run. The old folder is kept.")
    dry_run: bool = folder_flag(
        False, "Print the resolved configuration and the logged keys, then stop.", flags=["dry-run"]
    )

    def __post_init__(self) -> None:
        _resolve_augment(self)
        _validate(self)

    @property
    def refines(self) -> bool:
        """Whether anything moves the pseudo-labels."""
        return self.refine != "none"

    @property
    def unlabeled_weight(self) -> float:
        """`lambda_u`, or the method's own."""
        return self.lambda_u if self.lambda_u is not None else 1.5 if self.semi_method == "remix" else 75.0


@dataclass(frozen=True)
class EstimateConfig(DataConfig):
    """An estimation of the unlabeled class distribution: a supervised training with the published recipe."""

    epochs: int = flag(200, "Number of epochs.", flags=["epoch"])
    val_iteration: int = flag(
        200,
        "Steps in an epoch, as many as the published experiments ask for.",
        flags=["val-iteration"],
        differs="80 where none is given",
    )
    batch_size: int = flag(128, "Labeled images in a step.", flags=["batch-size"])
    lr: float = flag(
        0.1,
        "Learning rate of SGD. It falls to a tenth after 80 % and again after 90 % of the epochs.",
        flags=["learning-rate"],
    )
    wd: float = flag(5e-4, "Weight decay of SGD.", flags=["weight-decay"])
    alpha: float = flag(0.0, "Both parameters of mixup's Beta distribution. 0: no mixup.")
    ema_decay: float = flag(
        0.0, "Decay of averaged weights that predict. 0: the trained weights predict.", flags=["ema-decay"]
    )
    start_epoch: int = flag(
        0,
        "Only 0: an estimation is trained whole.",
        flags=["start-epoch"],
        kind="incidental",
        differs="another value is refused",
    )
    resume: str = folder_flag(
        "", "Only empty: an estimation is trained whole.", differs="a checkpoint is refused"
    )
    overwrite: bool = folder_flag(False, "Estimate again although a cached estimate is there.")
    estimation_dir: str = folder_flag("estimation", "Folder of the cached estimates.", flags=["out"])

    def __post_init__(self) -> None:
        _resolve_augment(self)
        _validate_data(self)
        _require_at_least(self, 1, "epochs", "val_iteration")
        _require_positive(self, "lr")
        _require_at_least(self, 0, "wd", "alpha")
        _require_decay(self.ema_decay)
        whole = "an estimation takes minutes and is trained whole; leave it out, and find the result in --out"
        if self.start_epoch:
            raise ConfigError(f"--start-epoch {self.start_epoch}: {whole}")
        if self.resume:
            raise ConfigError(f"--resume {self.resume}: {whole}")


@dataclass(frozen=True)
class WandbOptions:
    """Flags of train_with_wandb.py beside those of a run. The environment's WANDB_* variables win over them."""

    wandb_mode: str = wandb_flag(
        "auto",
        "auto: what `wandb offline` or `wandb disabled` said here, else online with a stored key, else offline.",
        choices=WANDB_MODES,
    )
    wandb_project: str = wandb_flag(
        "", "W&B project. Empty: WANDB_PROJECT, else that of `wandb init`, else darp."
    )
    wandb_entity: str = wandb_flag(
        "", "W&B user or team. Empty: WANDB_ENTITY, else that of `wandb init`, else the account's own."
    )
    wandb_group: str = wandb_flag(
        "", "W&B group. Empty: the regime (data set, ratio, num_max and imbalance)."
    )
    wandb_tags: str = wandb_flag(
        "", "Tags, separated by commas, in addition to data set, method and refinement."
    )
    wandb_machine_info: bool = wandb_flag(
        True, "false: keep host name, paths, hardware, git data and console output on this machine."
    )
    wandb_artifacts: bool = wandb_flag(
        False,
        "Upload the best and the last checkpoint (about 25 MB each with wrn28_2 on CIFAR-10) and the pseudo-labels "
        "(8 bytes x images x classes: 4 MB there, 36 MB on CIFAR-100) when the run ends.",
    )
    wandb_charts: bool = wandb_flag(
        False,
        "Draw the custom charts on each run's own page. Run `python -m tracking.workspace` once before.",
    )
    wandb_table_every: int = wandb_flag(
        20, "Send the table that the custom charts draw every so many epochs. 0: at the end only."
    )

    def __post_init__(self) -> None:
        _require_choices(self)
        _require_at_least(self, 0, "wandb_table_every")


def _resolve_augment(config: DataConfig) -> None:
    """`auto` becomes what it stands for: that is what is logged, and both spellings are one run."""
    if config.augment == "auto":
        object.__setattr__(config, "augment", "published" if config.dataset in PUBLISHED_ON else "fixmatch")


def _require_choices(options: DataConfig | WandbOptions) -> None:
    for spec in dataclasses.fields(options):
        value, choices = getattr(options, spec.name), spec.metadata["choices"]
        if choices and value not in choices:
            raise ConfigError(f"--{spec.name} {value}: use one of {', '.join(choices)}")


def _require_at_least(config: DataConfig | WandbOptions, least: float, *names: str) -> None:
    for name in names:
        if getattr(config, name) < least:
            raise ConfigError(f"--{name} {getattr(config, name)}: use {least:g} or more")


def _require_positive(config: DataConfig, *names: str) -> None:
    for name in names:
        if getattr(config, name) <= 0:
            raise ConfigError(f"--{name} {getattr(config, name)}: use a number above 0")


def _require_decay(ema_decay: float) -> None:
    if not 0 <= ema_decay < 1:
        raise ConfigError(f"--ema-decay {ema_decay}: use a value in [0, 1)")


def _validate_data(config: DataConfig) -> None:
    _require_choices(config)
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"--{name} {value}: use a finite number")
    _require_at_least(config, 0, "seed")
    _require_at_least(config, 1, "num_max", "batch_size", "imb_ratio_l", "imb_ratio_u", "num_val", "th_cond")
    _require_positive(config, "ratio")
    if config.shuffle_split not in ("", "seed") and not config.shuffle_split.isdecimal():
        raise ConfigError(
            f"--shuffle_split {config.shuffle_split}: use a whole number, or seed for the value of --seed"
        )
    if config.gpu not in ("", "cpu") and not config.gpu.isdecimal():
        raise ConfigError(f"--gpu {config.gpu}: use the number of one GPU, or cpu")


def _validate(config: Config) -> None:
    _validate_data(config)
    _require_at_least(config, -1, "warm")
    _require_at_least(config, 0, "start_epoch", "unlabeled_weight", "w_rot", "w_ent")
    _require_at_least(
        config, 1, "num_iter", "iter_T", "epochs", "val_iteration", "est_epochs", "est_val_iteration"
    )
    _require_positive(config, "alpha", "T", "lr", "mix_alpha")
    _validate_loader(config)
    if not 0 < config.tau <= 1:
        raise ConfigError(f"--tau {config.tau}: the threshold is a probability; use a value in (0, 1]")
    _require_decay(config.ema_decay)
    if config.start_epoch >= config.epochs:
        raise ConfigError(
            f"--start-epoch {config.start_epoch}: epochs 0 to {config.epochs - 1} are to be trained; use one of them"
        )
    if "/" in config.run_name or config.run_name in (".", ".."):
        raise ConfigError(
            f"--run_name {config.run_name}: a folder's name, not a path; use --out for the folder above it"
        )


def _validate_loader(config: Config) -> None:
    if config.loader == "published" and config.augment != "published":
        raise ConfigError("--loader published: it makes the published views only; add --augment published")
    if config.randaugment == "package" and config.loader != "published":
        raise ConfigError(
            "--randaugment package: it augments one image at a time; add --loader published, or leave it out"
        )
    if config.randaugment == "package" and find_spec("randaugment") is None:
        raise ConfigError(
            "--randaugment package: PyPI's randaugment is not installed; run make setup, or pip install randaugment"
        )
