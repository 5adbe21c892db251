"""The configuration of a run: one frozen dataclass, validated once. Each field is also a flag and a preset's key.

Names and defaults of the first public implementation of DARP ("the original") stay as they are, `-` and `_` included.
What kind a field is stands on the field itself (`kind`): run names, digests, the checks of a resume and the groups of
the report all derive from it.

Names that a flag takes stand here and not with what they name: flags are read before torch is imported.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

from semi.names import DATASETS, METHODS, REFINERIES
from tracking.row import FEW_CLASSES, is_among_few, is_known

WANDB_MODES = ("auto", "online", "offline", "disabled")
WANDB_PER_CLASS = ("few", "all")
WANDB_SUMMARIES = ("min", "max", "mean", "last", "first", "none")  # what `define_metric(summary=...)` takes
REGIMES = ("none", "few", "many")  # each but none has a preset configs/<dataset>_regime_<regime>.yaml
AUGMENTATIONS = ("auto", "published", "fixmatch")
PUBLISHED_ON = ("cifar10", "cifar100", "stl10")  # the paper's data sets: --augment auto is published there
LOADERS = ("device", "published")
PLACEMENTS = ("device", "host")  # those of data.loader, which takes torch and a second to import
RANDAUGMENTS = ("published", "package")
NAN_CHOICES = ("stop", "continue")
AMP_CHOICES = ("auto", "bf16", "off")
GRAPH_CHOICES = ("auto", "off")
ONLINE = "online"  # --est online: the estimate is made during the training
SOLVERS = ("exact", "reference")
TABLE_REFINEMENTS = ("darp", "align", "sinkhorn")  # of the whole table, every --num_iter steps after --warm
OWN_DATASETS = ("folder", "npz")  # images of one's own, whose place is a part of what the run is
ARCHS = ("wrn28_2", "small")  # each has a backbone in models/__init__.py

# What a field does to a run. shaping: another value is another run. refinement: the same, but only where the
# pseudo-labels are refined; a raw run and its refined counterpart may differ in it. length: the same run goes on for
# longer, in its own folder; reports tell a short one from a long one. incidental: the run computes the same whatever
# the value is.
Kind = Literal["shaping", "refinement", "length", "incidental"]


ABOVE_ZERO = sys.float_info.min
MANY = 10**7  # more epochs, steps or images than anybody waits for
LARGEST_BATCH = 1 << 16
LARGEST_SEED = 2**63 - 1  # what torch's generators take
LONGEST_TEXT, LONGEST_NAME = (
    4000,
    200,
)  # of a path, of one name in it; a file system's limits are 4095 and 255


USER_ERROR = 2  # exit code of a mistake in the command


class ConfigError(ValueError):
    """A value that cannot work. The message is one line and names field, value and remedy."""


def flag(
    default: Any,
    help: str,
    *,
    flags: Sequence[str] = (),
    choices: Collection[str] = (),
    differs: str = "",
    group: str = "training",
    kind: Kind = "shaping",
    switch: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """A dataclass field that is also a flag.

    Args:
        flags: spellings other than the field's own name.
        differs: where a flag of the original does something else here on purpose.
        group: heading of --help under which the flag stands.
        kind: what another value does to a run.
        switch: one of `choices` for which there is a flag of its own: `--darp` is short for `--refine darp`.
        minimum, maximum: least and largest number; ABOVE_ZERO as minimum is any number above 0.
    """
    metadata = {
        "help": help,
        "flags": tuple(flags),
        "choices": choices,  # itself: names may be added to a table before flags are read
        "differs": differs,
        "group": group,
        "kind": kind,
        "switch": switch,
        "minimum": minimum,
        "maximum": maximum,
    }
    return field(default=default, metadata=metadata)


def fields_of_kind(options: Any, kind: Kind) -> frozenset[str]:
    """Names of the fields of a configuration (class or instance) that are of this kind."""
    return frozenset(spec.name for spec in dataclasses.fields(options) if spec.metadata["kind"] == kind)


def kinds_of(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """Kind -> names of the fields that make the run with these values another than a run by default.

    A run folder keeps it for those who compare runs. A field at its default is left out, as in a run's name: a new
    field parts no run of today from those of before it. So are the parameters of refineries that are not in use.
    """
    kinds: dict[str, list[str]] = {"shaping": [], "refinement": [], "length": []}
    foreign = tuple(f"{name}_" for name in REFINERIES if name != values.get("refine"))
    for spec in sorted(dataclasses.fields(Config), key=lambda spec: spec.name):
        kind, name = spec.metadata["kind"], spec.name
        if kind in kinds and not name.startswith(foreign) and values.get(name, spec.default) != spec.default:
            kinds[kind].append(name)
    return kinds


data_flag = partial(flag, group="data")
method_flag = partial(flag, group="method")
refinement_flag = partial(flag, group="refinement", kind="refinement")
folder_flag = partial(flag, group="run folder", kind="incidental")
processes_flag = partial(flag, group="processes", kind="incidental")
wandb_flag = partial(flag, group="W&B", kind="incidental")


@dataclass(frozen=True)
class DataConfig:
    """Which images, which labels, which network: what training and estimation share."""

    dataset: str = data_flag(
        "cifar10",
        "Data set. digits needs no files. folder: your own images, one folder a class, in --data-dir. npz: your own "
        "arrays, in the file --data-dir.",
        choices=DATASETS,
    )
    plugin: str = data_flag(
        "",
        "Python file of your own that adds a method, a refinery or a data set by name (docs/extending.md).",
        kind="incidental",
    )
    num_max: int = data_flag(1500, "Labeled images of the largest class.", minimum=1, maximum=MANY)
    ratio: float = data_flag(
        2.0,
        "Unlabeled images of the largest class, as a multiple of --num_max.",
        minimum=ABOVE_ZERO,
        maximum=1e6,
    )
    imb_ratio_l: float = data_flag(
        100.0,
        "Largest class over smallest class in the labeled set (gamma_l). 1 is balanced.",
        minimum=1,
        maximum=1e6,
    )
    imb_ratio_u: float = data_flag(100.0, "The same in the unlabeled set (gamma_u).", minimum=1, maximum=1e6)
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
    data_dir: str = data_flag(
        "dataset",
        "Folder of the image files. --dataset folder: with train/ and test/ in it, or the classes' folders alone. "
        "--dataset npz: the file.",
        flags=["data-dir"],
        kind="incidental",
    )
    unlabeled_dir: str = data_flag(
        "",
        "Own images without labels: a folder, read at any depth. --ratio has no meaning then.",
        flags=["unlabeled-dir"],
    )
    image_size: int = data_flag(
        32, "Side of your own images in pixels, after resizing.", minimum=8, maximum=512
    )
    test_share: float = data_flag(
        0.2,
        "Share of each class of your own images that is held out, where there is no test set.",
        minimum=0.01,
        maximum=0.9,
    )
    flip: bool = data_flag(True, "Whether a mirrored one of your own images is still of its class.")
    skip_broken: bool = data_flag(
        False,
        "Leave out images of your own that cannot be read, and say how many, in place of refusing all.",
        kind="incidental",
    )

    arch: str = flag("wrn28_2", "Network. small is for runs on a CPU.", choices=ARCHS)
    batch_size: int = flag(
        64,
        "Labeled images in a step, and as many unlabeled ones.",
        flags=["batch-size"],
        minimum=1,
        maximum=LARGEST_BATCH,
    )
    seed: int = flag(
        0,
        "Seed of everything random.",
        flags=["manualSeed"],
        differs="it seeded the order of the data alone",
        minimum=0,
        maximum=LARGEST_SEED,
    )
    gpu: str = flag(
        "0",
        "Number of the GPU among the visible ones. cpu: use none.",
        kind="incidental",
        differs="falls back to the CPU with a warning if that GPU is missing; CUDA_VISIBLE_DEVICES is not changed",
    )

    num_val: int = refinement_flag(
        10,
        "Estimation: labeled images of each class to hold out (half of a class that has fewer).",
        minimum=1,
        maximum=MANY,
    )
    th_cond: float = refinement_flag(
        100.0,
        "Estimation: reject a confusion matrix whose condition number reaches this.",
        minimum=1,
        maximum=1e12,
    )
    estimation_dir: str = refinement_flag(
        "estimation", "Estimation: folder of the cached estimates.", kind="incidental"
    )
    nproc: int = processes_flag(
        1,
        "Processes that work together on this host, each on a GPU of its own or on the CPU; --batch_size is shared "
        "between them. The same as torchrun --standalone --nproc-per-node. With torchrun leave it out.",
        minimum=1,
        maximum=1024,
    )
    dist_timeout_s: float = processes_flag(
        600.0,
        "Several processes: seconds that one waits for another before the run ends and names the one that is missing.",
        minimum=1,
        maximum=1e6,
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

    regime: str = data_flag(
        "none",
        "Few labels or many: short for --config configs/<dataset>_regime_<regime>.yaml. A sweep over it is readable.",
        choices=REGIMES,
        kind="incidental",
    )
    semi_method: str = method_flag("mix", "Semi-supervised method.", choices=METHODS)
    tau: float = method_flag(0.95, "FixMatch: smallest refined confidence at which a pseudo-label counts.")
    lambda_u: float | None = method_flag(
        None,
        "Weight of the unlabeled loss of mix and remix. None: 75 with mix, 1.5 with remix.",
        flags=["lambda-u"],
        differs="a value that is given holds with remix too",
        minimum=0,
        maximum=1e6,
    )
    mix_alpha: float = method_flag(
        0.75, "Both parameters of mixup's Beta distribution.", minimum=0.001, maximum=1e3
    )
    T: float = method_flag(
        0.5, "Sharpening temperature of MixMatch and ReMixMatch.", minimum=0.05, maximum=100
    )
    align: bool = method_flag(False, "ReMixMatch: align the guesses with the target class distribution.")
    w_rot: float = method_flag(0.5, "ReMixMatch: weight of the rotation loss.", minimum=0, maximum=1e6)
    w_ent: float = method_flag(
        0.5, "ReMixMatch: weight of the loss on the first strong view.", minimum=0, maximum=1e6
    )

    refine: str = refinement_flag(
        "none",
        "How to repair the pseudo-labels. Towards the target class distribution, the whole table at a time: darp: the "
        "convex problem. align: one rescaling. sinkhorn: entropic transport. Batch by batch, from the first step on: "
        "la: logit adjustment. debias: DebiasPL. pda: progressive alignment to the target (CReST+). flexda: FlexDA "
        "(ADELLO). simpro: SimPro. cdmad: CDMAD, which also shifts the test logits.",
        choices=REFINERIES,
        switch="darp",
    )
    warm: int = refinement_flag(
        500,
        "darp, align, sinkhorn: refine after this epoch. Epochs count from 0. -1: from the first epoch on.",
        minimum=-1,
        maximum=MANY,
    )
    alpha: float = refinement_flag(
        2.0,
        "Keep the int(alpha * target count) most confident entries of each class (the paper's delta).",
        minimum=ABOVE_ZERO,
        maximum=1e6,
    )
    num_iter: int = refinement_flag(10, "Steps from one refinement to the next.", minimum=1, maximum=MANY)
    iter_T: int = refinement_flag(
        10,
        "Rounds of the published scheme.",
        differs="only --solver reference uses it; the exact solver stops when it has converged",
        minimum=1,
        maximum=MANY,
    )
    solver: str = refinement_flag(
        "exact",
        "exact: Newton's method on the dual. reference: the published coordinate scheme.",
        choices=SOLVERS,
    )
    la_tau: float = refinement_flag(1.0, "la: strength of the adjustment.", minimum=0, maximum=100)
    debias_tau: float = refinement_flag(0.4, "debias: strength of the correction.", minimum=0, maximum=100)
    debias_momentum: float = refinement_flag(
        0.999, "debias: momentum of the guesses' running mean.", minimum=0, maximum=1
    )
    pda_stages: int = refinement_flag(
        6, "pda: equal stages of the training, each with a flatter target.", minimum=1, maximum=MANY
    )
    pda_last: float = refinement_flag(
        0.5, "pda: power of the target in the last stage; it is 1 in the first.", minimum=0, maximum=1
    )
    pda_momentum: float = refinement_flag(
        0.999, "pda: momentum of the guesses' running mean.", minimum=0, maximum=1
    )
    flexda_alpha_min: float = refinement_flag(
        0.1, "flexda: power of the prior at the end; it is 1 at the start.", minimum=0, maximum=1
    )
    flexda_exponent: float = refinement_flag(
        2.0, "flexda: how late the power falls.", minimum=ABOVE_ZERO, maximum=100
    )
    flexda_momentum: float = refinement_flag(
        0.999, "flexda: momentum of the guesses' running mean.", minimum=0, maximum=1
    )
    simpro_tau: float | None = refinement_flag(
        None,
        "simpro: power of the estimated priors. None: 2 on cifar10 and stl10, as published, else 1.",
        minimum=0,
        maximum=100,
    )
    simpro_threshold: float | None = refinement_flag(
        None,
        "simpro: least confidence of a target that counts, in place of --tau. None: 0.95, and 0.2 on cifar100.",
        minimum=0,
        maximum=1,
    )
    simpro_every: int = refinement_flag(
        500, "simpro: steps from one estimate of the priors to the next.", minimum=1, maximum=MANY
    )
    simpro_momentum: float = refinement_flag(0.9, "simpro: momentum of the estimates.", minimum=0, maximum=1)
    cdmad_start: float = refinement_flag(
        0.2,
        "cdmad: share of the training that is done when it begins to correct targets.",
        minimum=0,
        maximum=1,
    )
    cdmad_value: float = refinement_flag(
        1.0,
        "cdmad: value of the constant image, normalised as the images are. The published 1 is bright; black is -0.66 "
        "on fashion_mnist.",
        minimum=-100,
        maximum=100,
    )
    est: bool = refinement_flag(
        False,
        "Use the estimated unlabeled class distribution as the target, not the labeled one. "
        "A missing estimate is made first. --est online: darp, align and sinkhorn follow an estimate that is made "
        "during the training.",
        differs="works for every data set and setting; it read four fixed files",
    )
    est_from: str = refinement_flag(
        "",
        "Where the estimate comes from, if it is not made here: a W&B artifact, a .npy file of K numbers, or a file of "
        "estimate.py. Short forms: --est wandb:ENTITY/PROJECT/NAME:ALIAS, --est FILE.npy, --est FILE.json",
    )
    est_momentum: float = refinement_flag(
        0.9, "--est online: momentum of the estimate, from one refinement to the next.", minimum=0, maximum=1
    )
    est_shrink: float = refinement_flag(
        0.2, "--est online: how far the estimate is drawn to equal shares.", minimum=0, maximum=1
    )
    est_epochs: int = refinement_flag(200, "Epochs of that estimation.", minimum=1, maximum=MANY)
    est_val_iteration: int = refinement_flag(
        200, "Steps in an epoch of that estimation.", minimum=1, maximum=MANY
    )

    loader: str = data_flag(
        "device",
        "device: make batches where the images are. published: the slow pipeline behind a large data_time (Pillow "
        "images, two DataLoaders with 4 workers, restarted when exhausted); it needs --augment published.",
        choices=LOADERS,
    )
    data_placement: str = data_flag(
        "device",
        "Where the images are kept. device: on the GPU, which is fastest. host: in main memory, from where each batch "
        "is sent one step ahead; for sets that the GPU has no room for. The batches are the same.",
        choices=PLACEMENTS,
        kind="incidental",
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
        minimum=1,
        maximum=MANY,
    )
    start_epoch: int = flag(
        0,
        "Number of the first epoch when nothing is resumed.",
        flags=["start-epoch"],
        differs="a resumed run continues at its own epoch",
        minimum=0,
        maximum=MANY,
    )
    val_iteration: int = flag(
        500,
        "Steps in an epoch. Each epoch ends with an evaluation and one row.",
        flags=["val-iteration"],
        minimum=1,
        maximum=MANY,
    )
    lr: float = flag(
        0.002, "Learning rate of Adam.", flags=["learning-rate"], minimum=ABOVE_ZERO, maximum=1e3
    )
    ema_decay: float = flag(0.999, "Decay of the averaged weights that are evaluated.", flags=["ema-decay"])
    amp: str = flag(
        "auto",
        "Arithmetic of the network. bf16: bfloat16 where that is safe; weights, losses, pseudo-labels and the solver "
        "stay float32. off: float32. auto: bf16 on a GPU that has it, else off.",
        choices=AMP_CHOICES,
    )
    deterministic: bool = flag(
        False,
        "On a GPU: only algorithms that give the same bits each time, which costs time. A CPU always does.",
        kind="incidental",
    )
    graph: str = flag(
        "auto",
        "On a GPU, auto: record the step as CUDA graphs, compare them with its operations one by one, and replay them. "
        "off: launch the operations one by one.",
        choices=GRAPH_CHOICES,
        kind="incidental",
    )
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
        minimum=0,
        maximum=1e9,
    )
    overwrite: bool = folder_flag(False, "Start again in a folder that holds a run. The old folder is kept.")
    profile: bool = folder_flag(
        False,
        "Write into the run's folder where an epoch's time goes (profile.md, a page) and a trace of a few steps "
        "(trace.json.gz).",
    )
    sync_bn: bool = processes_flag(
        False,
        "Several processes on GPUs: batch norm over the whole batch, not over each process's share of it.",
        kind="shaping",
    )
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
    def refined_from(self) -> int:
        """The first epoch with refinement. Without a refinement it is no restriction: 0."""
        return self.warm + 1 if self.refine in TABLE_REFINEMENTS else 0

    @property
    def refinery_parameters(self) -> dict[str, Any]:
        """The flags REFINE_PARAMETER, by PARAMETER; those that are None stay as published."""
        own = f"{self.refine}_"
        given = {name.removeprefix(own): value for name, value in vars(self).items() if name.startswith(own)}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def unlabeled_weight(self) -> float:
        """`lambda_u`, or the method's own."""
        return self.lambda_u if self.lambda_u is not None else 1.5 if self.semi_method == "remix" else 75.0


