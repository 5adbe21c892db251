"""The state of a job as a checkpoint keeps it, and a job that goes on from it with any number of processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy
import torch
from torch import Tensor

from semi import checkpoint, sharding
from semi.checkpoint import CHECKPOINT_FILE, CheckpointError
from semi.config import Config, ConfigError, fields_of_kind
from semi.distributed import block, derived_seed
from semi.epoch import EpochSoFar
from semi.job import Job
from semi.run_folder import ResumePoint, position

RESUMED_STREAM = 3  # number of the random streams after a change of the number of processes


def snapshot(job: Job, epoch: int, so_far: EpochSoFar | None = None) -> dict[str, Any]:
    """All that the epochs after `epoch` depend on; `so_far` is what is done of the next one.

    Of several processes it holds what they have in common; `semi.sharding` takes the rest.
    """
    own = own_state(job, so_far)
    alone = {"store": job.store.state_dict(), "loader": own["loader"], "random": own["random"]}
    return {
        **(alone if job.ranks.size == 1 else {}),
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
        # For those who score the weights and have no refinery.
        "test_shift": job.refiner.test_shift(job.ema.model),
        "recent": [list(pair) for pair in job.recent],
        "best_bacc": job.best_bacc,
    }


def own_state(job: Job, so_far: EpochSoFar | None = None) -> dict[str, Any]:
    """What this process draws its coming batches from, and its sums of the epoch in progress."""
    sums = so_far.state_dict()["sums"] if so_far else {}
    return {"loader": job.loader.state_dict(), "random": checkpoint.random_state(), "sums": sums}


def restore(job: Job, point: ResumePoint) -> int:
    """Take up a snapshot; returns the number of the epoch that comes next or goes on.

    Where another number of processes saved it, the rest of their pass over the unlabeled images is drawn by those that
    have the rows now, and random draws start anew. Communicates nothing.

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
        saved = saved_shape(state)
        if saved != (len(job.split.index_u), num_classes := job.store.orig.shape[1]):
            raise ValueError(
                f"its pseudo-labels are {saved[0]} rows of {saved[1]} classes, those of this data set "
                f"{len(job.split.index_u)} of {num_classes}; resume with the images of the saved run"
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
        own = saved_own(job, point)
        job.loader.load_state_dict(own["loader"])  # first: it refuses another kind of device
        job.model.load_state_dict(state["model"])
        job.ema.model.load_state_dict(state["ema"])
        job.optimizer.load_state_dict(state["optimizer"])
        job.method.load_state_dict(state["method"])
        job.refiner.load_state_dict(state["refiner"])
        job.store.load_state_dict(saved_table(job, point))
        checkpoint.restore_random_state(own["random"])
        if state.get("partial"):
            state["partial"]["sums"] = own["sums"]
        job.recent.extend((bacc, gm) for bacc, gm in state["recent"])
        job.best_bacc = float(state["best_bacc"])
        return int(state["epoch"]) + 1
    except (ConfigError, CheckpointError):
        raise
    except KeyError as error:
        raise CheckpointError(
            f"--resume {point.path}: {error} is missing in it; use a {CHECKPOINT_FILE} of this version of the tool"
        ) from None
    except Exception as error:  # what does not fit fails anywhere in torch's own restoring
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"--resume {point.path}: it does not fit this run: {reason}") from None


def saved_size(state: Mapping[str, Any]) -> int:
    """How many processes saved it."""
    return int(state["sharded"]["size"]) if "sharded" in state else 1


def saved_shape(state: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and classes of the saved table."""
    if "sharded" in state:
        return state["sharded"]["rows"], len(state["target_counts"])
    rows, classes = state["store"]["orig"].shape
    return rows, classes


def saved_table(job: Job, point: ResumePoint) -> dict[str, Tensor]:
    """This process's rows of the saved table."""
    if "sharded" in point.state:
        like = {"orig": job.store.orig, "visited": job.store.visited, "refined": job.store.orig}
        return sharding.read_table(point.path, point.state["sharded"], like, job.ranks)
    rows = job.ranks.rows(len(job.split.index_u))
    return {name: table[rows] for name, table in point.state["store"].items()}


def saved_parts(point: ResumePoint) -> Iterable[dict[str, Any]]:
    """`own_state` of each process that saved it, in the order of the ranks."""
    if "sharded" not in point.state:
        partial = point.state.get("partial") or {}
        yield {
            "loader": point.state["loader"],
            "random": point.state["random"],
            "sums": partial.get("sums", {}),
        }
        return
    for rank in range(saved_size(point.state)):
        yield sharding.read_own(point.path, point.state["sharded"], rank)


def saved_own(job: Job, point: ResumePoint) -> dict[str, Any]:
    """What this process goes on with: its own saved state, or where their number changed a part of everybody's."""
    size, ranks = saved_size(point.state), job.ranks
    if size == ranks.size:
        if size == 1:
            return next(iter(saved_parts(point)))
        return dict(sharding.read_own(point.path, point.state["sharded"], ranks.rank))
    num_rows, mine = len(job.split.index_u), ranks.rows(len(job.split.index_u))
    sums: dict[str, Tensor] = {}
    rest = []
    for rank, part in enumerate(saved_parts(point)):
        for name, value in part["sums"].items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value / size
        if "unlabeled" in part["loader"]:
            rows = part["loader"]["unlabeled"]["order"] + block(num_rows, rank, size).start
            rest.append(rows[(rows >= mine.start) & (rows < mine.stop)] - mine.start)
    seed = derived_seed(
        job.config.seed, RESUMED_STREAM, ranks.size, ranks.rank, *map(abs, position(point.state))
    )
    torch.manual_seed(seed)
    loader = job.loader.state_dict()
    loader["generator"] = torch.Generator(job.device).manual_seed(seed).get_state()
    if rest:
        left = torch.cat(rest)
        loader["unlabeled"]["order"] = left[torch.randperm(len(left))]
    return {"loader": loader, "random": checkpoint.random_state(), "sums": sums}
