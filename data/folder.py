"""Images of one's own: a folder with one folder a class (the layout of torchvision's ImageFolder), or one .npz file.

    X/train/cat/1.png  X/train/dog/2.jpg  X/test/cat/3.png ...     with a test set of its own
    X/cat/1.png        X/dog/2.jpg        ...                      without: a share of each class is held out

Images of any size and mode become [3, S, S]: turned as their EXIF data say, the shorter side resized to S, the middle
cut out. What was decoded is kept in a cache, keyed by the files' names, sizes and times, so that a second start reads
one file that is mapped into memory.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from data.archives import DataError
from data.datasets import channel_statistics

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
FORMAT = 1  # of the cache: another number makes every image decoded again
NAMED = 3  # broken images that a message names


@dataclass(frozen=True)
class Source:
    """Where images of one's own come from, and how they are read."""

    path: Path
    """A folder, or an .npz file."""
    unlabeled: Path | None = None
    """A folder of images without labels, at any depth."""
    size: int = 32
    """Side S of the images, in pixels."""
    test_share: float = 0.2
    """Share of each class that is held out as the test set where there is none."""
    skip_broken: bool = False
    """Leave out images that cannot be read, and count them, in place of refusing all."""
    flip: bool = True
    """Whether a mirrored image is still of its class."""
    cache: Path = field(default_factory=lambda: default_cache())


@dataclass(frozen=True)
class Part:
    """Images of one set: uint8 [n, 3, S, S], and their classes [n], where they have some."""

    images: Tensor
    labels: Tensor
    skipped: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def default_cache() -> Path:
    """Where decoded images are kept unless told otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "darp-wandb"


def read_classes(source: Source) -> tuple[tuple[str, ...], Part, Part]:
    """Class names in alphabetical order, the training and the test set of a folder of folders.

    Raises DataError, one line, for a folder that is not so laid out, and for images that cannot be read.
    """
    root = source.path
    if not root.is_dir():
        raise DataError(
            f"--data-dir {shown(root)}: there is no such folder; give one that holds a folder a class"
        )
    train_root, test_root = (
        root / "train",
        next((root / n for n in ("test", "val") if (root / n).is_dir()), None),
    )
    if not train_root.is_dir():
        train_root, test_root = root, None
    names = class_names(train_root)
    train_files, train_labels = files_by_class(train_root, names)
    if test_root is not None:
        if others := sorted(set(class_names(test_root)) - set(names)):
            raise DataError(
                f"--data-dir {shown(root)}: class {shown(others[0])} of {test_root.name} is not in train; "
                "give both the same classes"
            )
        test_files, test_labels = files_by_class(test_root, names)
    else:
        held_out = held_out_rows(train_labels, source.test_share)
        test_files = [file for file, out in zip(train_files, held_out, strict=True) if out]
        test_labels = train_labels[held_out]
        train_files = [file for file, out in zip(train_files, held_out, strict=True) if not out]
        train_labels = train_labels[~held_out]
    parts = [
        decoded(files, labels, source)
        for files, labels in ((train_files, train_labels), (test_files, test_labels))
    ]
    for part, what in zip(parts, ("training", "test"), strict=True):
        missing = sorted(set(range(len(names))) - set(part.labels.tolist()))
        if missing and (what == "training" or len(part.labels) == 0):
            raise DataError(
                f"--data-dir {shown(root)}: class {shown(names[missing[0]])} has no {what} image; "
                "add some, raise --test_share, or remove its folder"
            )
    return names, parts[0], parts[1]


def read_unlabeled(source: Source) -> Part | None:
    """The images of `source.unlabeled`, at any depth, in the order of their paths; None where there is no such folder.

    Raises DataError, one line, for a folder without images, and for images that cannot be read.
    """
    root = source.unlabeled
    if root is None:
        return None
    if not root.is_dir():
        raise DataError(f"--unlabeled-dir {shown(root)}: there is no such folder; give one that holds images")
    files = list(images_under(root))
    if not files:
        raise DataError(f"--unlabeled-dir {shown(root)}: it holds no image ({', '.join(ENDINGS)})")
    return decoded(files, np.zeros(len(files), np.int64), source)


def class_names(root: Path) -> tuple[str, ...]:
    """Names of the folders in `root`, in alphabetical order; hidden ones are none."""
    names = sorted(
        entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if len(names) < 2:
        raise DataError(
            f"--data-dir {shown(root)}: it holds {len(names)} folders; give a folder that has one for each class, "
            "two or more"
        )
    for name in names:
        if not name.isprintable() or any(ord(c) in range(0xDC80, 0xDD00) for c in name):
            raise DataError(
                f"--data-dir {shown(root)}: {shown(name)} is no name for a class; rename that folder"
            )
    return tuple(names)


def files_by_class(root: Path, names: Sequence[str]) -> tuple[list[Path], np.ndarray]:
    """Files of all classes, class after class, and their classes [n]."""
    files: list[Path] = []
    labels: list[int] = []
    for k, name in enumerate(names):
        found = list(images_under(root / name)) if (root / name).is_dir() else []
        files += found
        labels += [k] * len(found)
    return files, np.array(labels, np.int64)


def images_under(root: Path) -> Iterator[Path]:
    """Files whose ending is that of an image, at any depth, in the order of their paths. Links to folders are not
    followed, and hidden files are none."""
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                yield Path(folder) / name


def held_out_rows(labels: np.ndarray, share: float) -> np.ndarray:
    """Which rows are the test set [n]: of each class that share, drawn by a fixed seed, and one at least."""
    held_out = np.zeros(len(labels), bool)
    for k in np.unique(labels):
        rows = np.flatnonzero(labels == k)
        drawn = np.random.default_rng(0).permutation(rows)
        if len(rows) > 1:
            held_out[drawn[: min(len(rows) - 1, max(1, round(share * len(rows))))]] = True
    return held_out


def decoded(files: Sequence[Path], labels: np.ndarray, source: Source) -> Part:
    """The images of `files`, out of the cache if they are in it.

    Raises DataError, one line, for images that cannot be read, unless they are to be skipped.
    """
    images, facts = _cached(files, source) or _decoded_anew(files, source)
    broken = {int(row): reason for row, reason in facts["broken"].items()}
    if broken and not source.skip_broken:
        more = f", and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
        named = "; ".join(f"{shown(files[row])} ({reason})" for row, reason in list(broken.items())[:NAMED])
        raise DataError(
            f"{len(broken)} images cannot be read: {named}{more}. Mend them, or add --skip_broken"
        )
    kept = np.ones(len(files), bool)
    kept[list(broken)] = False
    if not kept.any():
        raise DataError(f"none of the {len(files)} images in {shown(files[0].parent)} can be read")
    whole = torch.from_numpy(images) if kept.all() else torch.from_numpy(images[kept])
    return Part(whole, torch.from_numpy(labels[kept]), len(broken), tuple(facts["mean"]), tuple(facts["std"]))


def _cached(files: Sequence[Path], source: Source) -> tuple[np.ndarray, dict[str, Any]] | None:
    """Images [n, 3, S, S], mapped from the cache, and what it says of them; None where it has not all of it."""
    path, shape = source.cache / key_of(files, source.size), (len(files), 3, source.size, source.size)
    try:
        facts = json.loads(path.with_suffix(".json").read_text())
        if {"broken", "mean", "std"} <= set(facts) and path.with_suffix(
            ".images"
        ).stat().st_size == math.prod(shape):
            return np.memmap(path.with_suffix(".images"), np.uint8, "c", shape=shape), facts
    except (OSError, ValueError, TypeError):  # not there, or damaged
        pass
    return None


def _decoded_anew(files: Sequence[Path], source: Source) -> tuple[np.ndarray, dict[str, Any]]:
    """The same by reading the files, kept in the cache unless the disk does not take it."""
    images, broken = decode_all(files, source.size)
    kept = np.ones(len(files), bool)
    kept[list(broken)] = False
    mean, std = channel_statistics(torch.from_numpy(images if kept.all() else images[kept]))
    facts = {"broken": broken, "mean": mean, "std": std}
    path = source.cache / key_of(files, source.size)
    try:
        source.cache.mkdir(parents=True, exist_ok=True)
        _write(path.with_suffix(".images"), images.data)
        _write(
            path.with_suffix(".json"), json.dumps(facts).encode()
        )  # last: it says that the images are whole
    except OSError as error:
        print(f"decoded images are not kept for the next start: {error}", file=sys.stderr)
    return images, json.loads(json.dumps(facts))


def _write(path: Path, content: bytes | memoryview) -> None:
    """All of it, or nothing: a reader sees the old file or the new one."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def key_of(files: Sequence[Path], size: int) -> str:
    """Of the files' paths, sizes and times, and of what is made of them."""
    digest = hashlib.sha256(f"{FORMAT} {size}".encode())
    for file in files:
        try:
            status = file.stat()
        except OSError:  # a dangling link: decoding it will say so
            continue
        digest.update(
            f"{file.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape")
        )
    return digest.hexdigest()[:32]


