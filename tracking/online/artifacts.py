"""Artifacts: a run's checkpoints and pseudo-labels to W&B, and a checkpoint back from it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import wandb

from tracking.local import CONFIG_FILE, METRICS_FILE, read_rows
from tracking.online.account import Refused
from tracking.online.timeout import first_line

ROOT = Path(__file__).parents[2]
PACKAGES = ("benchmarks", "configs", "darp", "data", "models", "semi", "sweeps", "tracking")
SOURCES = (".css", ".js", ".json", ".py", ".sh", ".toml", ".txt", ".yaml")
RUN_FILES = (CONFIG_FILE, METRICS_FILE)


def log_code(run: wandb.Run) -> None:
    """Save the project's own files as an artifact of type code, which W&B shows as the run's code."""
    with tempfile.TemporaryDirectory() as folder:  # W&B would walk through all below ROOT, .venv and runs too
        for file in source_files():
            copy = Path(folder) / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        run.log_code(folder, include_fn=lambda path: True)


def source_files() -> list[Path]:
    """The programs, the packages and the presets as they are now, committed or not; no tests, no documents."""
    found = [*ROOT.iterdir(), *(file for package in PACKAGES for file in (ROOT / package).rglob("*"))]
    return sorted(file for file in found if file.suffix in SOURCES and file.is_file())


def log_artifacts(run: wandb.Run, folder: Path, name: str) -> None:
    """Upload `NAME-checkpoint` (aliases best and last; one version where they are the same) and `NAME-pseudo-labels`.

    A version of the checkpoint holds checkpoint.pt, the folder rows-... that it names where several processes saved
    it, and the run's config.yaml and metrics.jsonl, so that it is a whole run folder. The uploads are part of the run's
    end: WANDB_FINISH_TIMEOUT bounds them too.
    """
    import torch  # here, because most runs upload none, and the import takes seconds

    last, best = folder / "checkpoint.pt", folder / "best.pt"
    if not last.exists():
        return
    state = torch.load(last, map_location="cpu", weights_only=True)
    if best.exists() and not best.samefile(last):
        of_best = torch.load(best, map_location="cpu", weights_only=True)
        _log_checkpoint(run, name, best, of_best, ["best"])
        _log_checkpoint(run, name, last, state, ["last"])
    else:
        _log_checkpoint(run, name, last, state, ["best", "last"])
    _log_pseudo_labels(run, name, last, state)


def require_artifact_names(name: str) -> None:
    """Raises Refused where W&B takes no artifact under the names that `log_artifacts` makes of `name`."""
    try:
        wandb.Artifact(f"{name}-pseudo-labels", type="pseudo-labels")  # the longer one
    except ValueError as error:
        raise Refused(f"--run_name {name}: with --wandb_artifacts {first_line(error)}") from None


def _log_checkpoint(
    run: wandb.Run, name: str, checkpoint: Path, state: Mapping[str, Any], aliases: list[str]
) -> None:
    folder, epoch = checkpoint.parent, state["epoch"]
    row = next((row for row in read_rows(folder) if row["epoch"] == epoch), {})
    scores = {key: row[key] for key in ("test/acc", "test/bacc", "test/gm") if key in row}
    artifact = wandb.Artifact(
        f"{name}-checkpoint", type="model", metadata={"epoch": epoch, "run_name": name, **scores}
    )
    artifact.add_file(str(checkpoint), name="checkpoint.pt")
    sharded = state.get("sharded", {"folder": "", "files": {}})
    for file in (*RUN_FILES, *(f"{sharded['folder']}/{file}" for file in sharded["files"])):
        artifact.add_file(str(folder / file), name=file)
    run.log_artifact(artifact, aliases=aliases)


def _log_pseudo_labels(run: wandb.Run, name: str, checkpoint: Path, state: Mapping[str, Any]) -> None:
    """pseudo_labels.npz: `orig` and `refined` [N, K] float32, and `index` [N], their rows among the images."""
    from tracking.shards import whole_tables  # it imports torch

    store = state["store"] if "store" in state else whole_tables(checkpoint, state["sharded"])
    orig = store["orig"].float().numpy()
    refined = store["refined"].float().numpy() if "refined" in store else orig
    num_rows, num_classes = orig.shape
    artifact = wandb.Artifact(
        f"{name}-pseudo-labels",
        type="pseudo-labels",
        metadata={"epoch": state["epoch"], "rows": num_rows, "classes": num_classes, "run_name": name},
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pseudo_labels.npz"
        np.savez_compressed(path, orig=orig, refined=refined, index=state["index_u"].numpy())
        artifact.add_file(str(path), name=path.name)  # copied to W&B's own staging folder
        run.log_artifact(artifact, aliases=["last"])


def fetch_checkpoint(name: str, folder: Path) -> Path:
    """Download the checkpoint artifact ENTITY/PROJECT/NAME:ALIAS into `folder`; returns its checkpoint.pt.

    Raises ValueError, one line, when there is no such artifact or no way to it.
    """
    try:
        artifact = wandb.Api().artifact(name, type="model")
        artifact.download(root=str(folder))
    except Exception as error:  # the SDK raises many kinds here, not all of them wandb.Error
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"--resume wandb:{name}: {reason}; use wandb:ENTITY/PROJECT/NAME:ALIAS, with `wandb login` done"
        ) from None
    return folder / "checkpoint.pt"