@dataclass(frozen=True)
class EstimateConfig(DataConfig):
    """An estimation of the unlabeled class distribution: a supervised training with the published recipe."""

    epochs: int = flag(200, "Number of epochs.", flags=["epoch"], minimum=1, maximum=MANY)
    val_iteration: int = flag(
        200,
        "Steps in an epoch, as many as the published experiments ask for.",
        flags=["val-iteration"],
        differs="80 where none is given",
        minimum=1,
        maximum=MANY,
    )
    batch_size: int = flag(
        128, "Labeled images in a step.", flags=["batch-size"], minimum=1, maximum=LARGEST_BATCH
    )
    lr: float = flag(
        0.1,
        "Learning rate of SGD. It falls to a tenth after 80 % and again after 90 % of the epochs.",
        flags=["learning-rate"],
        minimum=ABOVE_ZERO,
        maximum=1e3,
    )
    wd: float = flag(5e-4, "Weight decay of SGD.", flags=["weight-decay"], minimum=0, maximum=1e3)
    alpha: float = flag(
        0.0, "Both parameters of mixup's Beta distribution. 0: no mixup.", minimum=0, maximum=1e3
    )
    ema_decay: float = flag(
        0.0, "Decay of averaged weights that predict. 0: the trained weights predict.", flags=["ema-decay"]
    )
    start_epoch: int = flag(
        0,
        "Only 0: an estimation that was interrupted knows its epoch.",
        flags=["start-epoch"],
        kind="incidental",
        differs="another value is refused",
    )
    resume: str = folder_flag(
        "",
        "Empty or auto: an estimation that was interrupted goes on by itself, unless --overwrite is given.",
        differs="a checkpoint is refused",
    )
    overwrite: bool = folder_flag(False, "Estimate again although a cached estimate is there.")
    estimation_dir: str = folder_flag("estimation", "Folder of the cached estimates.", flags=["out"])

    def __post_init__(self) -> None:
        _resolve_augment(self)
        _validate_data(self)
        _require_decay(self.ema_decay)
        by_itself = (
            "an estimation that was interrupted goes on by itself from what it left in --out; leave it out"
        )
        if self.start_epoch:
            raise ConfigError(f"--start-epoch {self.start_epoch}: {by_itself}")
        if self.resume not in ("", "auto"):
            raise ConfigError(f"--resume {shown(self.resume)}: {by_itself}")


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
    wandb_notes: str = wandb_flag("", "Notes on the run, as WANDB_NOTES.")
    wandb_summary: str = wandb_flag(
        "",
        "What W&B keeps of a key in a run's summary, in place of the last value, such as test/bacc=max,loss/total=min: "
        f"one of {', '.join(WANDB_SUMMARIES)}. A sweep cannot use such a key as its metric.",
    )
    wandb_code: bool = wandb_flag(
        False, "Save this project's code as an artifact of the run, with changes that are not committed."
    )
    wandb_machine_info: bool = wandb_flag(
        True, "false: keep host name, paths, hardware, git data and console output on this machine."
    )
    wandb_per_class: str = wandb_flag(
        "few",
        "Keys that W&B gets; it opens a panel for each. few: what runs are compared by, and with up to 10 classes the "
        "shares of each class in the pseudo-labels and its recall. all: the whole row of metrics.jsonl, also each "
        "class's precision, recall and hard shares, and for any number of classes.",
        choices=WANDB_PER_CLASS,
    )
    wandb_media: bool = wandb_flag(
        True,
        "Confusion matrices, a table of 128 pseudo-labels with their images, a grid of views: at most 0.5 MB (0.9 MB "
        "with 100 classes) each time that the table is sent. false: none of it.",
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
        20,
        "Send the table that the custom charts draw, and the pictures, every so many epochs. 0: at the end only.",
        minimum=0,
        maximum=MANY,
    )

    def __post_init__(self) -> None:
        require_sound(self)
        _ = self.summaries

    @property
    def summaries(self) -> dict[str, str]:
        """Key of a row -> what its summary is, of `wandb_summary`."""
        pairs = [part.partition("=") for part in self.wandb_summary.split(",") if part]
        for key, _, kind in pairs:
            if not is_known(key) or key == "epoch":
                raise ConfigError(
                    f"--wandb_summary {shown(key)}: no metric of a run; python3 train.py --dry-run lists them"
                )
            if self.wandb_per_class != "all" and not is_among_few(key, FEW_CLASSES):
                raise ConfigError(f"--wandb_summary {key}: W&B does not get it; add --wandb_per_class all")
            if kind not in WANDB_SUMMARIES:
                raise ConfigError(
                    f"--wandb_summary {key}={shown(kind)}: use one of {', '.join(WANDB_SUMMARIES)}"
                )
        return {key: kind for key, _, kind in pairs}


