"""What hangs is not waited for: work, and the SDK's own process."""

import os
import signal
import time
from pathlib import Path

import pytest
import wandb

from tracking.online.timeout import close_sdk, within


def test_why_work_did_not_end_well_is_told_in_a_line() -> None:
    def fails() -> None:
        raise ValueError("no such run\nand more")

    assert within(5, lambda: None) == ""
    assert within(5, fails) == "no such run"
    assert within(0.01, lambda: time.sleep(60)) == "no answer within 0.01 s"


def own_processes() -> set[int]:
    """The SDK's processes whose parent is this one."""
    found = set()
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, after = place.read_text().split("(", 1)[1].rsplit(")", 1)
        except OSError:  # it has just ended
            continue
        if name.startswith(("wandb-core", "gpu_stats")) and int(after.split()[1]) == os.getpid():
            found.add(int(place.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the SDK's process is looked up in /proc")
def test_a_process_of_the_sdk_that_hangs_is_left_behind(folder: Path) -> None:
    before = own_processes()
    wandb.init(mode="offline", project="darp").finish()
    (core,) = own_processes() - before
    os.kill(core, signal.SIGSTOP)
    try:
        began = time.monotonic()
        close_sdk(seconds=1)
        assert time.monotonic() - began < 3
        wandb.init(mode="offline", project="darp").finish()  # the next run has a process of its own
    finally:
        os.kill(core, signal.SIGKILL)
