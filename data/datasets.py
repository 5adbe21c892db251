"""The data sets, each as whole arrays of 32 x 32 images.

CIFAR and STL-10 come through torchvision (`data.archives`), Fashion-MNIST from its IDX files (`data.idx`),
the digits from the file inside scikit-learn. Images of one's own have a module of their own (`data.own`). torchvision
is imported where its files are read: it takes a second, and the digits and Fashion-MNIST do without.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data.archives import DataError, files_missing, open_checked
from data.augment import resize
from data.idx import FASHION_MNIST_CLASSES, read_fashion_mnist

__all__ = ["READERS", "DataError", "Dataset", "channel_statistics", "load_dataset", "make_dataset", "shrink"]

SIZE = 32
STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


@dataclass(frozen=True)
class Dataset:
    """Images are uint8 [N, 3, S, S], labels int64 [N] with classes 0..K-1; on the CPU, in file order. S is 32 but for
    images of one's own."""

    name: str
    class_names: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    extra_unlabeled_images: Tensor | None
    """STL-10's 100,000 images without labels, or those of --unlabeled-dir; None for the others."""
    mean: tuple[float, float, float]
    """Mean of each channel over the training images, on the scale 0..1."""
    std: tuple[float, float, float]
    """Standard deviation, likewise; 1 for a channel that is constant, so that dividing by it is safe."""
    flip: bool
    """Whether a mirrored image is still of its class."""
    train_full_size: Tensor | None = None
    """The training images before they were resized, uint8 [N, 3, H, W]; None where they were not, or not kept."""
    extra_full_size: Tensor | None = None
    """The extra unlabeled images, likewise."""
    skipped: int = 0
    """Images of one's own that could not be read and are left out."""

    def images_at(self, index: Tensor) -> Tensor:
        """uint8 [n, 3, S, S] at `index` [n], which counts the training images and then the extra unlabeled ones."""
        return _at(self.train_images, self.extra_unlabeled_images, index)

    def full_size_at(self, index: Tensor) -> Tensor | None:
        """The same images before they were resized, uint8 [n, 3, H, W]; None where they were not kept."""
        if self.train_full_size is None:
            return None
        return _at(self.train_full_size, self.extra_full_size, index)


def _at(own: Tensor, extra: Tensor | None, index: Tensor) -> Tensor:
    """Rows `index` of `own` followed by `extra`, without a copy of all of both."""
    if extra is None:
        return own[index]
    is_own = index < len(own)
    out = own.new_empty(len(index), *own.shape[1:])
    out[is_own] = own[index[is_own]]
    out[~is_own] = extra[index[~is_own] - len(own)]
    return out


def load_dataset(
    name: str, data_dir: str | Path, *, download: bool = True, full_size: bool = False
) -> Dataset:
    """Read a data set of `READERS` from `data_dir`, or download it there if it may.

    full_size: keep the images of STL-10 at 96 x 96 too, for views that are made before the resizing: 2.9 GB more.

    Without `download`, files that are not there raise FilesMissingError, which is a DataError. DataError is raised
    when the data set is neither there nor to be had, or when a file is damaged. No file is ever deleted, and none that
    was found damaged is overwritten.
    """
    if name not in READERS:
        raise DataError(f"dataset {name!r} is unknown; use one of {', '.join(READERS)}")
    try:
        folder = Path(data_dir).expanduser()
    except RuntimeError:
        raise DataError(
            f"--data-dir {data_dir}: there is no such user; write the folder's whole path"
        ) from None
    return _read_stl10(folder, download, full_size) if name == "stl10" else READERS[name](folder, download)


def channel_statistics(images: Tensor) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel of uint8 [N, 3, H, W], on the scale 0..1, in float64.

    They are taken from the counts of the 256 values, so that no float copy of the images is made.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(3):
        share = torch.bincount(images[:, channel].flatten(), minlength=256).double()
        share = share / share.sum()
        mean = (share * values).sum()
        variance = (share * (values - mean) ** 2).sum()
        means.append(float(mean))
        stds.append(float(variance.sqrt()) or 1.0)
    return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])


def shrink(images: np.ndarray, size: int = SIZE, chunk: int = 2000) -> Tensor:
    """uint8 [N, 3, H, W] resized to [N, 3, size, size] by antialiased bilinear interpolation.

    `chunk` images at a time: as floats, STL-10's unlabeled images would take 11 GB at once.
    """
    out = torch.empty(len(images), images.shape[1], size, size, dtype=torch.uint8)
    for start in range(0, len(images), chunk):
        part = torch.from_numpy(np.ascontiguousarray(images[start : start + chunk]))
        out[start : start + chunk] = resize(part, size)
    return out


def make_dataset(
    name: str,
    class_names: Sequence[str],
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    flip: bool,
    extra: Tensor | None = None,
) -> Dataset:
    """A data set of images in memory; its mean and deviation are those of the training images.

    Args:
        class_names: [K].
        train, test: images uint8 [N, 3, S, S] and labels int64 [N] with classes 0..K-1.
        flip: whether a mirrored image is still of its class.
        extra: unlabeled images beside them, uint8 [M, 3, S, S].

    Raises DataError, one line, for arrays that are something else.
    """
    size = train[0].shape[-1]
    for part, (images, labels) in (("training", train), ("test", test)):
        _require_images(name, part, images, size)
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise DataError(
                f"dataset {name}: the {part} labels are {_shown(labels)}; give int64 [{len(images)}]"
            )
        if labels.min() < 0 or labels.max() >= len(class_names):
            raise DataError(
                f"dataset {name}: the {part} labels run from {labels.min()} to {labels.max()}; "
                f"{len(class_names)} class names make it 0 to {len(class_names) - 1}"
            )
    if extra is not None:
        _require_images(name, "extra unlabeled", extra, size)
    mean, std = channel_statistics(train[0])
    return Dataset(name, tuple(class_names), *train, *test, extra, mean, std, flip)


