"""A configuration made real: data, network, tables, and the state that a checkpoint keeps."""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from darp import (
    NoRefiner,
    PseudoLabelStore,
    Refiner,
    align,
    denoised,
    solve,
    solve_reference,
    solve_sinkhorn,
)
from darp.online_estimate import OnlineEstimate
from darp.refineries.base import NO_SHIFT, Refinery, Setting
from data import BatchSource, Dataset, Loader, PublishedLoader, Split, normalize
from models import Classifier, build_model
from semi.adam import Adam
from semi.config import ONLINE, Config, ConfigError, kinds_of
from semi.device import about_bf16, computes_in_bf16
from semi.distributed import Ranks, block
from semi.ema import Ema
from semi.estimation import estimate_source
from semi.graph import Halves
from semi.learner import Learner
from semi.methods import Method, about_method, method_class
from semi.names import REFINERIES, found
from semi.split import dataset_for, split_for
from tracking.row import ROW

WINDOW = 20  # epochs in the mean that the paper reports
PUBLISHED_WARM_SHARE = 0.4  # the published experiments refine from epoch 200 of 500 on


@dataclass
class Job:
    """Everything that training touches, on one device: this process's part where there are several."""

    config: Config
    device: torch.device
    ranks: Ranks
    dataset: Dataset
    split: Split
    loader: BatchSource
    model: Classifier
    learner: nn.Module  # `Learner` of method and model; gradients of its losses are those of the whole batch
    statistics: list[
        Tensor
    ]  # the float buffers of the model, batch norm's, which each process has from its own share
    ema: Ema
    optimizer: torch.optim.Optimizer
    method: Method
    store: PseudoLabelStore  # of this process's rows
    refiner: Refinery
    target_counts: list[float]  # [K], sums to the unlabeled images of all processes
    true_labels: Tensor | None  # int64 [rows], None where one is unknown; for diagnosis, never for a loss
    test_images: Tensor  # float32 [M, 3, 32, 32], normalised; this process's share
    test_labels: Tensor  # int64 [M]
    recent: deque[tuple[float, float]]  # bacc and gm of the last WINDOW epochs
    best_bacc: float = 0.0
    recorded: Halves | None = None  # what a step runs on a GPU in place of its operations one by one
    confusions: dict[str, Tensor] = field(default_factory=dict)
    """Counts [K, K] of the last evaluation by what is compared with the truth: test, orig, refined."""


def build_job(
    config: Config,
    device: torch.device,
    estimated_dist: Sequence[float] | None = None,
    dataset: Dataset | None = None,
    ranks: Ranks | None = None,
) -> Job:
    """Seeds, then builds. Writes nothing but what a download stores under `data_dir`, and communicates nothing.

    estimated_dist: class distribution [K] of the unlabeled images (`--est`). It is the target of the refinement and of
    ReMixMatch's alignment. Without it the target is the distribution of the labeled images.
    dataset: what stands in for the images, in a dry run without them.
    ranks: the processes that train together; None: this one alone.

    Raises ConfigError or DataError, one line each, when the configuration and the data do not fit.
    """
    ranks = ranks or Ranks(device)
    torch.manual_seed(config.seed)
    # The published operations come before the resizing, so STL-10's own 96 pixel images are needed for them.
    full_size = config.augment == "published"
    dataset = dataset or dataset_for(config, full_size=full_size)
    kind = method_class(config.semi_method)
    split = split_for(config, dataset, include_labeled=kind.unlabeled_includes_labeled)
    num_classes = len(dataset.class_names)
    model = build_model(config.arch, num_classes, bf16=computes_in_bf16(config.amp, device)).to(device)
    if config.sync_bn:
        require_gpu_for_sync_bn(device)
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    rows = rows_of(ranks, len(split.index_u))
    own_u = split.index_u[rows]
    store = PseudoLabelStore(len(own_u), num_classes, device)
    target_counts = target_for(
        split.counts_x, len(split.index_u), kind.unlabeled_includes_labeled, estimated_dist
    )
    counts = torch.tensor(target_counts, dtype=torch.float64)
    image_size = dataset.test_images.shape[-1]
    method = kind.from_config(config, counts, ranks)
    refiner = build_refiner(config, store, split.counts_x, target_counts, ranks, image_size, method)
    require_shiftable(config, method, refiner)
    method.shift = refiner.loss_shift()
    test = ranks.rows(len(dataset.test_labels))
    torch.manual_seed(
        ranks.seed(config.seed)
    )  # the weights are equal on all processes, what they draw is not
    return Job(
        config=config,
        device=device,
        ranks=ranks,
        dataset=dataset,
        split=split,
        loader=build_loader(config, dataset, split, own_u, method, ranks),
        model=model,
        learner=Learner(method, model),
        statistics=[buffer for buffer in model.buffers() if buffer.is_floating_point()],
        ema=Ema(model, config.ema_decay),
        # What is recorded on a GPU counts its steps there.
        optimizer=Adam(model.parameters(), lr=config.lr, fused=True, capturable=device.type == "cuda"),
        method=method,
        store=store,
        refiner=refiner,
        target_counts=target_counts,
        true_labels=dataset.train_labels[own_u].to(device) if split.counts_u else None,
        test_images=normalize(dataset.test_images[test].to(device), dataset.mean, dataset.std),
        test_labels=dataset.test_labels[test].to(device),
        recent=deque(maxlen=WINDOW),
    )


