"""Trainings and estimations in which every number of processes draws the same: one process of three.

    python tests/semi/equal_draws.py RANK FOLDER

test_equal_processes.py starts them. All three train together; then two of them do, while the third does so alone.

float64, no batch norm, 20 steps of every method with every refinement that it takes. The batch consists of PIECES equal
pieces; piece p has images of the p-th part of the rows, and each process takes the pieces of its own rows. What a
method draws by itself (mixup's share and partners, turns) depends on step and piece alone. An estimation needs nothing
of that: it draws the same with any number of processes.
"""

import pickle
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import nn

from data import Batch, BatchSource, Dataset, load_dataset
from models import Classifier
from semi import estimation_training, mixing
from semi import job as jobs
from semi.config import Config, EstimateConfig
from semi.device import Stopwatch
from semi.distributed import Ranks
from semi.epoch import EpochSoFar
from semi.estimation import NotIdentifiable, load_or_estimate
from semi.estimation_training import EstimationTraining
from semi.loop import finish_epoch, train_step
from semi.names import METHODS, REFINERIES
from semi.pace import Pace
from tests.semi.runs import TINY, Interruption

MIXING = ("mix", "remix")  # they learn from mixtures of images, whose losses these do not shift:
SHIFTING = ("la", "debias", "flexda", "simpro", "cdmad")
TRAIN_STEP = EstimationTraining.train_step
CASES = [(m, r) for m in METHODS for r in REFINERIES if not (m in MIXING and r in SHIFTING)]
CASES += [("fix", "darp --est online")]
ESTIMATION: dict[str, Any] = {"dataset": "digits", "num_max": 30, "ratio": 2.0, "imb_ratio_l": 2.0, "imb_ratio_u": 1.0,
                              "epochs": 20, "val_iteration": 2, "batch_size": 17, "alpha": 0.5, "ema_decay": 0.5,
                              "lr": 0.02}  # fmt: skip
PIECES, EACH, STEPS = 6, 2, 10  # pieces of a batch, images of a piece, steps of each of two epochs
SIDE = 8  # of what the networks see of an image
now = SimpleNamespace(step=0, pieces=range(PIECES))  # the step, and the pieces that this process has


def drawn(kind: str) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * now.step + sum(map(ord, kind)))


def own_share(alpha: float, device: torch.device) -> torch.Tensor:
    return 0.5 + torch.rand((), generator=drawn("share")) / 2


def randperm(n: int, **_: object) -> torch.Tensor:
    """Partners within each piece, the same in all; the batch is one view of all pieces after the other."""
    views = n // (len(now.pieces) * EACH)
    at = torch.arange(n).reshape(views, len(now.pieces), EACH)
    order = torch.argsort(torch.rand(views * EACH, generator=drawn("partners")))
    partners = torch.empty_like(at)
    for i in range(len(now.pieces)):
        partners[:, i] = at[:, i].flatten()[order].reshape(views, EACH)
    return partners.flatten()


def randint(high: int, size: tuple[int, ...], **_: object) -> torch.Tensor:
    turns = torch.floor(high * torch.rand(PIECES, EACH, generator=drawn("turns"))).long()
    return turns[list(now.pieces)].flatten()


class EqualDraws:
    """Batches of step and piece; `rows` is what this process has of `num_rows`."""

    def __init__(self, method, num_rows: int, rows: slice) -> None:
        self.method, self.num_rows, self.rows = method, num_rows, rows

    def next(self) -> Batch:
        now.step += 1
        generator = drawn("batch")
        part = self.num_rows // PIECES
        index = torch.floor(part * torch.rand(PIECES, EACH, generator=generator)).long()
        index += part * torch.arange(PIECES)[:, None]
        while len(index.unique()) < index.numel():  # two guesses for one row would leave the table to chance
            index[:, 1] = index[:, 1] // part * part + (index[:, 1] + 1) % part
        labels = torch.floor(10 * torch.rand(PIECES, EACH, generator=generator)).long()
        signal = torch.nn.functional.one_hot(index % 7, SIDE) * 3.0  # so that something can be learned
        views = []
        for seen in (labels.new_zeros(0), index):
            number = len(self.method.views_u if len(seen) else self.method.views_x)
            for _ in range(number):
                noise = torch.randn(PIECES, EACH, 3, SIDE, SIDE, generator=generator)
                views.append(noise + (signal[:, :, None, None] if len(seen) else 0))
        mine = list(now.pieces)
        views = [view[mine].flatten(0, 1) for view in views]
        cut = len(self.method.views_x)
        return Batch(
            tuple(views[:cut]),
            labels[mine].flatten(),
            tuple(views[cut:]),
            index[mine].flatten() - self.rows.start,
        )


class Doubled(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.double()


def network_of_digits(arch: str, num_classes: int) -> Classifier:
    """It tells digits apart after 40 steps, so that the confusion matrix of an estimation has an inverse."""
    backbone = nn.Sequential(
        Doubled(), nn.AdaptiveAvgPool2d(SIDE), nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 32), nn.Tanh()
    )
    return Classifier(backbone, 32, num_classes)


