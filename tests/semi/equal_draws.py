"""A training in which every number of processes draws the same: one process of it, started by test_equal_processes.py.

    python tests/semi/equal_draws.py RANK SIZE FOLDER

float64, no batch norm, 20 steps of every method, and of every refinement. The batch consists of PIECES equal pieces;
piece p has images of the p-th part of the rows, and each process takes the pieces of its own rows. What a method draws
by itself (mixup's share and partners, turns) depends on step and piece alone.
"""

import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import torch
import torch.distributed as dist
from torch import nn

from data import Batch, BatchSource
from models import Classifier
from semi import job as jobs
from semi import mixing
from semi.config import Config
from semi.device import Stopwatch
from semi.distributed import Ranks
from semi.epoch import EpochSoFar
from semi.loop import finish_epoch, train_step
from semi.names import METHODS, REFINERIES
from tests.semi.runs import TINY

CASES = [(method, refine) for method in METHODS for refine in ("none", "darp")]
CASES += [("fix", refine) for refine in REFINERIES if refine not in ("none", "darp")]
CASES += [("fix", "darp --est online")]
PIECES, EACH, STEPS = 6, 2, 10  # pieces of a batch, images of a piece, steps of each of two epochs
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
        signal = torch.nn.functional.one_hot(index % 7, 32) * 3.0  # so that something can be learned
        views = []
        for seen in (labels.new_zeros(0), index):
            number = len(self.method.views_u if len(seen) else self.method.views_x)
            for _ in range(number):
                noise = torch.randn(PIECES, EACH, 3, 32, 32, generator=generator)
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


def network(arch: str, num_classes: int, *, bf16: bool = False) -> Classifier:
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.Tanh())
    return Classifier(backbone, 8, num_classes)


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
    job = jobs.build_job(config, ranks.device, ranks=ranks)
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
            losses.append(ranks.sum_(torch.stack([p.detach() for p in parts])) / ranks.size)
        rows.append(finish_epoch(job, epoch, so_far))
    return {
        "losses": torch.stack(losses),
        "orig": job.store.orig,
        "refined": job.store.refined,
        "weights": torch.cat([p.detach().flatten() for p in job.ema.model.parameters()]),
        "rows": rows,
    }


def main(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting-{size}", rank=rank, world_size=size)
    ranks = Ranks(torch.device("cpu"), rank, size, rank, dist.group.WORLD if size > 1 else None)
    share = PIECES // size
    now.pieces = range(rank * share, (rank + 1) * share)
    for place, name, ours in (
        (jobs, "build_model", network),
        (mixing, "own_share", own_share),
        (torch, "randperm", randperm),
        (torch, "randint", randint),
    ):
        setattr(place, name, ours)
    found = {(method, refine): trained(method, refine, ranks) for method, refine in CASES}
    (folder / f"{size}-{rank}").write_bytes(pickle.dumps(found))
    dist.barrier()
    ranks.leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
