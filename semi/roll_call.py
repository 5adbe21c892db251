"""Who is missing, where the processes of a run wait for one in vain."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from semi import stopping

LONGEST_ANSWER_S = 5.0  # that processes have to answer; on one host a hundredth of it is enough
POLL_S = 0.02


@dataclass(frozen=True)
class Process:
    """Where a process of the run is. `began` tells it from a later one of the same number; empty: not known."""

    host: str
    pid: int
    began: str

    def is_alive(self) -> bool | None:
        """Whether it has not ended; None where that cannot be told from here."""
        if self.host != socket.gethostname() or not self.began:
            return None
        return began(self.pid) == self.began


def this_process() -> Process:
    return Process(socket.gethostname(), os.getpid(), began(os.getpid()))


@dataclass(frozen=True)
class RollCall:
    """The processes of a run in the order of their ranks, and how they are called.

    Attributes:
        store: what torchrun keeps for them all; it works where their collective communication has failed.
        timeout_s: of the run; processes wait for each other for that long less `answer_s`, and then have `answer_s`.
    """

    store: Store
    processes: list[Process]
    timeout_s: float
    answer_s: float

    def call(self, rank: int) -> None:
        """Answer, hear who else does, and name those who do not; one of those that answer speaks.

        A missing process that is still there hangs. On this host it is killed, so that the run ends.
        """
        with stopping.held():  # torchrun asks all to stop as soon as one has ended
            there = self._answered(rank)
            missing = [r for r in range(len(self.processes)) if r not in there]
            if rank == min(there):
                for r in missing:
                    print(self._about(r), file=sys.stderr, flush=True)
            for process in (self.processes[r] for r in missing):
                if process.is_alive():
                    os.kill(process.pid, signal.SIGKILL)

    def _answered(self, rank: int) -> set[int]:
        """The ranks that answer in time, `rank` among them."""
        there, deadline = {rank}, time.monotonic() + self.answer_s
        try:
            self.store.set(f"answer/{rank}", "here")
            while time.monotonic() < deadline:
                silent = [r for r in range(len(self.processes)) if r not in there]
                if all(self.processes[r].is_alive() is False for r in silent):
                    break
                time.sleep(POLL_S)
                there |= {r for r in silent if self.store.check([f"answer/{r}"])}
        except RuntimeError:  # without torchrun the store ends with the first process
            pass
        return there

    def _about(self, rank: int) -> str:
        process = self.processes[rank]
        name = f"process {rank} of {len(self.processes)} (process id {process.pid} on {process.host})"
        if process.is_alive():
            return (
                f"{name} hangs: it has not answered for {self.timeout_s:g} s (--dist_timeout_s) and is killed; "
                "--resume auto goes on from the last checkpoint"
            )
        how = "has ended" if process.is_alive() is False else "has ended, or cannot be reached"
        return f"{name} {how}; --resume auto goes on from the last checkpoint"


def began(pid: int) -> str:
    """When the process of this number began, in the system's clock ticks; empty where there is none, or it is over."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def is_of_communication(error: BaseException) -> bool:
    """Whether it tells that another process was waited for in vain, or has gone."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
