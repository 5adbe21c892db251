"""What an epoch's end costs: python -m benchmarks.epoch_end [--rows 1000000] [--classes 100].

The metrics of the pseudo-labels against the slow twin of their test (a float64 copy of each table, torch's own argmax),
in turn in one process; then the evaluation of both networks by the size of its batches. Medians of --times and spread.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.record import keep
from darp.pseudo_labels import pseudo_label_metrics
from models import BACKBONES, build_model
from semi.evaluate import BATCH, CPU_BATCH
from tests.darp.test_pseudo_labels import slow_twin

IMAGES = {"wrn28_2": 1000, "small": 4000}
BATCHES = (50, 100, CPU_BATCH, BATCH, 1000)


def in_turn(calls: dict[str, Callable[[], object]], times: int) -> dict[str, list[float]]:
    """Milliseconds of each call, `times` rounds of all of them after one that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(times + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if turn:
                taken[name].append(1000 * (time.perf_counter() - begin))
    return taken


def show(taken: dict[str, list[float]], against: str, unit: str = "ms", per: float = 1.0) -> None:
    base = statistics.median(taken[against])
    for name, values in taken.items():
        low, middle, high = (f(values) / per for f in (min, statistics.median, max))
        print(f"{name:24} {middle:9.2f} {unit} [{low:.2f}, {high:.2f}]   {base / (middle * per):5.2f}x")


def metrics(rows: int, classes: int, times: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    orig, refined = (torch.softmax(2 * torch.randn(rows, classes, generator=generator), 1) for _ in range(2))
    true = torch.randint(0, classes, (rows,), generator=generator)
    given = (orig, refined, orig[:, 0] > 0, [rows / classes] * classes, true, 0.95)
    print(f"metrics of the pseudo-labels, {rows} x {classes}, raw and refined")
    taken = in_turn({"twin": lambda: slow_twin(*given), "ours": lambda: pseudo_label_metrics(*given)}, times)
    show(taken, "twin")
    return {"what": "metrics", "rows": rows, "classes": classes, "ms": taken}


def evaluation(arch: str, times: int) -> dict[str, object]:
    """By the size of the batches; microseconds an image."""
    torch.manual_seed(0)
    model, count = build_model(arch, 10).eval(), IMAGES[arch]
    images = torch.randn(count, 3, 32, 32)

    @torch.no_grad()
    def by(size: int) -> None:
        for chunk in images.split(size):
            model(chunk)

    print(
        f"evaluation of {arch}, {count} images; semi.evaluate takes batches of {CPU_BATCH}, on a GPU of {BATCH}"
    )
    taken = in_turn({f"batches of {size}": partial(by, size) for size in BATCHES}, times)
    show(taken, f"batches of {CPU_BATCH}", "us", count / 1000)
    return {"what": "evaluation", "arch": arch, "images": count, "ms": taken}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.epoch_end",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    figures = [metrics(given.rows, given.classes, given.times)]
    figures += [evaluation(arch, given.times) for arch in BACKBONES]
    print(f"kept in {keep('epoch_end', figures)}")


if __name__ == "__main__":
    main()
