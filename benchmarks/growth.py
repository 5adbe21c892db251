"""What grows with the unlabeled set.

    python -m benchmarks.growth [--device cpu] [--data_placement device] [--rows 10000,100000,1000000]

A FixMatch step with DARP on made-up images of CIFAR's shape, at each number of unlabeled images: milliseconds of a step
between refinements and of a refinement (noise removal and a warm solve), and where the memory is. A step should not
know how many images there are, a refinement should cost the same per row, and so should the memory. The sizes take
turns, --times rounds; medians and spread. The largest size needs 7 GB.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable

import torch
from torch import Tensor

from benchmarks.record import keep
from data import Dataset
from semi.config import PLACEMENTS, Config
from semi.device import Stopwatch
from semi.job import Job, build_job
from semi.loop import train_step

STEPS = 5  # a round's steps between two refinements
LABELS_A_CLASS = 100


def made_up(rows: int) -> Dataset:
    """Random images of 10 classes, as many of each; FixMatch's unlabeled ones are all of them."""
    images = torch.randint(0, 256, (rows, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(len(images)) % 10
    return Dataset(
        "cifar10", tuple("abcdefghij"), images, labels, images[:100], labels[:100], None,
        (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), flip=True,
    )  # fmt: skip


def job_of(rows: int, device: torch.device, placement: str) -> Job:
    """A FixMatch run with DARP on `rows` unlabeled images, with the small network."""
    config = Config(
        dataset="cifar10", semi_method="fix", refine="darp", warm=0, alpha=2, arch="small", num_max=LABELS_A_CLASS,
        ratio=rows / (10 * LABELS_A_CLASS) - 1, imb_ratio_l=1, imb_ratio_u=1, num_iter=STEPS, epochs=100,
        data_placement=placement,
    )  # fmt: skip
    job = build_job(config, device, dataset=made_up(rows))
    # Guesses as in the middle of training: leaning to the first classes, so that the solver has something to do.
    logits = torch.randn(rows, 10, device=device) + 2 * torch.linspace(1, 0, 10, device=device)
    job.store.orig.copy_(torch.softmax(2 * logits, 1))
    return job


def megabytes(tensors: Iterable[object]) -> float:
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor)) / 1e6


def memory(job: Job) -> dict[str, float]:
    """Megabytes of each part that training keeps."""
    store, loader = job.store, job.loader.state_dict()
    moments = (tensor for state in job.optimizer.state.values() for tensor in state.values())
    networks = (*job.model.state_dict().values(), *job.ema.model.state_dict().values())
    return {
        "images_mb": megabytes([job.dataset.images_at(job.split.index_u)]),
        "tables_mb": megabytes([store.orig, store.refined, store.visited]),
        "true_labels_mb": megabytes([job.true_labels]),
        "order_mb": megabytes([loader["unlabeled"]["order"]]),
        "networks_mb": megabytes(networks) + megabytes(moments),
    }


def round_of(job: Job) -> tuple[float, float]:
    """Milliseconds of a step without its refinement, and of the one refinement of STEPS steps."""
    watch = Stopwatch(job.device)
    watch.start()
    for step in range(STEPS):
        train_step(job, 1, step, watch)
    seconds = watch.read()
    refined = seconds.pop("refine")
    return 1e3 * sum(seconds.values()) / STEPS, 1e3 * refined


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):9.2f} [{min(values):.2f}, {max(values):.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cpu", help="cpu, or cuda:N (default: cpu)")
    parser.add_argument(
        "--data_placement", choices=PLACEMENTS, default="device", help="where the images are kept"
    )
    parser.add_argument("--rows", default="10000,100000,1000000", help="numbers of unlabeled images")
    parser.add_argument("--times", type=int, default=7, help="rounds (default: 7)")
    given = parser.parse_args()
    device = torch.device(given.device)
    sizes = [int(rows) for rows in given.rows.split(",")]
    jobs = {rows: job_of(rows, device, given.data_placement) for rows in sizes}
    steps: dict[int, list[float]] = {rows: [] for rows in sizes}
    refines: dict[int, list[float]] = {rows: [] for rows in sizes}
    for turn in range(given.times + 1):
        for rows, job in jobs.items():
            step, refine = round_of(job)
            if turn:  # the first round compiles, fills caches and solves without a warm start
                steps[rows].append(step)
                refines[rows].append(refine)
    figures = []
    print(f"{'images':>10}  {'step, ms':28}{'refinement, ms':28}{'ms / 1e6 rows':>14}  memory, MB")
    for rows, job in jobs.items():
        parts, per_million = memory(job), statistics.median(refines[rows]) * 1e6 / rows
        shown = "  ".join(f"{name.removesuffix('_mb')} {size:.1f}" for name, size in parts.items())
        print(f"{rows:>10,}  {spread(steps[rows]):28}{spread(refines[rows]):28}{per_million:>14.1f}  {shown}")
        figures.append({"rows": rows, "step_ms": steps[rows], "refinement_ms": refines[rows], **parts})
    print(f"kept in {keep('growth', figures, device)}")


if __name__ == "__main__":
    main()