def network(arch: str, num_classes: int, *, bf16: bool = False) -> Classifier:
    backbone = nn.Sequential(
        nn.AdaptiveAvgPool2d(SIDE), nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 8), nn.Tanh()
    )
    return Classifier(backbone, 8, num_classes)


@cache
def digits() -> Dataset:
    return load_dataset("digits", "")


def trained(method: str, refine: str, ranks: Ranks) -> dict:
    refine, _, online = refine.partition(" --est ")
    config = Config(
        **TINY
        | {
            "semi_method": method,
            "refine": refine,
            "est": bool(online),
            "est_from": online,
            "align": not online,
            "tau": 0.3,
            "simpro_every": 7,
            "simpro_threshold": 0.3,
        }
        | {"num_max": 8, "ratio": 4.0, "imb_ratio_l": 2.0, "imb_ratio_u": 2.0}  # rows that PIECES divides
        | {"batch_size": PIECES * EACH, "warm": -1, "epochs": 2, "val_iteration": STEPS}
    )
    now.step = 0
    job = jobs.build_job(config, ranks.device, dataset=digits(), ranks=ranks)
    num_rows = len(job.split.index_u)
    assert num_rows % PIECES == 0
    job.test_images = job.test_images.double()
    job.loader = cast(BatchSource, EqualDraws(job.method, num_rows, ranks.rows(num_rows)))
    job.learner = ranks.replicated(job.learner)
    losses, rows = [], []
    for epoch in range(2):
        so_far = EpochSoFar(ranks.device)
        for step in range(STEPS):
            found = train_step(job, epoch, step, Stopwatch(ranks.device))
            so_far.add(found)
            parts = [p for p in (found.total, found.x, found.u, found.r, found.e) if p is not None]
            losses.append(torch.stack([p.detach() for p in parts]))
        rows.append(finish_epoch(job, epoch, so_far))
    return {
        "losses": ranks.sum_(torch.stack(losses)) / ranks.size,
        "orig": job.store.orig,
        "refined": job.store.refined,
        "weights": torch.cat([p.detach().flatten() for p in job.ema.model.parameters()]),
        "rows": rows,
    }


def estimated(folder: Path, ranks: Ranks, step: Callable = TRAIN_STEP, **changes: Any) -> tuple[dict, int]:
    """The record of an estimation with mixup whose batch processes share unevenly, and the steps that it took."""
    config = EstimateConfig(**ESTIMATION | changes, gpu="cpu", estimation_dir=str(folder))
    with mock.patch.object(EstimationTraining, "train_step", autospec=True, side_effect=step) as steps:
        return load_or_estimate(config, ranks), steps.call_count


def dying(training: EstimationTraining) -> None:
    """A step, unless it is one of the last epoch: there all processes die."""
    if (training.epoch, training.step) == (19, 1):
        raise Interruption
    TRAIN_STEP(training)


def estimations(folder: Path, ranks: Ranks) -> dict:
    """One from the start, two that find what three processes have left, whole and damaged, and one that fails."""
    left, broken = folder / f"cut-{ranks.size}", folder / f"broken-{ranks.size}"
    if ranks.is_first:
        shutil.copytree(folder / "cut", left)
        shutil.copytree(folder / "cut", broken)
        (file,) = broken.iterdir()
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(NotIdentifiable) as told:
        estimated(folder / f"untold-{ranks.size}", ranks, epochs=1, val_iteration=1, th_cond=1.0)
    return {
        "whole": estimated(folder / f"whole-{ranks.size}", ranks),
        "resumed": estimated(left, ranks),
        "started again": estimated(broken, ranks),
        "told": str(told.value),
    }


def put(*ours: tuple[ModuleType, str, Any]) -> None:
    for place, name, value in ours:
        setattr(place, name, value)


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=3)
    device, pair = torch.device("cpu"), dist.new_group([0, 1])
    three = Ranks(device, rank, 3, rank, dist.group.WORLD)
    fewer = Ranks(device, rank, 2, rank, pair) if isinstance(pair, dist.ProcessGroup) else Ranks(device)
    found: dict[int, dict] = {}
    put((estimation_training, "build_model", network_of_digits))
    with mock.patch.object(Pace, "due", return_value=True), suppress(Interruption):
        estimated(folder / "cut", three, dying)
    dist.barrier()
    for ranks in (three, fewer):
        found[ranks.size] = {"estimations": estimations(folder, ranks)}
    put(
        (jobs, "build_model", network),
        (mixing, "own_share", own_share),
        (torch, "randperm", randperm),
        (torch, "randint", randint),
    )
    for ranks in (three, fewer):
        share = PIECES // ranks.size
        now.pieces = range(ranks.rank * share, (ranks.rank + 1) * share)
        found[ranks.size] |= {case: trained(*case, ranks) for case in CASES}
        (folder / f"{ranks.size}-{ranks.rank}").write_bytes(pickle.dumps(found[ranks.size]))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
