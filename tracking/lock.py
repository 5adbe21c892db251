"""An advisory lock of the operating system on a run's folder, or on a file that several processes may write.

It is held by an open file and ends with the process that opened it, however that process ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path


def run_lock(folder: Path) -> Path:
    """The file whose lock says that a process writes to a run's folder."""
    return folder / ".lock"


@contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock of the file `path` where no other process does; gives whether it is held."""
    file = lock(path)
    try:
        yield file is not None
    finally:
        if file is not None:
            release(path, file)


def holder(path: Path) -> str:
    """Who wrote last into the lock's file."""
    try:
        written = json.loads(path.read_text())
        return f"process {int(written['pid'])} on {written['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def lock(path: Path) -> TextIOWrapper | None:
    """The open file at `path`, locked, with this process's name in it; None where another process holds it.

    A file system without locks is said on standard error, and counts as free.
    """
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - open as long as the lock is held
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:
            print(
                f"{path}: this file system has no locks ({error.strerror}); start only one process here",
                file=sys.stderr,
            )
        if _is_at(path, file):
            try:
                file.truncate(0)
                file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
                file.flush()
            except OSError:  # a full disk; the lock holds all the same
                pass
            return file
        file.close()  # its holder removed the file between our opening and locking it


def release(path: Path, file: TextIOWrapper) -> None:
    """Give the lock back and remove its file."""
    if _is_at(path, file):  # its folder may have been renamed, and another process have made a new one
        path.unlink()
    file.close()


def _is_at(path: Path, file: TextIOWrapper) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
