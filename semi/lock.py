"""One writer for a run's folder or a cached estimate: an advisory lock of the operating system.

It is held by an open file and ends with the process that opened it, however that process ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path

from semi.config import ConfigError
from semi.run_folder import keep_aside
from tracking.local import clear_temporary_files

POLL_S = 0.5


def run_lock(folder: Path) -> Path:
    """The file whose lock says that a process writes to a run's folder."""
    return folder / ".lock"


@contextmanager
def held_alone(path: Path, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock of the file `path`, which names the holder meanwhile and is removed at the end.

    wait: called once with the holder's name where another process holds it; then this one waits for it. None: refuse.

    Raises ConfigError, one line with the holder, when it is held by another process. A file system without locks is
    said on standard error, and counts as free.
    """
    file = _lock(path)
    told = False
    while file is None:
        if wait is None:
            raise ConfigError(
                f"{path.parent}: {holder(path)} is writing to it; wait for its end, or use another --out or --run_name"
            )
        if not told:
            wait(holder(path))
        told = True
        time.sleep(POLL_S)
        file = _lock(path)
    try:
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
    except OSError:  # a full disk; the lock holds all the same
        pass
    try:
        yield
    finally:
        if _is_at(path, file):  # its folder may have been renamed, and another process have made a new one
            path.unlink()
        file.close()


@contextmanager
def claimed(folder: Path, *, overwrite: bool = False) -> Iterator[None]:
    """Be the one process that writes to a run's folder, which is made where it is not there.

    overwrite: a folder that is there is first renamed, so that reports skip it.

    Raises ConfigError when another process writes to it, also before it is renamed.
    """
    if overwrite and folder.exists():
        with held_alone(run_lock(folder)):
            kept = keep_aside(folder)
        if kept is not None:
            run_lock(kept).unlink()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with held_alone(run_lock(folder)):
            clear_temporary_files(folder)
            yield
    finally:
        with suppress(OSError):
            folder.rmdir()  # succeeds only where nothing was written


def holder(path: Path) -> str:
    """Who wrote last into the lock's file."""
    try:
        written = json.loads(path.read_text())
        return f"process {int(written['pid'])} on {written['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _lock(path: Path) -> TextIOWrapper | None:
    """The open file at `path`, locked; None where another process holds it."""
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
            file.truncate(0)
            return file
        file.close()  # its holder removed the file between our opening and locking it


def _is_at(path: Path, file: TextIOWrapper) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