def _resolve_augment(config: DataConfig) -> None:
    """`auto` becomes what it stands for: that is what is logged, and both spellings are one run."""
    if config.augment == "auto":
        object.__setattr__(config, "augment", "published" if config.dataset in PUBLISHED_ON else "fixmatch")


def shown(value: object) -> str:
    """A value in a message: on one line, not longer than one, with its end (of a path, the name of the file)."""
    text = str(value)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 80 else f"{text[:32]}...{text[-45:]}"


def require_sound(options: Any) -> None:
    """Check each field of a dataclass of flags by what stands on it: text, choices, bounds.

    Raises ConfigError, one line with field, value and remedy.
    """
    for spec in dataclasses.fields(options):
        value, choices = getattr(options, spec.name), spec.metadata["choices"]
        if isinstance(value, str):
            require_text(spec.name, value, is_path=spec.metadata["group"] != "W&B")
        if choices and value not in choices:
            raise ConfigError(f"--{spec.name} {shown(value)}: use one of {', '.join(choices)}")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            _require_within(spec.name, value, spec.metadata["minimum"], spec.metadata["maximum"])


def require_text(name: str, value: str, is_path: bool) -> None:
    """ConfigError unless it is printable and short enough for a path, or for a name."""
    if not value.isprintable():
        raise ConfigError(f"--{name} {shown(value)}: use printable characters in UTF-8")
    longest = max(len(part.encode()) for part in value.split("/"))
    if len(value) > LONGEST_TEXT or (is_path and longest > LONGEST_NAME):
        raise ConfigError(
            f"--{name} {shown(value)}: too long; use at most {LONGEST_NAME} characters between two slashes"
        )


