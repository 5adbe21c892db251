"""What hangs is not waited for: work, and the SDK's own process."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb

from tests.commands import ROOT, without_wandb
from tracking.online.timeout import close_sdk, within

# A program whose SDK process hangs once everything is done, with a bound that a test can wait for.
HANGS_AT_ITS_END = """
import os, runpy, signal, sys
from tests.tracking.online.test_timeout import own_processes
from tracking.online import timeout

close_sdk = timeout.close_sdk

def close_what_hangs():
    (core,) = own_processes()
    print("core", core, flush=True)
    os.kill(core, signal.SIGSTOP)
    close_sdk(seconds=1)

timeout.close_sdk = close_what_hangs
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


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


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the SDK's process is looked up in /proc")
@pytest.mark.parametrize("program", ["train_with_wandb.py", "estimate.py"])
def test_a_program_ends_although_the_process_of_the_sdk_hangs(tmp_path: Path, program: str) -> None:
    flags = "--dataset digits --arch small --imb_ratio_l 1 --imb_ratio_u 1 --epochs 1 --val-iteration 60 --gpu cpu"
    words = [program, *flags.split(), "--num_max", "60", "--ratio", "1", "--out", str(tmp_path / "out")]
    said = tmp_path / "said"  # no pipe: the SDK's process holds its end of one
    with said.open("w") as out:
        started = subprocess.Popen(
            [sys.executable, "-c", HANGS_AT_ITS_END, *words, "--wandb_mode", "offline"],
            cwd=ROOT,
            env=without_wandb() | {"WANDB_DIR": str(tmp_path)},
            stdout=out,
        )
    try:
        assert started.wait(timeout=60) == 0
    finally:
        started.kill()
        hanging = re.findall(r"^core (\d+)$", said.read_text(), re.MULTILINE)
        for core in hanging:
            os.kill(int(core), signal.SIGKILL)
    assert len(hanging) == 1
