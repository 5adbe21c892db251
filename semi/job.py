"""A configuration made real: data, network, tables, and the state that a checkpoint keeps."""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy
import torch
from torch import Tensor

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
from darp.refiner import TargetSource
from data import BatchSource, Dataset, Loader, PublishedLoader, Split, load_dataset, normalize
from models import Classifier, build_model
from semi import checkpoint
from semi.adam import Adam
from semi.checkpoint import CHECKPOINT_FILE, CheckpointError
from semi.config import Config, ConfigError, fields_of_kind, kinds_of
from semi.device import about_bf16, computes_in_bf16
from semi.ema import Ema
from semi.epoch import EpochSoFar
from semi.estimation import estimate_source
from semi.methods import METHODS, Method
from semi.run_folder import ResumePoint
from semi.split import split_for

WINDOW = 20  # epochs in the mean that the paper reports
PUBLISHED_WARM_SHARE = 0.4  # the published experiments refine from epoch 200 of 500 on


@dataclass
class Job:
    """Everything that training touches, on one device."""

    config: Config
    device: torch.device
    dataset: Dataset
    split: Split
    loader: BatchSource
    model: Classifier
    ema: Ema
    optimizer: torch.optim.Optimizer
    method: Method
    store: PseudoLabelStore
    refiner: TargetSource
    target_counts: list[float]  # [K], sums to the unlabeled images
    true_labels: Tensor | None  # int64 [N], None where one is unknown; for diagnosis, never for a loss
    test_images: Tensor  # float32 [M, 3, 32, 32], normalised
    test_labels: Tensor  # int64 [M]
    recent: deque[tuple[float, float]]  # bacc and gm of the last WINDOW epochs
    best_bacc: float = 0.0


def build_job(
    config: Config,
    device: torch.device,
    estimated_dist: Sequence[float] | None = None,
    dataset: Dataset | None = None,
) -> Job:
    """Seeds, then builds. Writes nothing but what a download stores under `data_dir`.

    estimated_dist: class distribution [K] of the unlabeled images (`--est`). It is the target of the refinement and of
    ReMixMatch's alignment. Without it the target is the distribution of the labeled images.
    dataset: what stands in for the images, in a dry run without them.

    Raises ConfigError or DataError, one line each, when the configuration and the data do not fit.
    """
    torch.manual_seed(config.seed)
    # The published operations come before the resizing, so STL-10's own 96 pixel images are needed for them.
    full_size = config.augment == "published"
    dataset = dataset or load_dataset(config.dataset, config.data_dir, full_size=full_size)
    split = split_for(config, dataset, include_labeled=METHODS[config.semi_method].unlabeled_includes_labeled)
    num_classes = len(dataset.class_names)
    model = build_model(config.arch, num_classes, bf16=computes_in_bf16(config.amp, device)).to(device)
    images_u = dataset.images_at(split.index_u)
    store = PseudoLabelStore(len(images_u), num_classes, device)
    holds_labeled = METHODS[config.semi_method].unlabeled_includes_labeled
    target_counts = target_for(split.counts_x, len(images_u), holds_labeled, estimated_dist)
    method = METHODS[config.semi_method].from_config(config, torch.tensor(target_counts, dtype=torch.float64))
    return Job(
        config=config,
        device=device,
        dataset=dataset,
        split=split,
        loader=build_loader(config, dataset, split, images_u, method, device),
        model=model,
        ema=Ema(model, config.ema_decay),
        optimizer=Adam(model.parameters(), lr=config.lr, fused=True),
        method=method,
        store=store,
        refiner=build_refiner(config, store, target_counts),
        target_counts=target_counts,
        true_labels=dataset.train_labels[split.index_u].to(device) if split.counts_u else None,
        test_images=normalize(dataset.test_images.to(device), dataset.mean, dataset.std),
        test_labels=dataset.test_labels.to(device),
        recent=deque(maxlen=WINDOW),
    )


def build_loader(
    config: Config, dataset: Dataset, split: Split, images_u: Tensor, method: Method, device: torch.device
) -> BatchSource:
    full_x = dataset.train_full_size
    shared: dict[str, Any] = {
        "views_x": method.views_x,
        "views_u": method.views_u,
        "batch_size": config.batch_size,
        "mean": dataset.mean,
        "std": dataset.std,
        "flip": dataset.flip,
        "magnitude": 14 if config.dataset == "cifar100" else 4,  # RandAugment(2, 14) there, (3, 4) elsewhere
        "num_ops": 2 if config.dataset == "cifar100" else 3,
        "full_x": None if full_x is None else full_x[split.index_x],
        "full_u": dataset.full_size_at(split.index_u),
        "device": device,
        "seed": config.seed,
    }
    sets = (dataset.train_images[split.index_x], dataset.train_labels[split.index_x], images_u)
    if config.loader == "published":
        return PublishedLoader(*sets, randaugment=config.randaugment, **shared)
    return Loader(*sets, augment=config.augment, placement=config.data_placement, **shared)


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


def build_refiner(config: Config, store: PseudoLabelStore, target_counts: list[float]) -> TargetSource:
    if not config.refines:
        return NoRefiner()
    coarse = config.dataset in ("cifar100", "stl10")  # the published tolerances of the coordinate scheme
    published: Callable[..., Any] = partial(solve_reference, rounds=config.iter_T, tol=0.3 if coarse else 0.1)
    solvers: dict[str, Callable[..., Any]] = {
        "darp": denoised(solve if config.solver == "exact" else published, config.alpha),
        "align": align,
        "sinkhorn": solve_sinkhorn,
    }
    return Refiner(
        store,
        target_counts,
        warm=config.warm,
        num_iter=config.num_iter,
        solver=solvers[config.refine],
    )


