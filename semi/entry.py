"""What `train.py` and `train_with_wandb.py` share: flags in, exit code out."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from data import DataError
from semi.checkpoint import CheckpointError
from semi.cli import parse
from semi.config import Config, ConfigError
from semi.device import pick_device
from semi.job import build_job, describe, warnings
from semi.loop import run
from semi.run_folder import resume_point, run_folder
from tracking.base import Fanout, Tracker
from tracking.local import LocalTracker
from tracking.metrics import ROW

USER_ERROR = 2


def train(
    description: str, *option_classes: type, more: Callable[..., Sequence[Tracker]] | None = None
) -> int:
    """Train as the command line says; returns the exit code, 2 for a mistake in it (one line, nothing written).

    `more(folder, *options)` gives trackers beside the run's own folder, one options object for each option class.
    """
    signal.signal(signal.SIGTERM, _stop)
    try:
        config, *options = parse(sys.argv[1:], description, Config, *option_classes)
        folder = run_folder(config, sweep_trial())
        resume_from = resume_point(config, folder)
        device, note = pick_device(config.gpu)
        job = build_job(config, device)
        for sentence in filter(None, (note, *warnings(job))):
            print(sentence, file=sys.stderr)
        print(
            f"run folder: {folder}" + (f", going on from {resume_from}" if resume_from else ""),
            file=sys.stderr,
        )
        if config.dry_run:
            print(yaml.safe_dump({"config": describe(job), "row": ROW}, sort_keys=False), end="")
            return 0
        run(
            job,
            folder,
            resume_from,
            Fanout([LocalTracker(folder), *(more(folder, *options) if more else ())]),
        )
    except (ConfigError, DataError, CheckpointError) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return USER_ERROR
    return 0


def sweep_trial() -> str | None:
    """The id of the sweep's trial that this process is, where an agent started it."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


def _stop(number: int, frame: FrameType | None) -> Any:
    """A request to stop ends training like an error would: trackers hear of it, the last checkpoint stays."""
    raise SystemExit(128 + number)
