"""A run's own folder: its name, whether it may be used, and where to go on from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from semi.config import NOT_SHAPING, Config, ConfigError


def default_run_name(config: Config, trial: str | None = None) -> str:
    """A readable name; its end is a digest of every field that shapes the result, so no two configurations share it.

    `trial` is the id of a sweep's trial: two trials of one configuration stay apart.
    """
    shaping = {k: v for k, v in dataclasses.asdict(config).items() if k not in NOT_SHAPING}
    digest = hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:8]
    reversed_u = "rev" if config.imb_ratio_u_reversed else ""
    parts = [
        config.semi_method,
        config.dataset,
        f"r{config.ratio:g}",
        f"n{config.num_max}",
        f"il{config.imb_ratio_l:g}",
        f"iu{config.imb_ratio_u:g}{reversed_u}",
        _refinement(config),
        f"s{config.seed}",
        digest,
    ]
    return "_".join([*parts, trial] if trial else parts)


def _refinement(config: Config) -> str:
    if config.refinement == "none":
        return "plain"
    noise = f"_a{config.alpha:g}" if config.darp else ""  # the others remove no noise
    return f"{config.refinement}{noise}_w{config.warm}"


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
    metrics = folder / "metrics.jsonl"
    if not config.overwrite and metrics.exists() and metrics.stat().st_size > 0:
        raise ConfigError(
            f"--out {config.out}: {folder} already holds a run; go on with --resume auto, "
            "or start again with --overwrite (the old folder is kept beside it)"
        )
    return None


def keep_aside(folder: Path) -> Path | None:
    """Rename a folder that is to be started again to NAME.old-1, -2, ...; returns the new place."""
    if not folder.exists():
        return None
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    return folder.rename(aside)
