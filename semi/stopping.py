"""A request to stop (SIGTERM, Ctrl-C): training ends as an error would end it, but never between a row and its
checkpoint, so that a run that goes on later neither loses an epoch nor logs it twice.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_held = False
_waiting: int | None = None


def install() -> None:
    """From here on SIGTERM and SIGINT raise SystemExit(128 + number), once; more of them change nothing.

    Trackers then hear of the end, with a bound on how long they may take; SIGKILL needs no permission.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)


@contextmanager
def held() -> Iterator[None]:
    """Inside, a request waits until the end of the block."""
    global _held
    _held = True
    try:
        yield
    finally:
        _held = False
    if _waiting is not None:
        raise SystemExit(128 + _waiting)


def _stop(number: int, frame: FrameType | None) -> None:
    global _waiting
    if _waiting is not None:
        return
    _waiting = number
    if not _held:
        raise SystemExit(128 + number)
