"""Seconds per step that a training loop waits for its images: our loader beside the usual DataLoader.

    python -m benchmarks.data_time [--quick]

A step asks for 64 labeled images (one weak view) and 64 unlabeled ones (a weak and two strong views), as
FixMatch does. The usual way is a torch DataLoader over single images with torchvision's Pillow transforms,
whose labeled iterator is made anew whenever it is exhausted. With fewer labeled images than a batch that is
at every step, and each time the worker processes are started again; the labeled batch is then only as large
as the labeled set, so that the usual way also does less work there.

Digits with 60 labels a class and with 1, the project's two regimes on this data set, and the same 700
unlabeled images in both. All ways run one after the other in one process. Between two steps the process
sleeps 50 ms, as if it waited for a model on a GPU, so that workers can work ahead; the sleep is not counted.
The mean is what an epoch costs; the median and the maximum show where it comes from.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Generator
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from data import Loader, load_dataset, make_split
from data.datasets import Dataset

BATCH = 64
LABELS_A_CLASS = (60, 1)
PAUSE_S = 0.05


class PerImage(TorchDataset):
    """Images one at a time as Pillow images through one transform per view, as is usual."""

    def __init__(self, images: Tensor, labels: Tensor, views: list[Callable]) -> None:
        to_pillow = transforms.ToPILImage()
        self.images = [to_pillow(image) for image in images]
        self.labels = labels.tolist()
        self.views = views

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[list[Tensor], int]:
        return [view(self.images[row]) for view in self.views], self.labels[row]


def usual_views(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Callable, Callable]:
    """Weak and strong view by torchvision's Pillow transforms; erasing stands for cutout."""
    to_tensor = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    crop = transforms.RandomCrop(32, padding=4, padding_mode="reflect")
    weak = transforms.Compose([crop, *to_tensor])
    erase = transforms.RandomErasing(p=1.0, scale=(0.25, 0.25), ratio=(1.0, 1.0))
    strong = transforms.Compose([transforms.RandAugment(3, 4), crop, *to_tensor, erase])
    return weak, strong


def usual_steps(
    labeled: PerImage, unlabeled: PerImage, workers: int
) -> Generator[tuple[list[Tensor], list[Tensor]], None, None]:
    """The usual loop: an iterator over each loader, made anew when it is exhausted."""
    loaders = [
        DataLoader(part, BATCH, shuffle=True, num_workers=workers, drop_last=False)
        for part in (labeled, unlabeled)
    ]
    iterators = [iter(loader) for loader in loaders]
    while True:
        views = []
        for slot, loader in enumerate(loaders):
            try:
                batch = next(iterators[slot])
            except StopIteration:
                iterators[slot] = iter(loader)
                batch = next(iterators[slot])
            views.append(batch[0])
        yield views[0], views[1]


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
    images_u = dataset.train_images[rest]
    ours = Loader(
        images_x,
        labels_x,
        images_u,
        views_x=("weak",),
        views_u=("weak", "strong", "strong"),
        batch_size=BATCH,
        mean=dataset.mean,
        std=dataset.std,
        flip=dataset.flip,
        device="cpu",
        seed=0,
    )
    times = {"this loader": seconds_per_step(ours.next, steps, limit_s)}
    weak, strong = usual_views(dataset.mean, dataset.std)
    labeled = PerImage(images_x, labels_x, [weak])
    unlabeled = PerImage(images_u, dataset.train_labels[rest], [weak, strong, strong])
    for workers in (4, 0):
        batches = usual_steps(labeled, unlabeled, workers)
        name = f"DataLoader, {workers} workers"
        times[name] = seconds_per_step(partial(next, batches), steps, limit_s)
        batches.close()
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
    print(f"{'way of loading':<24}{'labels':>8}{'steps':>8}{'mean ms':>10}{'median ms':>11}{'max ms':>9}")
    many: dict[str, float] = {}
    for labels_a_class in LABELS_A_CLASS:
        for name, times in measure(dataset, labels_a_class, steps, limit_s).items():
            mean = statistics.fmean(times)
            (many if labels_a_class == LABELS_A_CLASS[0] else few)[name] = mean
            figures = f"{1e3 * mean:>10.1f}{1e3 * statistics.median(times):>11.1f}{1e3 * max(times):>9.1f}"
            print(f"{name:<24}{10 * labels_a_class:>8}{len(times):>8}{figures}", flush=True)
    print("\nmean step with few labels over mean step with many, and over this loader's with few:")
    for name in few:
        print(f"{name:<24}{few[name] / many[name]:>8.2f}{few[name] / few['this loader']:>8.2f}")


if __name__ == "__main__":
    main()
