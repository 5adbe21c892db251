"""An estimate of the unlabeled class distribution as a W&B run of job type `estimate`, and as an artifact."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from tracking.online.account import first_line, resolve_mode, said, say, sdk_settings


def estimate_artifact(path: Path, record: Mapping[str, Any]) -> wandb.Artifact:
    """An estimate's file as an artifact of type `estimate`, named after it: `estimate-<stem>`.

    `record` is what estimate.py wrote; empty for a file of numbers that comes from elsewhere.
    """
    known = {key: record[key] for key in ("dist", "condition", "accepted_epochs", "tv_true") if key in record}
    artifact = wandb.Artifact(f"estimate-{path.stem}", type="estimate", metadata=known)
    artifact.add_file(str(path), name=path.name)
    return artifact


def log_estimate(
    path: Path, record: Mapping[str, Any], *, mode: str, project: str, entity: str, machine_info: bool
) -> None:
    """One run with the estimate in its summary and the artifact as its output. What fails is said, not raised."""
    folder = path.parent
    try:
        run = wandb.init(
            project=said("project", project, "darp"),
            entity=said("entity", entity),
            mode=resolve_mode(mode),
            dir=str(folder),
            name=path.stem,
            job_type="estimate",
            config=dict(record["config"]),
            settings=sdk_settings(machine_info),
        )
        for name in ("dist", "low", "high", "published_dist", "true_dist"):
            if record.get(name):
                run.summary.update({f"estimate/{name}/{k}": value for k, value in enumerate(record[name])})
        for name in ("condition", "accepted_epochs", "tv_true", "tv_true_of_labeled_prior"):
            if record.get(name) is not None:
                run.summary[f"estimate/{name}"] = record[name]
        run.log_artifact(estimate_artifact(path, record), aliases=["latest"])
        directory = Path(run.dir).parent
        run.finish()
        if run.settings.mode == "offline":
            say(f"W&B: offline; send it with `wandb sync {directory}`")
    except Exception as error:  # an estimate does not depend on its tracking
        say(f"W&B did not take the estimate ({first_line(error)}); it is in {path}")


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
        record = json.loads(path.read_text()) if path.suffix == ".json" else {}
        run.log_artifact(estimate_artifact(path, record), aliases=["latest"])
