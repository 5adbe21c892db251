"""Images of one's own in one .npz file, as `numpy.savez` writes it.

`train_images` [N, H, W], [N, H, W, 1] or [N, H, W, 3] and `train_labels` [N]; `test_images` and `test_labels`, or a
share of each class is held out; `unlabeled_images` and `class_names` if there are some. Keras's names (`x_train`,
`y_train`, `x_test`, `y_test`) are read too. Pixels are uint8, or floats from 0 to 1. Nothing is unpickled.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from data.archives import DataError
from data.datasets import channel_statistics, shrink
from data.folder import Part, Source, held_out_rows, shown

KERAS = {
    "train_images": "x_train",
    "train_labels": "y_train",
    "test_images": "x_test",
    "test_labels": "y_test",
}
MOST_BYTES = 1 << 36  # of one array: what a small file may claim to hold


def read_npz(source: Source) -> tuple[tuple[str, ...], Part, Part, Part | None]:
    """Class names, and the training, the test and the unlabeled set.

    Raises DataError, one line, for what is no such file, or holds arrays that do not fit each other.
    """
    arrays = _arrays(source)
    images, labels = _labeled("train", arrays, source)
    if "test_images" in arrays:
        test_images, test_labels = _labeled("test", arrays, source)
    else:
        out = held_out_rows(labels, source.test_share)
        images, labels, test_images, test_labels = images[~out], labels[~out], images[out], labels[out]
    names = _names(arrays, int(labels.max()) + 1, source)
    for what, found in (("training", labels), ("test", test_labels)):
        _refuse_missing(what, found, len(names), source)
    parts = [_part(*pair) for pair in ((images, labels), (test_images, test_labels))]
    if "unlabeled_images" not in arrays:
        return names, parts[0], parts[1], None
    unlabeled = _images("unlabeled_images", arrays, source)
    return names, parts[0], parts[1], _part(unlabeled, np.zeros(len(unlabeled), np.int64))


def _arrays(source: Source) -> dict[str, np.ndarray]:
    path = source.path
    if not path.is_file():
        raise DataError(f"--data-dir {shown(path)}: there is no such file; give one that numpy.savez wrote")
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it is no .npz file")
            wanted = {*KERAS, "unlabeled_images", "class_names"} & set(file.files)
            found = {name: _array(file, name) for name in sorted(wanted)}
            for name, other in KERAS.items():
                if name not in found and other in file.files:
                    found[name] = _array(file, other)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError, SyntaxError) as error:
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise DataError(f"--data-dir {shown(path)}: {reason}; write it with numpy.savez") from None
    for name in ("train_images", "train_labels"):
        if name not in found:
            raise DataError(f"--data-dir {shown(path)}: it has no {name} (nor {KERAS[name]}); add that array")
    return found


def _array(file: Mapping[str, Any], name: str) -> np.ndarray:
    """One array, whose size is read from its header before the rest of it is."""
    with file.zip.open(f"{name}.npy") as packed:  # type: ignore[attr-defined]
        version = np.lib.format.read_magic(packed)
        read_header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read_header(packed)
    if np.prod([float(n) for n in shape]) * dtype.itemsize > MOST_BYTES:
        raise ValueError(f"{name} {shape} is larger than {MOST_BYTES >> 30} GiB")
    array: np.ndarray = file[name]
    return array


def _labeled(which: str, arrays: Mapping[str, np.ndarray], source: Source) -> tuple[torch.Tensor, np.ndarray]:
    images, name = _images(f"{which}_images", arrays, source), f"{which}_labels"
    if name not in arrays:
        raise DataError(
            f"--data-dir {shown(source.path)}: it has {which}_images and no {name}; add that array"
        )
    labels = (
        arrays[name].reshape(-1) if arrays[name].ndim == 2 and arrays[name].shape[1] == 1 else arrays[name]
    )
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (len(labels) and labels.min() < 0):
        raise DataError(
            f"--data-dir {shown(source.path)}: {name} are not whole numbers from 0 on, one an image"
        )
    if len(labels) != len(images):
        raise DataError(
            f"--data-dir {shown(source.path)}: {len(images)} {which}_images and {len(labels)} {name}; "
            "give one label an image"
        )
    if len(labels) and labels.max() >= len(labels) + 1000:
        raise DataError(
            f"--data-dir {shown(source.path)}: {name} reach {labels.max()}; number the classes from 0 on"
        )
    return images, labels.astype(np.int64)


def _images(name: str, arrays: Mapping[str, np.ndarray], source: Source) -> torch.Tensor:
    """uint8 [n, 3, S, S]."""
    given = arrays[name]
    array = given[..., None] if given.ndim == 3 else given
    if array.ndim != 4 or array.shape[3] not in (1, 3) or min(array.shape) < 1:
        raise DataError(
            f"--data-dir {shown(source.path)}: {name} {list(given.shape)}: use [N, H, W], [N, H, W, 1] or [N, H, W, 3]"
        )
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise DataError(
                f"--data-dir {shown(source.path)}: {name}: floats must be from 0 to 1; or use uint8"
            )
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise DataError(
            f"--data-dir {shown(source.path)}: {name} are {array.dtype}; use uint8, or floats from 0 to 1"
        )
    side = min(array.shape[1:3])
    top, left = ((length - side) // 2 for length in array.shape[1:3])
    square = array[:, top : top + side, left : left + side].transpose(0, 3, 1, 2)
    images = (
        torch.from_numpy(np.ascontiguousarray(square)) if side == source.size else shrink(square, source.size)
    )
    return images if images.shape[1] == 3 else images.repeat(1, 3, 1, 1)


def _names(arrays: Mapping[str, np.ndarray], least: int, source: Source) -> tuple[str, ...]:
    if "class_names" not in arrays:
        return tuple(str(k) for k in range(max(least, 2)))
    names = arrays["class_names"]
    if (
        names.ndim != 1
        or names.dtype.kind != "U"
        or len(names) < max(least, 2)
        or len(set(names.tolist())) < len(names)
    ):
        raise DataError(
            f"--data-dir {shown(source.path)}: class_names: give {max(least, 2)} or more different texts, one a class"
        )
    return tuple(names.tolist())


def _refuse_missing(what: str, labels: np.ndarray, num_classes: int, source: Source) -> None:
    missing = sorted(set(range(num_classes)) - set(labels.tolist()))
    if what == "training" and missing:
        raise DataError(
            f"--data-dir {shown(source.path)}: class {missing[0]} has no training image; number them 0, 1, ..."
        )
    if len(labels) == 0 or labels.max() >= num_classes:
        raise DataError(
            f"--data-dir {shown(source.path)}: the test set is empty, or has a class that train has not"
        )


def _part(images: torch.Tensor, labels: np.ndarray) -> Part:
    mean, std = channel_statistics(images)
    return Part(images, torch.from_numpy(labels), 0, mean, std)
