"""What a run tells, and to whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Row = Mapping[str, Any]  # key of tracking.row.ROW -> number, or a list of K class counts (a histogram)


class Tracker(Protocol):
    """Hears of a run's start, of every epoch, and of its end. No method may fail because of a network."""

    def start(self, config: Mapping[str, Any], state: Mapping[str, Any], first_epoch: int) -> None:
        """`config`: the whole resolved configuration. `state`: what `state_dict` gave when the run was checkpointed."""

    def log(self, row: Row) -> None:
        """One epoch; `row["epoch"]` numbers it."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values that the run's checkpoint keeps for `start`."""

    def finish(self, exit_code: int) -> None:
        """0 for a run that ended as planned."""


class Fanout:
    """Several trackers as one."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = trackers

    def start(self, config: Mapping[str, Any], state: Mapping[str, Any], first_epoch: int) -> None:
        for tracker in self.trackers:
            tracker.start(config, state, first_epoch)

    def log(self, row: Row) -> None:
        for tracker in self.trackers:
            tracker.log(row)

    def state_dict(self) -> dict[str, Any]:
        return {key: value for tracker in self.trackers for key, value in tracker.state_dict().items()}

    def finish(self, exit_code: int) -> None:
        for tracker in self.trackers:
            tracker.finish(exit_code)
