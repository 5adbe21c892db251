"""One writer for a run's folder or a cached estimate; another one is refused, or waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from semi.config import ConfigError
from semi.run_folder import keep_aside
from tracking.local import clear_temporary_files
from tracking.lock import holder, lock, release, run_lock

POLL_S = 0.5


@contextmanager
def held_alone(path: Path, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock of the file `path`, which names the holder meanwhile and is removed at the end.

    wait: called once with the holder's name where another process holds it; then this one waits for it. None: refuse.

    Raises ConfigError, one line with the holder, when it is held by another process. A file system without locks is
    said on standard error, and counts as free.
    """
    file = lock(path)
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
        file = lock(path)
    try:
        yield
    finally:
        release(path, file)


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
