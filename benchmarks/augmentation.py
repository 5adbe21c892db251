"""How strong the strong views are: this code beside Pillow and the published figures, and what a batch costs.

    python -m benchmarks.augmentation [--crops 20000] [--photographs FILE ...]

The images are scikit-learn's two sample photographs (china.jpg, flower.jpg), or those given: random squares of
128 x 128 pixels, shrunk to 32 x 32 as a photograph in CIFAR is. Measured are the operations alone, before crop, flip
and cutout: the mean absolute change of a pixel (0..255), and the share of views in which each channel has one value
everywhere. With 20,000 crops the change has a standard error of 0.4 and the share one of 0.1 to 0.3 percentage points.
The crops of the published figures are not known.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from data import Loader, load_dataset
from data.pillow_augment import PillowRandAugment
from data.randaugment import rand_augment

SIDE, CROP = 32, 128
SETTINGS = ((3, 4), (2, 14))  # number of operations and magnitude; the second is CIFAR-100's


class Strength(NamedTuple):
    change: float
    """Mean absolute change of a pixel, 0..255."""
    constant: float
    """Share of views of one colour."""


# Of the operations of the re-implementation that the original uses, on natural crops.
PUBLISHED_FIGURES = {(3, 4): Strength(81.6, 0.042), (2, 14): Strength(69.6, 0.26)}


def sample_photographs() -> dict[str, np.ndarray]:
    """scikit-learn's two, by name, each uint8 [H, W, 3]."""
    samples = load_sample_images()
    return {Path(name).name: image for name, image in zip(samples.filenames, samples.images, strict=True)}


def natural_crops(count: int, photographs: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 [count, 32, 32, 3], random squares of `CROP` pixels out of the photographs, shrunk."""
    draw = random.Random(0)
    crops = []
    for _ in range(count):
        photograph = photographs[draw.randrange(len(photographs))]
        top, left = (draw.randrange(length - CROP + 1) for length in photograph.shape[:2])
        square = Image.fromarray(photograph[top : top + CROP, left : left + CROP])
        crops.append(np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BILINEAR)))
    return np.stack(crops)


def strength(images: np.ndarray, views: np.ndarray) -> Strength:
    """Both uint8 [N, H, W, 3]."""
    change = np.abs(views.astype(np.int16) - images).mean()
    constant = (views.max((1, 2)) == views.min((1, 2))).all(1).mean()
    return Strength(float(change), float(constant))


def batched(crops: np.ndarray, num_ops: int, magnitude: int, which: str) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    images = torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()
    views = [
        rand_augment(part, generator, num_ops=num_ops, magnitude=magnitude, which=which)
        for part in images.split(500)
    ]
    return torch.cat(views).permute(0, 2, 3, 1).numpy()


def one_by_one(crops: np.ndarray, num_ops: int, magnitude: int, which: str) -> np.ndarray:
    random.seed(0)
    augment = PillowRandAugment(num_ops, magnitude, which)
    return np.stack([np.asarray(augment(Image.fromarray(crop))) for crop in crops])


def milliseconds(steps: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median time of a call of each, called in turn so that a busy machine slows all alike."""
    times: list[list[float]] = [[] for _ in steps]
    for round_ in range(rounds + 3):
        for step, taken in zip(steps, times, strict=True):
            start = time.perf_counter()
            step()
            if round_ >= 3:
                taken.append(1000 * (time.perf_counter() - start))
    return [statistics.median(taken) for taken in times]


def batch_times(crops: np.ndarray, rounds: int) -> dict[str, float]:
    """Median ms of a step's batch, by augmentation: 64 labeled weak, 64 unlabeled with one weak, two strong views."""
    images, labels = torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous(), torch.zeros(len(crops))
    names: tuple[str, ...] = ("published", "fixmatch")
    loaders = [
        Loader(
            images, labels.long(), images, views_x=("weak",), views_u=("weak", "strong", "strong"), batch_size=64,
            mean=(0.5,) * 3, std=(0.25,) * 3, flip=True, augment=name, device="cpu", seed=0, prefetch=False,
        )
        for name in names
    ]  # fmt: skip
    return dict(zip(names, milliseconds([loader.next for loader in loaders], rounds), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description="Strength and cost of the strong views.")
    parser.add_argument("--crops", type=int, default=20000, help="crops to augment (default: 20000)")
    parser.add_argument(
        "--photographs", type=Path, nargs="+", metavar="FILE", help="default: scikit-learn's two"
    )
    args = parser.parse_args()
    photographs = sample_photographs()
    if args.photographs:
        photographs = {path.name: np.asarray(Image.open(path).convert("RGB")) for path in args.photographs}
    crops = natural_crops(args.crops, list(photographs.values()))
    print(f"{len(crops)} crops of {CROP} x {CROP} pixels, shrunk to {SIDE} x {SIDE}")
    print(f"{'list':<11}{'n, m':>7}  {'':<11}{'change':>8}{'constant':>10}")
    lists: tuple[str, ...] = ("published", "fixmatch")
    for which in lists:
        for setting in SETTINGS:
            found = {
                "batched": strength(crops, batched(crops, *setting, which)),
                "Pillow": strength(crops, one_by_one(crops, *setting, which)),
            }
            if which == "published":
                found["published"] = PUBLISHED_FIGURES[setting]
            for source, measured in found.items():
                n_m = f"{setting[0]}, {setting[1]}"
                print(
                    f"{which:<11}{n_m:>7}  {source:<11}{measured.change:>8.1f}{100 * measured.constant:>8.1f} %"
                )
    print("\nbatched, published, by photograph: the change depends on how bright the images are")
    for name, photograph in photographs.items():
        part = natural_crops(len(crops) // len(photographs), [photograph])
        changes = [strength(part, batched(part, *setting, "published")).change for setting in SETTINGS]
        print(
            f"{name:<20}{part.mean():>7.0f}  mean value  " + "".join(f"{change:>8.1f}" for change in changes)
        )
    print("\nbatched, by list, digits (scikit-learn's, enlarged), 3 operations of magnitude 4")
    digits = load_dataset("digits", "").train_images.permute(0, 2, 3, 1).numpy()
    for which in lists:
        measured = strength(digits, batched(digits, 3, 4, which))
        print(f"{which:<31}{measured.change:>8.1f}{100 * measured.constant:>8.1f} %")
    print("\nms a batch, one thread, 64 labeled (1 weak view) and 64 unlabeled (1 weak, 2 strong):")
    for name, median in batch_times(crops[:2000], rounds=60).items():
        print(f"{name:<11}{median:>7.1f}")


if __name__ == "__main__":
    main()