def _require_images(name: str, part: str, images: Tensor, size: int) -> None:
    if images.dtype != torch.uint8 or images.shape[1:] != (3, size, size) or not len(images):
        raise DataError(
            f"dataset {name}: the {part} images are {_shown(images)}; give uint8 [N, 3, S, S], all of one size"
        )


def _shown(array: Tensor) -> str:
    return f"{str(array.dtype).removeprefix('torch.')} {list(array.shape)}"


def _read_cifar(name: str, data_dir: Path, download: bool) -> Dataset:
    _refuse_early(name, "cifar-10*" if name == "cifar10" else "cifar-100*", data_dir, download)
    from torchvision.datasets import CIFAR10, CIFAR100

    reader = CIFAR10 if name == "cifar10" else CIFAR100
    train = open_checked(name, reader, data_dir, download=download, train=True)
    test = open_checked(name, reader, data_dir, download=download, train=False)
    arrays = [
        (
            torch.from_numpy(part.data.transpose(0, 3, 1, 2).copy()),
            torch.tensor(part.targets, dtype=torch.int64),
        )
        for part in (train, test)
    ]
    return make_dataset(name, tuple(train.classes), arrays[0], arrays[1], flip=True)


def _read_stl10(data_dir: Path, download: bool, full_size: bool = False) -> Dataset:
    """Resized from 96 x 96. One part after the other: the unlabeled alone is 2.8 GB before it is resized."""
    _refuse_early("stl10", "stl10*", data_dir, download)
    from torchvision.datasets import STL10

    small, labels, full = {}, {}, {}
    for split in ("train", "test", "unlabeled"):
        part = open_checked("stl10", STL10, data_dir, download=download, split=split)
        small[split], labels[split] = shrink(part.data), torch.from_numpy(part.labels.astype(np.int64))
        if full_size and split != "test":
            full[split] = torch.from_numpy(part.data)  # not copied
    train, test = ((small[split], labels[split]) for split in ("train", "test"))
    dataset = make_dataset("stl10", STL10_CLASSES, train, test, flip=True, extra=small["unlabeled"])
    return replace(dataset, train_full_size=full.get("train"), extra_full_size=full.get("unlabeled"))


def _refuse_early(name: str, files: str, data_dir: Path, download: bool) -> None:
    """FilesMissingError before torchvision is imported: nothing may be downloaded, and no name is like `files`."""
    if not download and not any(data_dir.glob(files)):
        raise files_missing(name, data_dir)


def _read_fashion_mnist(data_dir: Path, download: bool) -> Dataset:
    """28 x 28 grey, padded by 2 on each side with the background's 0, and the same in the three channels."""
    parts = []
    for images, labels in read_fashion_mnist(data_dir, download=download):
        padded = functional.pad(torch.from_numpy(images), (2, 2, 2, 2))
        parts.append((padded.unsqueeze(1).repeat(1, 3, 1, 1), torch.from_numpy(labels.astype(np.int64))))
    return make_dataset("fashion_mnist", FASHION_MNIST_CLASSES, parts[0], parts[1], flip=True)


def _read_digits(data_dir: Path, download: bool) -> Dataset:
    """1,797 images of 8 x 8 with values 0..16 (Alpaydin and Kaynak 1998), enlarged to 32 x 32.

    The last quarter of each class in file order is the test set. A mirrored digit is no digit: no flip.
    """
    pixels, classes = _digits()
    images = torch.from_numpy(pixels).float().unsqueeze(1) * (255 / 16)
    images = functional.interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False)
    grey = images.round().clamp(0, 255).to(torch.uint8).repeat(1, 3, 1, 1)
    labels = torch.from_numpy(classes).to(torch.int64)
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for k in range(10):
        rows = torch.nonzero(labels == k).flatten()
        is_test[rows[len(rows) - len(rows) // 4 :]] = True
    train, test = (grey[~is_test], labels[~is_test]), (grey[is_test], labels[is_test])
    return make_dataset("digits", tuple(str(k) for k in range(10)), train, test, flip=False)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Images float64 [1797, 8, 8] and classes [1797] as `sklearn.datasets.load_digits` gives them.

    They are read from the file that it reads, because importing scikit-learn takes a second. A version that keeps the
    file elsewhere is asked itself.
    """
    spec = find_spec("sklearn")  # finds the folder, imports nothing
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            with gzip.open(path, "rt") as file:
                table = np.loadtxt(file, delimiter=",")
            return table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target


READERS: dict[str, Callable[[Path, bool], Dataset]] = {
    "cifar10": partial(_read_cifar, "cifar10"),
    "cifar100": partial(_read_cifar, "cifar100"),
    "stl10": _read_stl10,
    "fashion_mnist": _read_fashion_mnist,
    "digits": _read_digits,
}
