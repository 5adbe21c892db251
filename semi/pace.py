"""How often state is saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from semi import stopping

LARGEST_SHARE = 0.01  # of the time that saving within an epoch may take


class Pace:
    """When a save is due: asked for (SIGUSR1), before an end, or `every_s` seconds after the last one.

    The pause grows with what a save takes, so that saving takes LARGEST_SHARE of the time at most.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._last, self._cost = monotonic(), 0.0

    def due(self) -> bool:
        pause = max(self._every_s, self._cost / LARGEST_SHARE)
        return stopping.save_requested() or stopping.requested() or monotonic() - self._last >= pause

    @contextmanager
    def saving(self) -> Iterator[None]:
        """The block is a save; the pause begins at its end."""
        begin = monotonic()
        yield
        self._last = monotonic()
        self._cost = self._last - begin
