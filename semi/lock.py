"""One writer for a run's folder or a cached estimate; another one is refused, or waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path

import torch

from semi.config import ConfigError
from semi.distributed import Ranks
from semi.run_folder import keep_aside
from tracking.local import clear_temporary_files
from tracking.lock import holder, lock, release, run_lock

POLL_S = 0.5


@contextmanager
def held_alone(
    path: Path, wait: Callable[[str], None] | None = None, ranks: Ranks | None = None
) -> Iterator[None]:
    """Hold the lock of the file `path`, which names the holder meanwhile and is removed at the end.

    wait: called once with the holder's name where another process holds it; then this one waits for it. None: refuse.
    ranks: processes that enter this together: the first one holds the lock, and all of them wait for it. None: alone.

    Raises ConfigError, one line with the holder, when it is held by another process. A file system without locks is
    said on standard error, and counts as free.
    """
    ranks = ranks or Ranks(torch.device("cpu"))
    held: list[TextIOWrapper] = []
    told = False

    def taken() -> bool:
        nonlocal told
        if (file := lock(path)) is not None:
            held.append(file)
        elif wait is None:
            raise ConfigError(
                f"{path.parent}: {holder(path)} is writing to it; wait for its end, or use another --out or --run_name"
            )
        elif not told:
            wait(holder(path))
            told = True
        return bool(held)

    # The others hear of each try: who waits for another process of the run too long takes it for hanging.
    while not ranks.by_first(taken):
        time.sleep(POLL_S)
    try:
        yield
    finally:
        for file in held:
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
