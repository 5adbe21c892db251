"""Work that may hang, with a bound."""

from __future__ import annotations

import threading
from collections.abc import Callable


def within(seconds: float, work: Callable[[], None]) -> str:
    """Do `work` in a thread and wait for it for at most so long; returns why it did not end well, or nothing.

    Work that hangs is left to its thread, which does not keep the process alive.
    """
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return f"no answer within {seconds:g} s"
    if not failed:
        return ""
    lines = str(failed[0]).strip().splitlines()
    return lines[0][:200] if lines else type(failed[0]).__name__
