"""An estimate of the unlabeled class distribution as a W&B run of job type `estimate`, and as an artifact."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from wandb.sdk.lib import runid

from tracking.online.account import Mode, resolve_mode, said, say, sdk_settings
from tracking.online.run_record import RunRecord, read_record
from tracking.online.timeout import first_line


def estimate_artifact(path: Path, record: Mapping[str, Any]) -> wandb.Artifact:
    """An estimate's file as an artifact of type `estimate`, named after it: `estimate-<stem>`.

    `record` is what estimate.py wrote; empty for a file of numbers that comes from elsewhere.
    """
    known = {key: record[key] for key in ("dist", "condition", "accepted_epochs", "tv_true") if key in record}
    artifact = wandb.Artifact(f"estimate-{path.stem}", type="estimate", metadata=known)
    artifact.add_file(str(path), name=path.name)
    return artifact


def record_of(path: Path) -> dict[str, Any]:
    """What estimate.py wrote into the file `path`. Raises ValueError where that is no estimate."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if not (isinstance(found, dict) and isinstance(found.get("config"), dict) and "dist" in found):
        raise ValueError(f"{path} is not an estimate")
    return found


def summary_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the run of an estimate has in its summary: the shares of each class, and how sure they are."""
    summary: dict[str, Any] = {}
    for name in ("dist", "low", "high", "published_dist", "true_dist"):
        summary |= {f"estimate/{name}/{k}": value for k, value in enumerate(record.get(name) or ())}
    for name in ("condition", "accepted_epochs", "tv_true", "tv_true_of_labeled_prior"):
        if record.get(name) is not None:
            summary[f"estimate/{name}"] = record[name]
    return summary


def run_of(path: Path) -> RunRecord | None:
    """Which W&B run the estimate in the file `path` is; None where it is none."""
    return read_record(path.parent / "wandb", path.name)


def send_estimate(
    path: Path, record: Mapping[str, Any], which: RunRecord, *, mode: Mode, directory: Path, settings: Any
) -> wandb.Run:
    """Write the run, with the estimate in its summary and the artifact as its output, and finish it.

    directory: where W&B's own files go.
    """
    run = wandb.init(
        project=which.project,
        entity=which.entity or None,
        id=which.id,
        resume="allow",
        mode=mode,
        dir=str(directory),
        name=which.name,
        job_type=which.job_type,
        config=dict(record["config"]),
        settings=settings,
    )
    run.summary.update(summary_of(record))
    run.log_artifact(estimate_artifact(path, record), aliases=["latest"])
    run.finish()
    return run


def log_estimate(
    path: Path, record: Mapping[str, Any], *, mode: str, project: str, entity: str, machine_info: bool
) -> None:
    """The estimate as a new run, which `python -m tracking.sync` finds by `wandb/<name of the file>` beside it. What
    fails is said, not raised."""
    command = shlex.join(["python", "-m", "tracking.sync", str(path.resolve())])
    try:
        resolved = resolve_mode(mode)
        which = RunRecord(
            id=os.environ.get("WANDB_RUN_ID") or runid.generate_id(),
            project=said("project", project, "darp") or "",
            entity=said("entity", entity) or "",
            name=path.stem,
            job_type="estimate",
            program=Path(sys.argv[0]).name,
        )
        if resolved != "disabled":
            which.write(path.parent / "wandb", path.name)
        run = send_estimate(
            path, record, which, mode=resolved, directory=path.parent, settings=sdk_settings(machine_info)
        )
        if run.settings.mode == "offline":
            say(f"W&B: offline; send it with `{command}`")
    except Exception as error:  # an estimate does not depend on its tracking
        say(f"W&B did not take the estimate ({first_line(error)}); it is in {path}; send it with `{command}`")


def fetch_estimate(name: str, folder: Path) -> Path:
    """Download the artifact ENTITY/PROJECT/NAME:ALIAS into a folder of its own below `folder`; returns its JSON file.

    Raises ValueError, one line, when there is no such artifact, no way to it, or no estimate in it.
    """
    try:
        artifact = wandb.Api().artifact(name, type="estimate")
        root = folder / artifact.name.replace(":", "_")
        artifact.download(root=str(root))
        (path,) = root.glob("*.json")
    except Exception as error:  # the SDK raises many kinds here, not all of them wandb.Error
        raise ValueError(
            f"--est wandb:{name}: {first_line(error)}; use wandb:ENTITY/PROJECT/NAME:ALIAS, with `wandb login` done"
        ) from None
    return path


def consume_estimate(run: wandb.Run, source: str) -> None:
    """Record that `run` used the estimate: `wandb:NAME`, or the path of a file, which `run` logs where none has."""
    if source.startswith("wandb:"):
        run.use_artifact(source.removeprefix("wandb:"))
        return
    path = Path(source)
    try:
        run.use_artifact(f"estimate-{path.stem}:latest")
    except Exception:  # the SDK has no one error for an artifact that is not there
        record = record_of(path) if path.suffix == ".json" else {}
        run.log_artifact(estimate_artifact(path, record), aliases=["latest"])