def rows_of(ranks: Ranks, num_unlabeled: int) -> slice:
    """This process's rows of the unlabeled set. Raises ConfigError where a process would have none."""
    if block(num_unlabeled, ranks.size - 1, ranks.size).start >= num_unlabeled:
        raise ConfigError(
            f"--ratio: {num_unlabeled} unlabeled images are too few for {ranks.size} processes, of which each has rows "
            "of its own; start fewer"
        )
    return ranks.rows(num_unlabeled)


def require_gpu_for_sync_bn(device: torch.device) -> None:
    if device.type != "cuda":
        raise ConfigError("--sync_bn: it needs GPUs, and this run is on the CPU; leave it out")


def build_loader(
    config: Config, dataset: Dataset, split: Split, own_u: Tensor, method: Method, ranks: Ranks
) -> BatchSource:
    """This process's share of each batch: of all labeled images, and of the unlabeled ones that `own_u` [n] lists."""
    full_x = dataset.train_full_size
    shared: dict[str, Any] = {
        "views_x": method.views_x,
        "views_u": method.views_u,
        "batch_size": config.batch_size // ranks.size,
        **recipe(config, dataset),
        "full_x": None if full_x is None else full_x[split.index_x],
        "full_u": dataset.full_size_at(own_u),
        "device": ranks.device,
        "seed": ranks.seed(config.seed),
    }
    images_u = dataset.images_at(own_u)
    sets = (dataset.train_images[split.index_x], dataset.train_labels[split.index_x], images_u)
    if config.loader == "published":
        return PublishedLoader(*sets, randaugment=config.randaugment, **shared)
    return Loader(*sets, augment=config.augment, placement=config.data_placement, **shared)


def recipe(config: Config, dataset: Dataset) -> dict[str, Any]:
    """What the views of the data set's images are made with, as a loader takes it."""
    return {
        "mean": dataset.mean,
        "std": dataset.std,
        "flip": dataset.flip,
        "magnitude": 14 if config.dataset == "cifar100" else 4,  # RandAugment(2, 14) there, (3, 4) elsewhere
        "num_ops": 2 if config.dataset == "cifar100" else 3,
    }