def _require_within(name: str, value: float, minimum: float | None, maximum: float | None) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"--{name} {value}: use a finite number")
    if minimum is not None and value < minimum:
        least = "a number above 0" if minimum == ABOVE_ZERO else f"{minimum:g} or more"
        raise ConfigError(f"--{name} {shown(value)}: use {least}")
    if maximum is not None and value > maximum:
        raise ConfigError(f"--{name} {shown(value)}: use {maximum:.15g} or less")


def _require_decay(ema_decay: float) -> None:
    if not 0 <= ema_decay < 1:
        raise ConfigError(f"--ema-decay {ema_decay}: use a value in [0, 1)")


def require_gpu(gpu: str) -> None:
    """ConfigError unless it is the number of a GPU, `cpu`, or empty."""
    if gpu not in ("", "cpu") and not (gpu.isdecimal() and len(gpu) <= 4):
        raise ConfigError(f"--gpu {shown(gpu)}: use the number of one GPU, or cpu")


def require_divisible(batch_size: int, processes: int) -> None:
    """ConfigError unless the processes can share the batch."""
    if batch_size % processes:
        below = batch_size // processes * processes
        near = f"{below} or {below + processes}" if below else f"{processes}"
        raise ConfigError(
            f"--batch_size {batch_size}: {processes} processes cannot share it evenly; use a multiple of {processes}, "
            f"such as {near}"
        )


