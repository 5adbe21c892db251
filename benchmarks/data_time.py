"""Seconds per step that a training loop waits for its images: the two input pipelines side by side.

    python -m benchmarks.data_time [--quick]

A step asks for 64 labeled images (one weak view) and 64 unlabeled ones (a weak and two strong views), as FixMatch
does. Both pipelines make the published views (`--augment published`). `--loader device` makes them where the images
are: on a CPU by a compiled pass, in a thread one batch ahead. Beside it stand the same without the thread, and the
whole-batch operations that a GPU runs (the compiled pass's slow twin, here on the CPU). `--loader published` makes
views one image at a time in the worker processes of two DataLoaders, and makes an iterator anew whenever it is
exhausted. Labels that fill one batch or less are exhausted at every step, and each time the worker processes are
started again.

Digits with 60 labels a class and with 1, the project's two regimes on this data set, and the same 700 unlabeled images
in both. All ways run one after the other in one process. Between two steps the process sleeps 50 ms, as if it waited
for a model on a GPU, so that workers can work ahead; the sleep is not counted. The mean is what an epoch costs; the
median and the maximum show where it comes from.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

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


def seconds_per_step(step: Callable[[], object], steps: int, limit_s: float) -> list[float]:
    """Wall time of each of up to `steps` calls after one that is not counted, within about `limit_s`."""
    step()
    times: list[float] = []
    while len(times) < steps and sum(times) < limit_s:
        time.sleep(PAUSE_S)
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return times


def measure(dataset: Dataset, labels_a_class: int, steps: int, limit_s: float) -> dict[str, list[float]]:
    """Seconds of each step, by way of loading."""
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
    times = {}
    for name, way in TWINS.items():
        loader = Loader(*sets, augment="published", **(shared | way))
        times[name] = seconds_per_step(loader.next, steps, limit_s)
    for workers in (4, 0):
        slow = PublishedLoader(*sets, workers=workers, **shared)
        times[f"published loader, {workers} workers"] = seconds_per_step(slow.next, steps, limit_s)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds per step spent on loading images.")
    parser.add_argument("--quick", action="store_true", help="fewer steps: under 30 s, rougher figures")
    quick = parser.parse_args().quick
    warnings.filterwarnings(
        "ignore", message="This DataLoader will create"
    )  # more workers than cores, on purpose
    steps, limit_s = (15, 3.0) if quick else (100, 30.0)
    dataset = load_dataset("digits", "dataset")
    few: dict[str, float] = {}
    print(f"batch {BATCH} + {BATCH}, views 1 weak + (1 weak, 2 strong), {torch.get_num_threads()} threads")
    print(f"{'way of loading':<29}{'labels':>8}{'steps':>8}{'mean ms':>10}{'median ms':>11}{'max ms':>9}")
    many: dict[str, float] = {}
    for labels_a_class in LABELS_A_CLASS:
        for name, times in measure(dataset, labels_a_class, steps, limit_s).items():
            mean = statistics.fmean(times)
            (many if labels_a_class == LABELS_A_CLASS[0] else few)[name] = mean
            figures = f"{1e3 * mean:>10.2f}{1e3 * statistics.median(times):>11.2f}{1e3 * max(times):>9.2f}"
            print(f"{name:<29}{10 * labels_a_class:>8}{len(times):>8}{figures}", flush=True)
    print("\nmean step with few labels over mean step with many, and over the device loader's with few:")
    for name in few:
        print(f"{name:<29}{few[name] / many[name]:>8.2f}{few[name] / few[DEVICE]:>8.2f}")


if __name__ == "__main__":
    main()
