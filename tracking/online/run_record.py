"""Which W&B run a run's folder is: `wandb_run.json`, written when the run starts and again when it ends.

`python -m tracking.sync` needs it where no checkpoint, no server and no W&B file is left to ask.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracking.local import write_atomically

RECORD_FILE = "wandb_run.json"


@dataclass
class RunRecord:
    """What a later process needs to go on with the same W&B run.

    Attributes:
        id, project, entity, name, group, job_type, tags, notes: as in `wandb.init`. An empty entity: the account's.
        program: file name of the script that trained.
        sweep: id of the sweep at W&B whose trial this is.
        config: fields that the run has at W&B beside those of config.yaml, such as the name of a sweep's file.
        consumed: name of the artifact that the run goes on from.
        charts, artifacts, media: whether the run was to draw its charts, to upload its checkpoints, to show pictures.
        per_class: which keys of a row the run gets, few or all.
        summary: key of a row -> what its summary is, where it is not the last value (`define_metric`).
        exit_code: how the last process of the run ended; None while it trains, and after it was killed.
        preempted: whether that process asked W&B to put the run back in its sweep's queue.
    """

    id: str
    project: str
    entity: str = ""
    name: str = ""
    group: str = ""
    job_type: str = "train"
    tags: list[str] = field(default_factory=list)
    notes: str = ""
    program: str = ""
    sweep: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    consumed: str = ""
    charts: bool = False
    artifacts: bool = False
    media: bool = False
    per_class: str = "few"
    summary: dict[str, str] = field(default_factory=dict)
    exit_code: int | None = None
    preempted: bool = False

    @property
    def path(self) -> str:
        """ENTITY/PROJECT/ID, as W&B's public API has it."""
        return "/".join(filter(None, (self.entity, self.project, self.id)))

    def write(self, folder: Path, name: str = RECORD_FILE) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def read_record(folder: Path, name: str = RECORD_FILE) -> RunRecord | None:
    """The record in a run's folder; None where there is none that can be read."""
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
        known = {spec.name for spec in dataclasses.fields(RunRecord)}
        return RunRecord(**{key: value for key, value in found.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
