"""A training or an estimation whose flags are read, started: mistakes in one line, exit code out."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from data import DataError, Dataset, FilesMissingError, known_counts, load_dataset
from semi.checkpoint import CheckpointError
from semi.config import USER_ERROR, Config, ConfigError, EstimateConfig
from semi.device import choose_algorithms, conditions, pick_device
from semi.estimation import (
    NotIdentifiable,
    estimate_config,
    estimate_path,
    how_to_use,
    is_file,
    load_or_estimate,
    print_estimate,
    read_estimate,
)
from semi.job import build_job, describe, never_refines, warnings
from semi.loop import run
from semi.run_folder import holds_run, resume_point, run_folder
from tracking.alerts import AlertSink, AlertTracker, print_alert
from tracking.base import Fanout, Tracker
from tracking.local import LocalTracker, exit_code_of, in_one_line
from tracking.row import ROW


def start_training(
    config: Config,
    options: Sequence[Any],
    more: Callable[..., Sequence[Tracker]] | None,
    fetch: Callable[[str, Path], Path] | None,
    fetch_estimate: Callable[[str, Path], Path] | None,
) -> int:
    """Train `config`; the other arguments, and the exit code, are those of `semi.commands.train`."""
    try:
        consumed = config.resume.removeprefix("wandb:") if config.resume.startswith("wandb:") else ""
        if consumed:
            config = fetched(config, consumed, fetch)
        folder = run_folder(config, sweep_trial())
        tell_sweep(folder)
        resume_from = resume_point(config, folder)
        # first, because it refuses what W&B would not take
        others = more(folder, consumed, *options) if more else ()
        device, note = pick_device(config.gpu)
        choose_algorithms(device, config.deterministic)
        stand_in = dry_dataset(config) if config.dry_run else None
        job = build_job(config, device, estimated_dist(config, device, fetch_estimate), stand_in)
        for sentence in filter(None, (note, resume_from and resume_from.note, *warnings(job))):
            print(sentence, file=sys.stderr)
        print(
            f"run folder: {folder}" + (f", going on from {resume_from.path}" if resume_from else ""),
            file=sys.stderr,
        )
        if config.dry_run:
            print(yaml.safe_dump({"config": describe(job), "row": ROW}, sort_keys=False), end="", flush=True)
            if sentence := never_refines(config):
                print(sentence, file=sys.stderr)
            return 0
        run(
            job,
            folder,
            resume_from,
            Fanout([LocalTracker(folder, conditions(device)), *others, watch(config, folder, others)]),
        )
    except (ConfigError, DataError, CheckpointError) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return USER_ERROR
    except OSError as error:
        print(f"{Path(sys.argv[0]).name}: {in_one_line(error)}", file=sys.stderr)
        return exit_code_of(error)
    return 0


def start_estimation(config: EstimateConfig, options: Sequence[Any], more: Callable[..., None] | None) -> int:
    """Estimate and print it; `more`, and the exit code, are those of `semi.commands.estimate`."""
    try:
        device, note = pick_device(config.gpu)
        if note:
            print(note, file=sys.stderr)
        record = load_or_estimate(config, device)
    except NotIdentifiable as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 1
    except (ConfigError, DataError) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return USER_ERROR
    except OSError as error:
        print(f"{Path(sys.argv[0]).name}: {in_one_line(error)}", file=sys.stderr)
        return exit_code_of(error)
    print_estimate(record)
    if more:
        more(estimate_path(config), record, *options)
    print(f"cached in {estimate_path(config)}; {how_to_use(config)}", file=sys.stderr)
    return 0


def dry_dataset(config: Config) -> Dataset:
    """The data set of a dry run: nothing is downloaded, and without files its known classes and counts stand in."""
    try:
        return load_dataset(config.dataset, config.data_dir, download=False)
    except FilesMissingError as error:
        print(f"{error}; the counts below are those of the whole data set", file=sys.stderr)
        return known_counts(config.dataset)


def estimated_dist(
    config: Config, device: torch.device, fetch: Callable[[str, Path], Path] | None = None
) -> list[float] | None:
    """What `--est` aims at, estimated now if no cached estimate is there; a dry run only says that it would be."""
    if not config.est:
        return None
    if is_file(config.est_from):
        return read_estimate(Path(config.est_from))
    if config.est_from:
        if fetch is None:
            raise ConfigError(
                f"--est wandb:{config.est_from}: only train_with_wandb.py fetches artifacts; start that one"
            )
        try:
            return read_estimate(fetch(config.est_from, Path(config.estimation_dir) / "wandb"))
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(str(error)) from None
    wanted = estimate_config(config)
    if config.dry_run and not estimate_path(wanted).exists():
        print(f"--est: would be estimated first, into {estimate_path(wanted)}", file=sys.stderr)
        return None
    dist: list[float] = load_or_estimate(wanted, device)["dist"]
    return dist


def fetched(config: Config, name: str, fetch: Callable[[str, Path], Path] | None) -> Config:
    """The configuration with `--resume wandb:NAME` turned into a downloaded checkpoint in the run's own folder."""
    if fetch is None:
        raise ConfigError(
            f"--resume wandb:{name}: only train_with_wandb.py fetches artifacts; start that one"
        )
    folder = run_folder(replace(config, resume=""), sweep_trial())
    if holds_run(folder):
        raise ConfigError(f"--resume wandb:{name}: {folder} already holds a run; go on with --resume auto")
    try:
        return replace(config, resume=str(fetch(name, folder)))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def watch(config: Config, folder: Path, others: Sequence[Tracker]) -> AlertTracker:
    """What looks out for hopeless runs, and tells standard error and those trackers that take alerts."""
    sinks = [tracker.alert for tracker in others if isinstance(tracker, AlertSink)]
    return AlertTracker(folder, [print_alert, *sinks] if config.alerts else [], stop=config.stop_on_collapse)


def sweep_trial() -> str | None:
    """The id of the sweep's trial that this process is, where its configuration alone does not name its folder: an
    agent started it, or `python -m sweeps run` did and another trial has the same configuration.
    """
    shared = os.environ.get("WANDB_SWEEP_ID") or os.environ.get("SWEEP_REPEATED")
    return os.environ.get("WANDB_RUN_ID") if shared else None


def tell_sweep(folder: Path) -> None:
    """Tell `python -m sweeps run`, where it started this process, where the rows will be."""
    if told := os.environ.get("SWEEP_FOLDER_FILE"):
        Path(told).write_text(str(folder.resolve()), encoding="utf-8")
