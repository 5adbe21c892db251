"""How a run's state is saved, and what happens when it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from semi import checkpoint, sharding
from semi.checkpoint import BEST_FILE, CHECKPOINT_FILE, PREVIOUS_FILE
from semi.epoch import EpochSoFar
from semi.job import Job
from semi.pace import Pace
from semi.snapshot import own_state, snapshot
from tracking.base import Tracker


class Checkpoints:
    """`checkpoint.pt`, the one before as `checkpoint.prev.pt`, and `best.pt` of one run.

    A disk that is full does not end a run: it is said once, the old files stay whole, and the next save tries again.
    Where there are several processes, each writes its own rows (`semi.sharding`) and the first one the rest.

    Attributes:
        pace: when to save within an epoch.
        behind: why the last save failed; empty when it did not.
    """

    def __init__(self, job: Job, folder: Path, tracker: Tracker) -> None:
        self.pace = Pace(job.config.checkpoint_every_s)
        self.behind = ""
        self._job, self._folder, self._tracker = job, folder, tracker
        self._told = False

    def save(self, epoch: int, so_far: EpochSoFar | None = None) -> None:
        """Save the state after `epoch`, and after the steps of the next one that `so_far` has. All processes do."""
        with self.pace.saving():
            path = self._folder / CHECKPOINT_FILE
            state = snapshot(self._job, epoch, so_far) | {"tracker": self._tracker.state_dict()}
            try:
                if self._job.ranks.size > 1:
                    state["sharded"] = self._rows(epoch, so_far)
                if self._job.ranks.is_first:
                    if path.exists():
                        checkpoint.link(path, self._folder / PREVIOUS_FILE)
                    checkpoint.save(path, state)
                    if so_far is None:
                        keep_best(self._job, path, self._folder)
                    sharding.remove_unnamed(self._folder)
                self.behind = ""
            except OSError as error:
                self.behind = f"{path}: {error.strerror or error}"
                if not self._told:
                    self._job.ranks.say(
                        f"{self.behind}; the old checkpoint stays, training goes on and tries again"
                    )
                self._told = True

    def _rows(self, epoch: int, so_far: EpochSoFar | None) -> dict[str, Any]:
        """Write the part of the state that several processes have between them; returns where it is."""
        job, step = self._job, so_far.step if so_far else 0
        table, own, num_rows = job.store.state_dict(), own_state(job, so_far), len(job.split.index_u)
        return sharding.write(self._folder, epoch, step, table, num_rows, own, job.ranks)


def keep_best(job: Job, path: Path, folder: Path) -> None:
    """`best.pt` is the checkpoint of the epoch whose test/bacc is the largest so far."""
    if job.recent and job.recent[-1][0] == job.best_bacc:
        checkpoint.link(path, folder / BEST_FILE)