def target_for(
    labeled_counts: Sequence[int],
    num_unlabeled: int,
    holds_labeled: bool,
    estimated_dist: Sequence[float] | None,
) -> list[float]:
    """Counts [K] that sum to `num_unlabeled`: the labeled distribution scaled, or the estimated one.

    The estimate is of the unlabeled images proper. Where the unlabeled set holds the labeled images too
    (`holds_labeled`, FixMatch), these count as they are.
    """
    labeled = torch.tensor(labeled_counts, dtype=torch.float64)
    if estimated_dist is None:
        return (labeled / labeled.sum() * num_unlabeled).tolist()
    if len(estimated_dist) != len(labeled):
        raise ConfigError(
            f"--est: the estimate has {len(estimated_dist)} classes and the data set {len(labeled)}; "
            "use the estimate of this data set"
        )
    known = labeled if holds_labeled else torch.zeros_like(labeled)
    proper = num_unlabeled - float(known.sum())
    return (torch.tensor(estimated_dist, dtype=torch.float64) * proper + known).tolist()


def build_refiner(
    config: Config,
    store: PseudoLabelStore,
    labeled_counts: Sequence[int],
    target_counts: list[float],
    ranks: Ranks,
    image_size: int,
    method: Method,
) -> Refinery:
    if not config.refines:
        return NoRefiner()
    if refinery := found(REFINERIES, config.refine):
        setting = Setting(
            labeled_counts,
            target_counts,
            config.epochs,
            config.val_iteration,
            config.dataset,
            ranks.group,
            image_size,
        )
        made: Refinery = refinery(store, setting, **config.refinery_parameters)
        return made
    if config.solver == "reference" and ranks.size > 1:
        raise ConfigError("--solver reference: it works in one process alone; use --solver exact")
    group = ranks.group
    coarse = config.dataset in ("cifar100", "stl10")  # the published tolerances of the coordinate scheme
    published: Callable[..., Any] = partial(solve_reference, rounds=config.iter_T, tol=0.3 if coarse else 0.1)
    solvers: dict[str, Callable[..., Any]] = {
        "darp": denoised(
            partial(solve, group=group) if config.solver == "exact" else published, config.alpha, group
        ),
        "align": partial(align, group=group),
        "sinkhorn": partial(solve_sinkhorn, group=group),
    }
    return Refiner(
        store,
        target_counts,
        warm=config.warm,
        num_iter=config.num_iter,
        solver=solvers[config.refine],
        group=group,
        estimate=online_estimate(config, store, labeled_counts, method, ranks),
    )


def online_estimate(
    config: Config, store: PseudoLabelStore, labeled_counts: Sequence[int], method: Method, ranks: Ranks
) -> OnlineEstimate | None:
    """What the target follows under `--est online`; None elsewhere."""
    if config.est_from != ONLINE:
        return None
    if not method.thresholded:
        raise ConfigError(
            f"--est online: it counts the pseudo-labels that are learned from, and --semi_method {config.semi_method} "
            "selects none; use fix or pseudo, or an estimate that is made before (--est)"
        )

    def selects(confidence: Tensor, label: Tensor) -> Tensor:
        counted = method.selects(confidence, label)
        return confidence >= config.tau if counted is None else counted

    return OnlineEstimate(
        store,
        labeled_counts,
        selects=selects,
        momentum=config.est_momentum,
        shrink=config.est_shrink,
        group=ranks.group,
    )


def require_shiftable(config: Config, method: Method, refiner: Refinery) -> None:
    """ConfigError where the refinery changes losses and the method does not let it."""
    if refiner.loss_shift() != NO_SHIFT and not method.shifts:
        raise ConfigError(
            f"--refine {config.refine}: {refiner.apart_from_mixtures}, so --semi_method {config.semi_method} does not "
            "let it; use fix, pseudo or sup"
        )


def warnings(job: Job) -> list[str]:
    """What a person should know before hours of training."""
    config, found = job.config, list(job.split.warnings)
    if sentence := about_bf16(config.amp, job.device, config.arch):
        found.append(sentence)
    if config.refines and config.semi_method == "sup" and job.refiner.loss_shift().labeled is None:
        found.append(
            f"--refine {config.refine} changes what is logged, not the training: "
            "--semi_method sup learns from labels alone"
        )
    if job.dataset.skipped:
        found.append(f"{job.dataset.skipped} images cannot be read and are left out (--skip_broken)")
    if isinstance(job.loader, Loader) and job.loader.notice:
        found.append(job.loader.notice)
    if config.loader == "published":
        found.append(
            "--loader published: a resumed run does not go on with the batches of an uninterrupted one; "
            "the device loader does"
        )
    return found