def decode_all(files: Sequence[Path], size: int) -> tuple[np.ndarray, dict[int, str]]:
    """uint8 [n, 3, size, size], black where an image is broken, and the reasons by row."""
    images = np.zeros((len(files), 3, size, size), np.uint8)
    broken: dict[int, str] = {}

    def decode_row(row: int) -> None:
        try:
            images[row] = decode(files[row], size)
        except (
            Exception
        ) as error:  # Pillow raises many kinds for damaged files; all of them are the file's fault
            broken[row] = " ".join(str(error).split())[:120] or type(error).__name__

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for done, _ in enumerate(pool.map(decode_row, range(len(files))), 1):
            if done % 5000 == 0 and sys.stderr.isatty():
                print(f"\rreading images: {done:,} of {len(files):,}", end="", file=sys.stderr, flush=True)
    return images, dict(sorted(broken.items()))


def decode(file: Path, size: int) -> np.ndarray:
    """uint8 [3, size, size] of one image file; the first frame of several."""
    with Image.open(file) as image:
        image.load()
        turned = ImageOps.exif_transpose(image)
        if turned.mode.startswith("I;16") or turned.mode in (
            "I",
            "F",
        ):  # more than 8 bits: Pillow would clip them
            values = np.asarray(turned, np.float64)
            if not np.isfinite(values).all() or values.min() < 0 or values.max() > 65535:
                raise ValueError("its values are not 0 to 65535")
            turned = Image.fromarray((values / 257).round().astype(np.uint8))
        if turned.mode in ("RGBA", "LA", "PA") or "transparency" in turned.info:
            on_white = Image.new("RGBA", turned.size, "white")
            on_white.alpha_composite(turned.convert("RGBA"))
            turned = on_white
        fitted = ImageOps.fit(turned.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
        return np.ascontiguousarray(np.asarray(fitted).transpose(2, 0, 1))


def shown(value: object) -> str:
    """A path or a name in a message of one line, whatever characters it has."""
    text = str(value).encode(errors="surrogateescape").decode(errors="backslashreplace")
    return text if text.isprintable() else repr(text)
