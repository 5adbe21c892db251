"""A run's own folder: its name, whether it may be used, and where to go on from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semi import checkpoint, sharding
from semi.checkpoint import BEST_FILE, CHECKPOINT_FILE, PREVIOUS_FILE, CheckpointError
from semi.config import OWN_DATASETS, TABLE_REFINEMENTS, Config, ConfigError, DataConfig, fields_of_kind
from tracking.local import METRICS_FILE, kept_name, read_rows
from tracking.regime import regime_name


def default_run_name(config: Config, trial: str | None = None) -> str:
    """A readable name; its end is a digest of every field that shapes the result, so no two configurations share it.
    A run that goes on for more epochs keeps its name.

    `trial` is the id of a sweep's trial: two trials of one configuration stay apart.
    """
    parts = [config.semi_method, regime_name(dataclasses.asdict(config)), config.refine]
    parts += [f"a{config.alpha:g}"] if config.refine == "darp" else []  # the others remove no noise
    parts += [f"w{config.warm}"] if config.refine in TABLE_REFINEMENTS else []
    return "_".join([*parts, f"s{config.seed}", digest(config), *([trial] if trial else [])])


def digest(config: DataConfig) -> str:
    """Eight hexadecimal digits of all fields that shape a run, but for its length.

    A field at its default is left out: a new field, whose default is what was done before, renames no run.
    """
    free = fields_of_kind(config, "incidental") | fields_of_kind(config, "length")
    shaping = {
        spec.name: value
        for spec in dataclasses.fields(config)
        if spec.name not in free and (value := getattr(config, spec.name)) != spec.default
    }
    if config.dataset in OWN_DATASETS:
        shaping["data_dir"] = config.data_dir
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:8]


def run_folder(config: Config, trial: str | None = None) -> Path:
    """Beside the checkpoint that is resumed, else `<out>/<name>`."""
    if config.resume not in ("", "auto"):
        return Path(config.resume).parent
    return Path(config.out) / (config.run_name or default_run_name(config, trial))


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint that a run goes on from."""

    path: Path
    state: dict[str, Any]
    note: str = ""
    """A sentence for the user where it is not the newest one that should be there."""
    damaged: tuple[Path, ...] = ()
    """Newer checkpoints that cannot be read."""
    identity: tuple[int, int] = (0, 0)
    """Of the file that `state` was read from."""


def resume_point(config: Config, folder: Path) -> ResumePoint | None:
    """Where to go on from, or None for a fresh start. Nothing is written.

    Raises ConfigError when rows or a checkpoint that are there would be lost, CheckpointError when none can be read.
    """
    if config.resume == "auto":
        return _newest(config, folder)
    if config.resume:
        return _named(Path(config.resume), folder)
    if not config.overwrite and holds_run(folder):
        raise ConfigError(
            f"--out {config.out}: {folder} already holds a run; go on with --resume auto, "
            "or start again with --overwrite (the old folder is kept beside it)"
        )
    return None


def holds_run(folder: Path) -> bool:
    """Whether a row or a checkpoint is there."""
    metrics = folder / METRICS_FILE
    return (metrics.exists() and metrics.stat().st_size > 0) or (folder / CHECKPOINT_FILE).exists()


def _newest(config: Config, folder: Path) -> ResumePoint | None:
    """`--resume auto`: the newest checkpoint of the folder that can be read."""
    problems: list[str] = []
    damaged: list[Path] = []
    for name in (CHECKPOINT_FILE, PREVIOUS_FILE, BEST_FILE):
        path = folder / name
        if not path.exists():
            if name == CHECKPOINT_FILE:
                problems.append(f"{path}: it is missing")
            continue
        try:
            state = _whole(path, said="")
        except CheckpointError as error:
            problems.append(str(error))
            damaged.append(path)
            continue
        note = f"{problems[0]}; going back to {name} (epoch {state.get('epoch')})" if problems else ""
        return ResumePoint(path, state, note, tuple(damaged), identity=_identity(path))
    last = max((row["epoch"] for row in read_rows(folder)), default=-1)
    if (
        damaged or last > config.start_epoch
    ):  # after the first epoch alone, a kill came before the first checkpoint
        raise CheckpointError(
            f"--resume auto: {problems[0]}, and no other checkpoint is there to go on from; put one back, "
            "or start again with --overwrite (the old folder is kept beside it)"
        )
    return None


def _named(path: Path, folder: Path) -> ResumePoint:
    """`--resume PATH`. An older checkpoint than the folder's own would cut its rows and replace its checkpoint."""
    own = folder / CHECKPOINT_FILE
    try:
        state = _whole(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_others(path)}") from None
    if own.exists() and own.resolve() != path.resolve():
        try:
            newest = _whole(own)
        except CheckpointError:
            return ResumePoint(
                path, state, identity=_identity(path)
            )  # it is damaged; rows that go are kept by the tracker
        if position(newest) > position(state):
            raise ConfigError(
                f"--resume {path}: it is of epoch {state.get('epoch')}, and the run is at epoch {newest.get('epoch')}, "
                "which would be lost; go on with --resume auto, or copy the file into a new folder and resume it there"
            )
    return ResumePoint(path, state, identity=_identity(path))


def _whole(path: Path, said: str = "--resume ") -> dict[str, Any]:
    """`checkpoint.load`, and CheckpointError too where rows that several processes saved are not all there."""
    state = checkpoint.load(path, said)
    if "sharded" in state:
        sharding.require_whole(path, state["sharded"])
    return state


def _others(path: Path) -> str:
    there = [
        other
        for name in (PREVIOUS_FILE, BEST_FILE)
        if (other := path.with_name(name)).exists() and other != path
    ]
    return f", or {' or '.join(map(str, there))}" if there and path.exists() else ""


def position(state: Mapping[str, Any]) -> tuple[int, int]:
    """(last whole epoch, steps after it) of a checkpoint."""
    partial = state.get("partial") or {}
    return int(state.get("epoch", -1)), int(partial.get("step", 0))


def refuse_if_moved_on(folder: Path, point: ResumePoint | None) -> None:
    """ConfigError when another process has trained the run since `point` was looked for (None: nothing was there)."""
    if point is None:
        moved = (folder / CHECKPOINT_FILE).exists()
    else:
        moved = not point.path.exists() or _identity(point.path) != point.identity
    if moved:
        raise ConfigError(f"{folder}: another process has just trained this run; go on with --resume auto")


def _identity(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns


def set_aside(point: ResumePoint) -> None:
    """Rename checkpoints that cannot be read, so that they do not take the place of a whole previous one."""
    for path in point.damaged:
        path.rename(kept_name(path))


def keep_aside(folder: Path) -> Path | None:
    """Rename a folder that is to be started again, so that reports skip it; returns the new place."""
    return folder.rename(kept_name(folder)) if folder.exists() else None
