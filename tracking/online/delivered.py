"""What W&B's server has of a run and wants of it, asked through the public API."""

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


def told_to_stop(record: RunRecord) -> bool:
    """Whether W&B was asked to end this run: in the browser, by early termination, or with its whole sweep.

    Raises one of many kinds of errors of the SDK when the server does not answer.
    """
    api = wandb.Api(timeout=ANSWER_S)
    names = {"entity": record.entity or api.default_entity, "project": record.project, "run": record.id}
    # the public classes have no property for these two; the SDK's own agent asks for them
    answer: dict[str, Any] = api._service_api.execute_graphql(
        """
        query RunStop($entity: String, $project: String, $run: String!) {
            project(name: $project, entityName: $entity) { run(name: $run) { stopped shouldStop } }
        }
        """,
        names,
    )
    asked = answer["project"]["run"]
    if asked["stopped"] or asked["shouldStop"]:
        return True
    if not record.sweep:
        return False
    return str(api.sweep(f"{names['entity']}/{record.project}/{record.sweep}").state).startswith("CANCEL")