def warnings(job: Job) -> list[str]:
    """What a person should know before hours of training."""
    config, found = job.config, list(job.split.warnings)
    if sentence := about_bf16(config.amp, job.device, config.arch):
        found.append(sentence)
    if config.refines and config.semi_method == "sup":
        found.append(
            f"--refine {config.refine} changes what is logged, not the training: "
            "--semi_method sup learns from labels alone"
        )
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
    if not config.refines or config.warm + 1 < config.epochs:
        return ""
    warm = min(int(PUBLISHED_WARM_SHARE * config.epochs), config.epochs - 2)
    return (
        f"--refine {config.refine} has no effect: refinement starts after epoch {config.warm} (--warm {config.warm}) "
        f"and training ends with epoch {config.epochs - 1}. Add --warm {warm} to refine from epoch {warm + 1} on."
    )


def other_schedule(job: Job, state: Mapping[str, Any]) -> str:
    """One sentence where the checkpoint's epochs were weighted for another number of them than --epochs says now."""
    then, now = state["config"]["epochs"], job.config.epochs
    if then == now or not job.method.weights_follow_epochs:
        return ""
    return (
        f"--epochs {now}: loss weights of --semi_method {job.config.semi_method} rise with the share of --epochs that "
        f"is done. The epochs so far were weighted for {then}, those from now on are for {now}: a run of {now} epochs "
        "from the start would give other figures"
    )


def describe(job: Job) -> dict[str, Any]:
    """The whole resolved configuration with what came of it, as plain values."""
    split = job.split
    return {
        **asdict(job.config),
        "field_kinds": kinds_of(job.config),
        **({"estimate": estimate_source(job.config)} if job.config.est else {}),
        "lambda_u": job.config.unlabeled_weight,
        "device": str(job.device),
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


def snapshot(job: Job, epoch: int, so_far: EpochSoFar | None = None) -> dict[str, Any]:
    """All that the epochs after `epoch` depend on; `so_far` is what is done of the next one."""
    return {
        "partial": so_far.state_dict() if so_far else None,
        "config": asdict(job.config),
        "epoch": epoch,
        "index_u": job.split.index_u,  # which images the rows of the store are
        "target_counts": job.target_counts,
        "model": job.model.state_dict(),
        "ema": job.ema.model.state_dict(),
        "optimizer": job.optimizer.state_dict(),
        "method": job.method.state_dict(),
        "refiner": job.refiner.state_dict(),
        "store": job.store.state_dict(),
        "loader": job.loader.state_dict(),
        "random": checkpoint.random_state(),
        "recent": [list(pair) for pair in job.recent],
        "best_bacc": job.best_bacc,
    }


def restore(job: Job, point: ResumePoint) -> int:
    """Take up a snapshot; returns the number of the epoch that comes next or goes on.

    Raises ConfigError when the checkpoint's configuration would train something else, or its unlabeled images are not
    these in this order; CheckpointError when it does not fit the device or the classes, or is incomplete.
    """
    state, now = point.state, asdict(job.config)
    free = fields_of_kind(Config, "incidental") | fields_of_kind(Config, "length")
    try:
        for name, then in state["config"].items():
            if name not in free and now.get(name) != then:
                raise ConfigError(
                    f"--{name} {now.get(name)}: the checkpoint was trained with {then}; "
                    "use that, or start without --resume"
                )
        if (then := state["store"]["orig"].shape) != job.store.orig.shape:
            raise ValueError(
                f"its pseudo-labels are {then[0]} rows of {then[1]} classes, those of this data set "
                f"{job.store.orig.shape[0]} of {job.store.orig.shape[1]}; resume with the images of the saved run"
            )
        if not torch.equal(state["index_u"], job.split.index_u):
            raise ConfigError(
                f"--resume {point.path}: the checkpoint's unlabeled images are others, or in another order, than "
                "--seed and the data give here; resume with the same files and version, or start without --resume"
            )
        # A checkpoint from before the target was kept in it says nothing of it.
        if not numpy.allclose(state.get("target_counts", job.target_counts), job.target_counts, atol=1e-6):
            raise ConfigError(
                f"--resume {point.path}: the run aims at other class counts than --est gives now: the estimate has "
                "changed; put the old one back (--est FILE), or start without --resume"
            )
        job.loader.load_state_dict(state["loader"])  # first: it refuses another kind of device
        job.model.load_state_dict(state["model"])
        job.ema.model.load_state_dict(state["ema"])
        job.optimizer.load_state_dict(state["optimizer"])
        job.method.load_state_dict(state["method"])
        job.refiner.load_state_dict(state["refiner"])
        job.store.load_state_dict(state["store"])
        checkpoint.restore_random_state(state["random"])
        job.recent.extend((bacc, gm) for bacc, gm in state["recent"])
        job.best_bacc = float(state["best_bacc"])
        return int(state["epoch"]) + 1
    except ConfigError:
        raise
    except KeyError as error:
        raise CheckpointError(
            f"--resume {point.path}: {error} is missing in it; use a {CHECKPOINT_FILE} of this version of the tool"
        ) from None
    except Exception as error:  # what does not fit fails anywhere in torch's own restoring
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"--resume {point.path}: it does not fit this run: {reason}") from None
