"""Work that may hang, with a bound."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import wandb

CLOSE_S = 20  # it takes a tenth of a second where nothing hangs


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


def close_sdk(exit_code: int | None = None, *, seconds: float = CLOSE_S) -> None:
    """`wandb.teardown`, which waits for the SDK's own process without a limit.

    Only where all runs are finished, or given up: where that process hangs it is left behind, and ends with this one.
    Programs register this for their end, where it comes before the SDK's own call.
    """

    def close() -> None:
        with suppress(SystemExit):  # how the SDK reports that its process was killed
            wandb.teardown(exit_code)

    within(seconds, close)
