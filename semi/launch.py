"""`--nproc N`: this command started N times on this host under torchrun's launcher, as one command.

A sweep's agent starts one command a trial and reads its exit code, so the code here is that of the run, and signals
reach its processes.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def launched(nproc: int) -> int:
    """Start this command `nproc` times and wait for the end; the exit code is the one that its first process gives.

    SIGTERM and SIGINT stop the processes, which have 30 s to save a checkpoint. SIGUSR1 asks them to save.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(
        logging.CRITICAL
    )  # the run says itself how it ended
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // nproc)))
    signal.signal(signal.SIGUSR1, _pass_on)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        run_id="none",  # as torchrun --standalone has it: the meeting point is this process's own
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)(*sys.argv)
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        code = codes.get(0, error.get_first_failure()[1].exitcode)
        return code if code >= 0 else 128 - code
    except SignalException as error:
        return 128 + error.sigval
    return 0


def _pass_on(number: int, frame: FrameType | None) -> None:
    """Send a signal to the processes that this one has started."""
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        os.kill(int(pid), number)
