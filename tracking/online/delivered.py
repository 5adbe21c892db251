"""What W&B's server has of a run, asked through the public API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import wandb
from wandb.apis.public.runs import RunNotFoundError

from tracking.online.run_record import RunRecord

ANSWER_S = 30  # how long one question may take


@dataclass(frozen=True)
class Delivered:
    """What the server has.

    Attributes:
        epochs: of its rows, in the order of the rows.
        state: running, finished, failed, crashed, killed, preempting, preempted or pending.
        summary: the last value of each key, and what was written there.
        artifacts: names (without versions) of what the run logged.
    """

    epochs: tuple[int, ...] = ()
    state: str = ""
    summary: Mapping[str, Any] | None = None
    artifacts: frozenset[str] = frozenset()


def delivered(record: RunRecord) -> Delivered:
    """What the server has of this run: nothing where it does not know it.

    Raises one of many kinds of errors of the SDK when the server does not answer.
    """
    try:
        run = wandb.Api(timeout=ANSWER_S).run(record.path)
        rows = run.scan_history(keys=["epoch"], use_cache=False) if run.lastHistoryStep >= 0 else ()
        return Delivered(
            epochs=tuple(int(row["epoch"]) for row in rows),
            state=run.state,
            summary=dict(run.summary_metrics),
            artifacts=frozenset(artifact.name.partition(":")[0] for artifact in run.logged_artifacts()),
        )
    except (RunNotFoundError, wandb.errors.CommError) as error:
        if isinstance(getattr(error, "exc", error), RunNotFoundError):
            return Delivered()
        raise
