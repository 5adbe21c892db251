"""Faults on demand, decided by a count of requests so that a test that fails once fails again."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass
class _Failure:
    rate: float
    status: int
    only: str
    limit: int | None
    seen: int = 0
    failed: int = 0

    def strikes(self, path: str) -> bool:
        """Spread failures evenly: the nth request fails when the share of failures falls behind the rate."""
        if self.only not in path or (self.limit is not None and self.failed >= self.limit):
            return False
        self.seen += 1
        if int(self.seen * self.rate + 1e-9) <= self.failed:
            return False
        self.failed += 1
        return True


class Faults:
    """What to do to the next request. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failure: _Failure | None = None
        self._hang_s = 0.0
        self._released = threading.Event()

    def fail(self, rate: float, status: int, only: str, limit: int | None) -> None:
        with self._lock:
            self._failure = _Failure(rate, status, only, limit) if rate > 0 else None

    def hang(self, seconds: float) -> None:
        """Hold each following request this long; what already waits goes on at once."""
        with self._lock:
            self._released.set()
            self._hang_s, self._released = seconds, threading.Event()

    def clear(self) -> None:
        self.fail(0.0, 500, "", None)
        self.hang(0.0)

    def status(self, path: str) -> int | None:
        """Wait if told to hang; then the status to fail this request with, None to answer it."""
        with self._lock:
            hang_s, released = self._hang_s, self._released
        if hang_s > 0:
            released.wait(hang_s)
        with self._lock:
            if self._failure is not None and self._failure.strikes(path):
                return self._failure.status
        return None
