"""CIFAR and STL-10 through torchvision's own classes, with errors that a user can act on.

torchvision compares each file with its published MD5 sum and unpickles a CIFAR file only after that, so this
module never opens one itself. Nothing is deleted here, and a file that was found damaged is not overwritten.
"""

from __future__ import annotations

import http.client
import socket
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_NO_ANSWER_S = 20.0  # a server that says nothing for this long counts as unreachable

# What torchvision's download and unpacking raise on a machine without network, with a full or read-only disk,
# or for a server that sends something else. Anything else is a mistake in a program and passes through.
_DOWNLOAD_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    EOFError,
    zlib.error,
    tarfile.TarError,
    http.client.HTTPException,
)


class DataError(ValueError):
    """A data set cannot be read; the message is one line that names the file and the way out."""


class FilesMissingError(DataError):
    """The files are not there yet, and nothing was to be downloaded."""


def files_missing(name: str, data_dir: Path) -> FilesMissingError:
    """The error of a data set that is not in `data_dir` and may not be downloaded."""
    return FilesMissingError(f"{name} is not in {data_dir} yet: a run downloads it first")


def open_checked(name: str, reader: type[Any], data_dir: Path, *, download: bool = True, **which: Any) -> Any:
    """torchvision's data set object, from the files if they are whole, else after a download, else DataError.

    name: of the data set, for messages. reader: torchvision's class, such as CIFAR10; `which` goes to it.
    """
    try:
        return reader(root=str(data_dir), **which)
    except RuntimeError:  # what torchvision raises for files that are missing or whose MD5 sum is wrong
        _download(name, reader, data_dir, download)
    except OSError as error:
        raise DataError(f"{name}: {error}; make the file readable, or use another --data-dir") from error
    try:
        return reader(root=str(data_dir), **which)
    except RuntimeError as error:
        folder = data_dir / reader.base_folder
        raise DataError(
            f"{name}: {folder} is incomplete after the download; remove it and run again"
        ) from error


@contextmanager
def download_errors(data_dir: Path, what: str, way_out: str) -> Iterator[None]:
    """Turn whatever a download raises into a DataError of one line, and don't wait for a silent server.

    what: what is missing and where it was looked for; way_out: which file to put where. Folders that the failed
    download made under or at `data_dir` and left empty are removed again.
    """
    before, was_there = socket.getdefaulttimeout(), data_dir.exists()
    socket.setdefaulttimeout(_NO_ANSWER_S)
    try:
        yield
    except _DOWNLOAD_ERRORS as error:
        if not was_there:
            _remove_empty(data_dir)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{what}, and the download failed ({reason[:200]}); {way_out}, "
            "or use another --dataset (digits needs no files)"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _remove_empty(folder: Path) -> None:
    """Remove the folder if nothing but empty folders is in it; a file that is there, whole or not, stays."""
    for below in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        with suppress(OSError):
            below.rmdir()
    with suppress(OSError):
        folder.rmdir()


def _download(name: str, reader: type[Any], data_dir: Path, download: bool) -> None:
    """Fetch and unpack the archive, unless a damaged file is in the way: that one is the user's to remove."""
    from torchvision.datasets.utils import check_integrity  # here, because importing it takes a second

    folder, archive = data_dir / reader.base_folder, data_dir / reader.filename
    batches = [(folder / file_name, md5) for file_name, md5 in (*reader.train_list, *reader.test_list)]
    meta = getattr(reader, "meta", None)  # the class names of CIFAR
    files = batches + ([(folder / meta["filename"], meta["md5"])] if meta else [])
    anew = f"remove the folder {folder} and run again: it is unpacked or downloaded anew"
    for path, md5 in files:
        if path.exists() and not check_integrity(str(path), md5):
            raise DataError(f"{name}: {path} is damaged (its MD5 sum is not the published {md5}); {anew}")
    if archive.exists() and not check_integrity(str(archive), reader.tgz_md5):
        raise DataError(
            f"{name}: {archive} is damaged or only half downloaded (its MD5 sum is not the published "
            f"{reader.tgz_md5}); remove it and run again, or put a whole copy from {reader.url} in its place"
        )
    missing = [path for path, _ in files if not path.exists()]
    if meta and missing == [
        folder / meta["filename"]
    ]:  # torchvision takes the batches for the whole and stops
        raise DataError(f"{name}: {missing[0]} is missing; {anew}")
    if not download:
        raise files_missing(name, data_dir)
    with download_errors(
        data_dir,
        f"{name} is not in {data_dir}: looked for {missing[0] if missing else folder} and {archive}",
        f"put {reader.filename} from {reader.url} into {data_dir}",
    ):
        reader(root=str(data_dir), download=True)
