"""A training or an estimation whose flags are read, started: mistakes in one line, exit code out."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from data import DataError, Dataset, FilesMissingError, known_counts
from semi import checkpoint
from semi.checkpoint import CheckpointError
from semi.config import ONLINE, USER_ERROR, Config, ConfigError, EstimateConfig, require_divisible
from semi.device import choose_algorithms, conditions
from semi.distributed import Ranks, joined
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
from semi.job import build_job, describe, never_refines, row_of, warnings
from semi.loop import run
from semi.media import JobMedia
from semi.run_folder import ResumePoint, holds_run, resume_point, run_folder
from semi.split import dataset_for
from tracking.alerts import AlertSink, AlertTracker, print_alert
from tracking.base import Fanout, Tracker
from tracking.local import LocalTracker, exit_code_of, in_one_line
from tracking.media import TakesMedia


def start_training(
    config: Config,
    options: Sequence[Any],
    more: Callable[..., Sequence[Tracker]] | None,
    fetch: Callable[[str, Path], Path] | None,
    fetch_estimate: Callable[[str, Path], Path] | None,
) -> int:
    """Train `config`; the other arguments, and the exit code, are those of `semi.commands.train`."""
    ranks = None
    try:
        ranks, note = joined(config)
        with ranks.naming_the_missing():
            train(ranks, note, config, options, more, fetch, fetch_estimate)
    except NotIdentifiable as error:
        if ranks and ranks.is_first:
            print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return USER_ERROR
    except (ConfigError, DataError, CheckpointError) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return USER_ERROR
    except OSError as error:
        print(f"{Path(sys.argv[0]).name}: {in_one_line(error)}", file=sys.stderr)
        return exit_code_of(error)
    finally:
        if ranks:
            ranks.leave()
    return 0


def train(
    ranks: Ranks,
    note: str,
    config: Config,
    options: Sequence[Any],
    more: Callable[..., Sequence[Tracker]] | None,
    fetch: Callable[[str, Path], Path] | None,
    fetch_estimate: Callable[[str, Path], Path] | None,
) -> None:
    """`start_training` on one of `ranks`, whose device `note` is about. Mistakes are raised, by one process."""
    consumed = config.resume.removeprefix("wandb:") if config.resume.startswith("wandb:") else ""
    if consumed:
        config = ranks.by_first(lambda: fetched(config, consumed, fetch))
    ranks.together(lambda: require_divisible(config.batch_size, ranks.size))
    folder = run_folder(config, sweep_trial())
    ranks.by_first(lambda: tell_sweep(folder))
    resume_from = resume_point_of(ranks, config, folder)
    others: list[Tracker] = []
    if more:  # first, because it refuses what W&B would not take
        ranks.by_first(lambda: others.extend(more(folder, consumed, *options)))
    device = ranks.device
    choose_algorithms(device, config.deterministic)
    stand_in = dry_dataset(config) if config.dry_run else None
    dist = estimated_dist(config, ranks, fetch_estimate)
    job = ranks.host_by_host(lambda: build_job(config, device, dist, stand_in, ranks))
    for sentence in (note, resume_from.note if resume_from else "", *warnings(job)):
        if sentence:
            ranks.say(sentence)
    ranks.say(f"run folder: {folder}" + (f", going on from {resume_from.path}" if resume_from else ""))
    if config.dry_run:
        if ranks.is_first:
            print(
                yaml.safe_dump({"config": describe(job), "row": row_of(job)}, sort_keys=False),
                end="",
                flush=True,
            )
        if sentence := never_refines(config):
            ranks.say(sentence)
        return
    for tracker in others:
        if isinstance(tracker, TakesMedia):
            tracker.take_media(JobMedia(job))
    trackers = [LocalTracker(folder, conditions(device, ranks.size)), *others, watch(config, folder, others)]
    run(job, folder, resume_from, Fanout(trackers))


def resume_point_of(ranks: Ranks, config: Config, folder: Path) -> ResumePoint | None:
    """Where all of them go on from: the first one looks, the others read what it found."""
    found: list[ResumePoint | None] = []

    def look() -> ResumePoint | None:
        found.append(resume_point(config, folder))
        return found[0] and replace(found[0], state={})

    told = ranks.by_first(look)
    if told is None or ranks.is_first:
        return ranks.together(lambda: found[0] if found else None)
    return ranks.together(lambda: replace(told, state=checkpoint.load(told.path)))


def start_estimation(config: EstimateConfig, options: Sequence[Any], more: Callable[..., None] | None) -> int:
    """Estimate and print it; `more`, and the exit code, are those of `semi.commands.estimate`."""
    ranks = None
    try:
        ranks, note = joined(config)
        with ranks.naming_the_missing():
            if note:
                ranks.say(note)
            record = load_or_estimate(config, ranks)
    except NotIdentifiable as error:
        if ranks and ranks.is_first:
            print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 1
    except (ConfigError, DataError) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return USER_ERROR
    except OSError as error:
        print(f"{Path(sys.argv[0]).name}: {in_one_line(error)}", file=sys.stderr)
        return exit_code_of(error)
    finally:
        if ranks:
            ranks.leave()
    if not ranks.is_first:
        return 0
    print_estimate(record)
    if more:
        more(estimate_path(config), record, *options)
    print(f"cached in {estimate_path(config)}; {how_to_use(config)}", file=sys.stderr)
    return 0


def dry_dataset(config: Config) -> Dataset:
    """The data set of a dry run: nothing is downloaded, and without files its known classes and counts stand in."""
    try:
        return dataset_for(config, download=False)
    except FilesMissingError as error:
        try:
            known = known_counts(config.dataset)
        except KeyError:  # a data set of one's own
            raise error from None
        print(f"{error}; the counts below are those of the whole data set", file=sys.stderr)
        return known


def estimated_dist(
    config: Config, ranks: Ranks, fetch: Callable[[str, Path], Path] | None = None
) -> list[float] | None:
    """What `--est` aims at, estimated now if no cached estimate is there; a dry run only says that it would be."""
    if not config.est or config.est_from == ONLINE:
        return None
    if config.est_from:
        return ranks.by_first(lambda: named_estimate(config, fetch))
    wanted = estimate_config(config)
    if config.dry_run and not ranks.by_first(estimate_path(wanted).exists):
        ranks.say(f"--est: would be estimated first, into {estimate_path(wanted)}")
        return None
    dist: list[float] = load_or_estimate(wanted, ranks)["dist"]
    return dist


def named_estimate(config: Config, fetch: Callable[[str, Path], Path] | None) -> list[float]:
    """The estimate in the file or the artifact that `--est` names. Raises ConfigError, one line."""
    if is_file(config.est_from):
        return read_estimate(Path(config.est_from))
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
