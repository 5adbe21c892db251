"""Small data sets in the formats that their authors publish, for torchvision's own readers to read."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import CIFAR10, STL10

from data.idx import FILES

PurePythonPickler: Any = pickle._Pickler  # its table of types can be changed, unlike the one written in C


class Python2Pickler(PurePythonPickler):
    """Writes strings and bytes as Python 2 wrote its one kind of string, which CIFAR's files are full of."""

    dispatch = dict(PurePythonPickler.dispatch)  # noqa: RUF012

    def save_string(self, text):
        raw = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_string


def python2_pickle(content) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def md5(raw: bytes) -> str:
    return hashlib.md5(raw, usedforsecurity=False).hexdigest()


def cifar_files(
    reader: type[CIFAR10], images: np.ndarray, labels: np.ndarray, class_names
) -> dict[str, bytes]:
    """File name to content; images uint8 [N, 3, 32, 32] are dealt in order to the reader's batches, test last."""
    names = [entry[0] for entry in reader.train_list + reader.test_list]
    label_key = "labels" if reader is CIFAR10 else "fine_labels"
    files = {}
    for name, rows in zip(names, np.array_split(np.arange(len(images)), len(names)), strict=True):
        batch = {
            "batch_label": f"part {name}",
            label_key: [int(v) for v in labels[rows]],
            "data": images[rows].reshape(len(rows), 3072),
            "filenames": [f"image_{row}.png" for row in rows],
        }
        files[name] = python2_pickle(batch)
    files[reader.meta["filename"]] = python2_pickle({reader.meta["key"]: list(class_names), "num_vis": 3072})
    return files


def stl10_files(train, test, unlabeled) -> dict[str, bytes]:
    """train and test are (images uint8 [N, 3, 96, 96], labels 0..9). Columns come first on disk, classes from 1."""

    def by_columns(images):
        return images.transpose(0, 1, 3, 2).tobytes()

    return {
        "train_X.bin": by_columns(train[0]),
        "train_y.bin": (train[1] + 1).astype(np.uint8).tobytes(),
        "unlabeled_X.bin": by_columns(unlabeled),
        "test_X.bin": by_columns(test[0]),
        "test_y.bin": (test[1] + 1).astype(np.uint8).tobytes(),
    }


def publish(monkeypatch, reader: type[CIFAR10] | type[STL10], files: dict[str, bytes]) -> bytes:
    """Let torchvision's class take these files for the published ones; return the archive that holds them."""
    archive = tar_gz({f"{reader.base_folder}/{name}": raw for name, raw in files.items()})
    for attribute in ("train_list", "test_list"):
        sums = [[name, md5(files[name])] for name, _ in getattr(reader, attribute)]
        monkeypatch.setattr(reader, attribute, sums)
    if hasattr(reader, "meta"):
        monkeypatch.setattr(reader, "meta", reader.meta | {"md5": md5(files[reader.meta["filename"]])})
    monkeypatch.setattr(reader, "tgz_md5", md5(archive))
    return archive


def tar_gz(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, raw in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return out.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in files.items():
        (folder / name).write_bytes(raw)


def idx(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()
    )


def fashion_mnist_files(train, test, *, packed: bool) -> dict[str, bytes]:
    """train and test are (images uint8 [N, 28, 28], labels uint8 [N])."""
    arrays = dict(zip(FILES, (*train, *test), strict=True))
    if packed:
        return {f"{name}.gz": gzip.compress(idx(array)) for name, array in arrays.items()}
    return {name: idx(array) for name, array in arrays.items()}
