"""A run's own folder: its name, whether it may be used, and where to go on from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from semi.config import Config, ConfigError, DataConfig, fields_of_kind
from tracking.local import METRICS_FILE, kept_folder
from tracking.regime import regime_name


def default_run_name(config: Config, trial: str | None = None) -> str:
    """A readable name; its end is a digest of every field that shapes the result, so no two configurations share it.

    `trial` is the id of a sweep's trial: two trials of one configuration stay apart.
    """
    parts = [config.semi_method, regime_name(dataclasses.asdict(config)), config.refine]
    parts += [f"a{config.alpha:g}"] if config.refine == "darp" else []  # the others remove no noise
    parts += [f"w{config.warm}"] if config.refines else []
    return "_".join([*parts, f"s{config.seed}", digest(config), *([trial] if trial else [])])


def digest(config: DataConfig) -> str:
    """Eight hexadecimal digits of all fields that are not incidental."""
    incidental = fields_of_kind(config, "incidental")
    shaping = {name: value for name, value in dataclasses.asdict(config).items() if name not in incidental}
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:8]


def run_folder(config: Config, trial: str | None = None) -> Path:
    """Beside the checkpoint that is resumed, else `<out>/<name>`."""
    if config.resume not in ("", "auto"):
        return Path(config.resume).parent
    return Path(config.out) / (config.run_name or default_run_name(config, trial))


def resume_point(config: Config, folder: Path) -> Path | None:
    """The checkpoint to go on from, or None for a fresh start. Nothing is written.

    Raises ConfigError when a fresh start would touch a run that is there.
    """
    own = folder / "checkpoint.pt"
    if config.resume == "auto":
        return own if own.exists() else None
    if config.resume:
        return Path(config.resume)
    metrics = folder / METRICS_FILE
    if not config.overwrite and metrics.exists() and metrics.stat().st_size > 0:
        raise ConfigError(
            f"--out {config.out}: {folder} already holds a run; go on with --resume auto, "
            "or start again with --overwrite (the old folder is kept beside it)"
        )
    return None


def keep_aside(folder: Path) -> Path | None:
    """Rename a folder that is to be started again, so that reports skip it; returns the new place."""
    return folder.rename(kept_folder(folder)) if folder.exists() else None
