"""Work that may hang, with a bound. Imports nothing that takes time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress

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
    return first_line(failed[0]) if failed else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def close_sdk(exit_code: int | None = None, *, seconds: float = CLOSE_S) -> None:
    """`wandb.teardown`, where the SDK was used: it waits for the SDK's own process without a limit, this does not.

    Only where all runs are finished, or given up: where that process hangs it is left behind, and ends with this one.
    The programs call it last. Registered for their end it would come after the SDK's own call, which hangs.
    """
    if (sdk := sys.modules.get("wandb")) is None:
        return

    def close() -> None:
        with suppress(SystemExit):  # how the SDK reports that its process was killed
            sdk.teardown(exit_code)

    within(seconds, close)
