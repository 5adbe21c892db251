"""Fashion-MNIST (Xiao et al. 2017) from its four IDX files, wherever they lie."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from data.archives import DataError, download_errors, files_missing

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
SIDE = 28
FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def read_fashion_mnist(data_dir: Path, *, download: bool = True) -> list[tuple[np.ndarray, np.ndarray]]:
    """(images uint8 [N, 28, 28], labels uint8 [N]) of the training and of the test set.

    The first of these folders that has all four files, packed or not, is read: torchvision's
    FashionMNIST/raw under data_dir, data_dir, data_dir/fashion-mnist, Debian's. Where none has, torchvision
    downloads them, unless `download` is False. Raises DataError.
    """
    raw = data_dir / "FashionMNIST" / "raw"
    folders = (raw, data_dir, data_dir / "fashion-mnist", DEBIAN_FOLDER)
    paths = next((found for found in map(_paths, folders) if found), None)
    if paths is None:
        _download(data_dir, raw, folders, download)
        paths = _paths(raw)
    if paths is None:
        raise DataError(f"fashion_mnist: {raw} is incomplete after the download; remove it and run again")
    return [_images_and_labels(paths[0], paths[1]), _images_and_labels(paths[2], paths[3])]


def read_idx(path: Path) -> np.ndarray:
    """The array in an IDX file of unsigned bytes, gzipped or not.

    Two zero bytes, the type 8, the number of dimensions, their sizes as big-endian 32-bit integers, then the
    values (LeCun's description of the MNIST files). The length is compared with the sizes, and gzip compares
    its own CRC-32: the packed files of different distributions differ in their MD5 sums. Raises DataError.
    """
    way_out = "remove it and run again, or put the original file in its place"
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or only half downloaded ({error}); {way_out}") from error
    except OSError as error:
        raise DataError(f"{error}; make the file readable, or use another --data-dir") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise DataError(f"{path} is not an IDX file of bytes; {way_out}")
    header = 4 + 4 * content[3]
    sizes = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4))
    expected = header + int(np.prod(sizes, dtype=object))
    if len(content) != expected:
        raise DataError(f"{path} has {len(content)} bytes where its header announces {expected}; {way_out}")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(sizes).copy()


def _paths(folder: Path) -> list[Path] | None:
    """The four files in the order of `FILES`, unpacked or not; None unless all are there."""
    paths = [next((p for p in (folder / f, folder / f"{f}.gz") if p.is_file()), None) for f in FILES]
    found = [path for path in paths if path is not None]
    return found if len(found) == len(FILES) else None


def _images_and_labels(images_path: Path, labels_path: Path) -> tuple[np.ndarray, np.ndarray]:
    images, labels = read_idx(images_path), read_idx(labels_path)
    way_out = "put the original files in their place"
    if images.ndim != 3 or images.shape[1:] != (SIDE, SIDE) or labels.shape != (len(images),):
        raise DataError(
            f"fashion_mnist: {images_path} has shape {images.shape} and {labels_path} {labels.shape}, "
            f"not (N, {SIDE}, {SIDE}) and (N,); {way_out}"
        )
    if len(labels) == 0 or labels.max() >= len(FASHION_MNIST_CLASSES):
        raise DataError(f"fashion_mnist: {labels_path} does not hold classes 0 to 9; {way_out}")
    return images, labels


def _download(data_dir: Path, raw: Path, folders: tuple[Path, ...], download: bool) -> None:
    from torchvision.datasets import FashionMNIST  # here, because importing it takes a second
    from torchvision.datasets.utils import check_integrity

    for file_name, md5 in FashionMNIST.resources:
        path = raw / file_name
        if path.exists() and not check_integrity(str(path), md5):
            raise DataError(
                f"fashion_mnist: {path} is damaged or only half downloaded (its MD5 sum is not the published "
                f"{md5}); remove it and run again"
            )
    if not download:
        raise files_missing("fashion_mnist", data_dir)
    with download_errors(
        data_dir,
        f"fashion_mnist is not in {data_dir}: looked for {FILES[0]}.gz and the other three files in "
        + ", ".join(str(folder) for folder in folders),
        f"put {', '.join(f'{name}.gz' for name in FILES)} into {data_dir} "
        "(Debian and Ubuntu: apt install dataset-fashion-mnist)",
    ):
        FashionMNIST(root=str(data_dir), download=True)
