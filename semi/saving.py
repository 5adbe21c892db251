"""When a run's state is saved, and what happens when it cannot be."""

from __future__ import annotations

import sys
from pathlib import Path
from time import monotonic

from semi import checkpoint, stopping
from semi.checkpoint import BEST_FILE, CHECKPOINT_FILE, PREVIOUS_FILE
from semi.epoch import EpochSoFar
from semi.job import Job, snapshot
from tracking.base import Tracker

LARGEST_SHARE = 0.01  # of the time that checkpoints within an epoch may take


class Checkpoints:
    """`checkpoint.pt`, the one before as `checkpoint.prev.pt`, and `best.pt` of one run.

    A disk that is full does not end a run: it is said once, the old files stay whole, and the next save tries again.

    Attributes:
        behind: why the last save failed; empty when it did not.
    """

    def __init__(self, job: Job, folder: Path, tracker: Tracker) -> None:
        self.behind = ""
        self._job, self._folder, self._tracker = job, folder, tracker
        self._last, self._cost, self._spent = monotonic(), 0.0, 0.0
        self._told = False

    def due(self) -> bool:
        """Whether to save within an epoch: asked for (SIGUSR1), before an end, or after --checkpoint_every_s.

        The pause grows with what a save takes, so that saving takes LARGEST_SHARE of the time at most.
        """
        pause = max(self._job.config.checkpoint_every_s, self._cost / LARGEST_SHARE)
        return stopping.save_requested() or stopping.requested() or monotonic() - self._last >= pause

    def save(self, epoch: int, so_far: EpochSoFar | None = None) -> None:
        """Save the state after `epoch`, and after the steps of the next one that `so_far` has."""
        begin = monotonic()
        path = self._folder / CHECKPOINT_FILE
        state = snapshot(self._job, epoch, so_far) | {"tracker": self._tracker.state_dict()}
        try:
            if path.exists():
                checkpoint.link(path, self._folder / PREVIOUS_FILE)
            checkpoint.save(path, state)
            if so_far is None:
                keep_best(self._job, path, self._folder)
            self.behind = ""
        except OSError as error:
            self.behind = f"{path}: {error.strerror or error}"
            if not self._told:
                print(
                    f"{self.behind}; the old checkpoint stays, training goes on and tries again",
                    file=sys.stderr,
                )
            self._told = True
        self._last = monotonic()
        self._cost = self._last - begin
        self._spent += self._cost

    def seconds(self) -> float:
        """What saving took since the last call."""
        spent, self._spent = self._spent, 0.0
        return spent


def keep_best(job: Job, path: Path, folder: Path) -> None:
    """`best.pt` is the checkpoint of the epoch whose test/bacc is the largest so far."""
    if job.recent and job.recent[-1][0] == job.best_bacc:
        checkpoint.link(path, folder / BEST_FILE)