def _validate_data(config: DataConfig) -> None:
    require_sound(config)
    seed = config.shuffle_split
    if seed not in ("", "seed") and not (seed.isdecimal() and len(seed) <= 20 and int(seed) <= LARGEST_SEED):
        raise ConfigError(
            f"--shuffle_split {shown(seed)}: use a whole number, or seed for the value of --seed"
        )
    require_gpu(config.gpu)
    if config.dataset not in OWN_DATASETS:
        for name in ("unlabeled_dir", "image_size", "test_share", "flip", "skip_broken"):
            if getattr(config, name) != type(config).__dataclass_fields__[name].default:
                raise ConfigError(
                    f"--{name}: it is for images of your own; add --dataset folder or --dataset npz"
                )


def _validate(config: Config) -> None:
    _validate_data(config)
    _validate_loader(config)
    if not 0 < config.tau <= 1:
        raise ConfigError(f"--tau {config.tau}: the threshold is a probability; use a value in (0, 1]")
    _require_decay(config.ema_decay)
    require_divisible(config.batch_size, config.nproc)
    if config.est_from == ONLINE:
        _validate_online(config)
    if config.start_epoch >= config.epochs:
        raise ConfigError(
            f"--start-epoch {config.start_epoch}: epochs 0 to {config.epochs - 1} are to be trained; use one of them"
        )
    if "/" in config.run_name or config.run_name in (".", ".."):
        raise ConfigError(
            f"--run_name {config.run_name}: a folder's name, not a path; use --out for the folder above it"
        )


def _validate_online(config: Config) -> None:
    instead = "use --est, or name an estimate (--est FILE)"
    if config.refines and config.refine not in TABLE_REFINEMENTS:
        raise ConfigError(
            f"--est online: {', '.join(TABLE_REFINEMENTS)} follow it, --refine {config.refine} does not; {instead}"
        )
    if config.align:
        raise ConfigError(f"--est online: --align needs a target before the training begins; {instead}")


def _validate_loader(config: Config) -> None:
    if config.loader == "published" and config.augment != "published":
        raise ConfigError("--loader published: it makes the published views only; add --augment published")
    if config.loader == "published" and config.data_placement == "host":
        raise ConfigError(
            "--data_placement host: so does --loader published in any case; leave one of them out"
        )
    if config.randaugment == "package" and config.loader != "published":
        raise ConfigError(
            "--randaugment package: it augments one image at a time; add --loader published, or leave it out"
        )
    if config.randaugment == "package" and find_spec("randaugment") is None:
        raise ConfigError(
            "--randaugment package: PyPI's randaugment is not installed; run make setup, or pip install randaugment"
        )
