"""Requests to stop (SIGTERM, Ctrl-C) or to save (SIGUSR1, the warning of a scheduler such as SLURM).

A stop ends training as an error would end it, but only after a checkpoint of the step it is at, and never between a row
and its checkpoint, so that a run that goes on later neither loses an epoch nor logs it twice.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_held = False
_waiting: int | None = None
_save = False


def install() -> None:
    """From here on SIGTERM and SIGINT raise SystemExit(128 + number), once; more of them change nothing.

    Trackers then hear of the end, with a bound on how long they may take; SIGKILL needs no permission. SIGUSR1 asks
    for a checkpoint and ends nothing.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    signal.signal(signal.SIGUSR1, _ask_to_save)


@contextmanager
def held() -> Iterator[None]:
    """Inside, a request waits until `end_if_requested` or the end of the block."""
    global _held
    _held = True
    try:
        yield
    finally:
        _held = False
    end_if_requested()


def requested() -> bool:
    """Whether a request to stop waits."""
    return _waiting is not None


def waiting() -> int:
    """The signal of a request to stop that waits; 0 where none does."""
    return _waiting or 0


def end_if_requested(number: int | None = None) -> None:
    """The place where a request that waits is met; `number` is that of another process, where there are several."""
    number = waiting() if number is None else number
    if number:
        raise SystemExit(128 + number)


def save_requested() -> bool:
    """Whether a checkpoint was asked for since the last call."""
    global _save
    asked, _save = _save, False
    return asked


def _stop(number: int, frame: FrameType | None) -> None:
    global _waiting
    if _waiting is not None:
        return
    _waiting = number
    if not _held:
        raise SystemExit(128 + number)


def _ask_to_save(number: int, frame: FrameType | None) -> None:
    global _save
    _save = True
