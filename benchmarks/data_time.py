"""Seconds per step that a training loop waits for its images: the two input pipelines side by side.

    python -m benchmarks.data_time [--quick]

A step asks for 64 labeled images (one weak view) and 64 unlabeled ones (a weak and two strong views), as FixMatch
does. Both pipelines make the published views (`--augment published`). `--loader device` makes them where the images
are: on a CPU by a compiled pass, in a thread one batch ahead. Beside it stand the same without the thread, and the
whole-batch operations that are the compiled pass's slow twin. `--loader published` makes
views one image at a time in the worker processes of two DataLoaders, and makes an iterator anew whenever it is
exhausted. Labels that fill one batch or less are exhausted at every step, and each time the worker processes are
started again.

Digits with 60 labels a class and with 1, the project's two regimes on this data set, and the same 700 unlabeled images
in both. All ways take turns in one process, five rounds of 20 steps. Between two steps the process sleeps 50 ms, as if
it waited for a model on a GPU, so that workers can work ahead; the sleep is not counted. The mean is what an epoch
costs; the median and the maximum show where it comes from.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.record import keep
from data import Dataset, Loader, PublishedLoader, load_dataset, make_split

BATCH = 64
LABELS_A_CLASS = (60, 1)
PAUSE_S = 0.05
DEVICE = "device loader"
TWINS: dict[str, dict[str, Any]] = {
    DEVICE: {},
    "the same, no thread": {"prefetch": False},
    "the same, whole batches": {"prefetch": False, "compiled": False},
}


def seconds_per_step(step: Callable[[], object], steps: int) -> list[float]:
    """Wall time of each of `steps` calls, after two that are not counted: what was made ahead during a pause."""
    times: list[float] = []
    for i in range(steps + 2):
        time.sleep(PAUSE_S)
        start = time.perf_counter()
        step()
        if i >= 2:
            times.append(time.perf_counter() - start)
    return times


def ways_of_loading(dataset: Dataset, labels_a_class: int) -> dict[str, Callable[[], object]]:
    """What gives the next batch, by way of loading."""
    split = make_split(
        dataset.train_labels,
        10,
        num_max=labels_a_class,
        ratio=1,
        imb_ratio_l=1,
        imb_ratio_u=1,
        include_labeled=False,
    )
    rest = torch.arange(len(dataset.train_labels))[-700:]
    images_x, labels_x = dataset.train_images[split.index_x], dataset.train_labels[split.index_x]
    sets = (images_x, labels_x, dataset.train_images[rest])
    shared: dict[str, Any] = {
        "views_x": ("weak",),
        "views_u": ("weak", "strong", "strong"),
        "batch_size": BATCH,
        "mean": dataset.mean,
        "std": dataset.std,
        "flip": dataset.flip,
        "device": "cpu",
        "seed": 0,
    }
    ways: dict[str, Callable[[], object]] = {
        name: Loader(*sets, augment="published", **(shared | way)).next for name, way in TWINS.items()
    }
    for workers in (4, 0):
        ways[f"published loader, {workers} workers"] = PublishedLoader(*sets, workers=workers, **shared).next
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds per step spent on loading images.")
    parser.add_argument("--quick", action="store_true", help="fewer steps: under 30 s, rougher figures")
    quick = parser.parse_args().quick
    warnings.filterwarnings(
        "ignore", message="This DataLoader will create"
    )  # more workers than cores, on purpose
    rounds, steps = (3, 5) if quick else (5, 20)
    dataset = load_dataset("digits", "dataset")
    ways = {
        (labels_a_class, name): step
        for labels_a_class in LABELS_A_CLASS
        for name, step in ways_of_loading(dataset, labels_a_class).items()
    }
    times: dict[tuple[int, str], list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, step in ways.items():
            times[way] += seconds_per_step(step, steps)
    print(f"batch {BATCH} + {BATCH}, views 1 weak + (1 weak, 2 strong), {torch.get_num_threads()} threads")
    print(f"{'way of loading':<29}{'labels':>8}{'steps':>8}{'mean ms':>10}{'median ms':>11}{'max ms':>9}")
    for (labels_a_class, name), taken in times.items():
        mean, middle, most = (1e3 * f(taken) for f in (statistics.fmean, statistics.median, max))
        print(f"{name:<29}{10 * labels_a_class:>8}{len(taken):>8}{mean:>10.2f}{middle:>11.2f}{most:>9.2f}")
    means = {way: statistics.fmean(taken) for way, taken in times.items()}
    many, few = LABELS_A_CLASS
    print("\nmean step with few labels over mean step with many, and over the device loader's with few:")
    for name in dict.fromkeys(name for _, name in ways):
        own, device = means[few, name], means[few, DEVICE]
        print(f"{name:<29}{own / means[many, name]:>8.2f}{own / device:>8.2f}")
    figures = [
        {"way": name, "labels": 10 * labels_a_class, "step_ms": [1e3 * t for t in taken]}
        for (labels_a_class, name), taken in times.items()
    ]
    print(f"kept in {keep('data_time', figures)}")


if __name__ == "__main__":
    main()