def never_refines(config: Config) -> str:
    """One sentence, with the flag to type, where refinement was asked for and would start after the last epoch."""
    if config.refined_from < config.epochs:
        return ""
    warm = min(int(PUBLISHED_WARM_SHARE * config.epochs), config.epochs - 2)
    return (
        f"--refine {config.refine} has no effect: refinement starts after epoch {config.warm} (--warm {config.warm}) "
        f"and training ends with epoch {config.epochs - 1}. Add --warm {warm} to refine from epoch {warm + 1} on."
    )


def other_schedule(job: Job, state: Mapping[str, Any]) -> str:
    """One sentence where the checkpoint's epochs were weighted for another number of them than --epochs says now."""
    then, now = state["config"]["epochs"], job.config.epochs
    if then == now or not (job.method.weights_follow_epochs or job.refiner.follows_epochs):
        return ""
    if not job.method.weights_follow_epochs:
        return (
            f"--epochs {now}: --refine {job.config.refine} changes with the share of --epochs that is done. The epochs "
            f"so far were of {then}, those from now on are of {now}: a run of {now} epochs from the start would give "
            "other figures"
        )
    return (
        f"--epochs {now}: loss weights of --semi_method {job.config.semi_method} rise with the share of --epochs that "
        f"is done. The epochs so far were weighted for {then}, those from now on are for {now}: a run of {now} epochs "
        "from the start would give other figures"
    )


def about_refinement(name: str) -> dict[str, Any]:
    """What a run's folder says of its refinery, where that has a name of its own."""
    refinery = found(REFINERIES, name)
    return {"refine_label": refinery.label} if refinery else {}


def about_threshold(job: Job) -> dict[str, str]:
    """What a row must reach, where that is the refinery's threshold in place of the method's: its flag, or its name."""
    if job.method.shift.threshold is None:
        return {}
    flag = f"{job.config.refine}_threshold"
    label = found(REFINERIES, job.config.refine).label
    return {"threshold": f"--{flag}" if hasattr(job.config, flag) else f"the threshold of {label}"}


def row_of(job: Job) -> dict[str, str]:
    """Key -> meaning of what the job's epochs log; what the method says of itself stands under its own keys."""
    own = {f"method/{name}": meaning for name, meaning in job.method.own_metrics.items()}
    return {key: meaning for key, meaning in ROW.items() if not key.startswith("method/")} | own


def describe(job: Job) -> dict[str, Any]:
    """The whole resolved configuration with what came of it, as plain values."""
    split = job.split
    made_before = job.config.est and job.config.est_from != ONLINE
    return {
        **asdict(job.config),
        "field_kinds": kinds_of(asdict(job.config)),
        **({"estimate": estimate_source(job.config)} if made_before else {}),
        **about_method(job.config.semi_method),
        **({} if job.method.shift.threshold != 0 else {"thresholded": False}),  # then every row counts
        **about_refinement(job.config.refine),
        **about_threshold(job),
        "lambda_u": job.config.unlabeled_weight,
        "device": str(job.device),
        "processes": job.ranks.size,
        "refined_from": job.config.refined_from,
        "arithmetic": "bf16" if job.model.bf16 else "float32",
        "class_names": list(job.dataset.class_names),
        "labeled_counts_asked": split.counts_x_asked,
        "labeled_counts": split.counts_x,
        "unlabeled_counts_asked": split.counts_u_asked,
        "unlabeled_counts": split.counts_u,
        "num_unlabeled": len(split.index_u),
        "parameters": sum(p.numel() for p in job.model.parameters()),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": numpy.__version__,
        },
    }
