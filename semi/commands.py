"""The commands that train: flags in, exit code out.

Flags are read before torch is imported, which takes two seconds: --help and a mistyped flag answer at once. So the
modules that do the work are imported where a command has its flags.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from semi import stopping
from semi.cli import own_words, parse
from semi.config import USER_ERROR, Config, ConfigError, DataConfig, EstimateConfig
from semi.head_config import HeadConfig
from tracking.base import Tracker


def train(
    description: str,
    *option_classes: type,
    more: Callable[..., Sequence[Tracker]] | None = None,
    fetch: Callable[[str, Path], Path] | None = None,
    fetch_estimate: Callable[[str, Path], Path] | None = None,
) -> int:
    """Train as the command line says; returns the exit code, 2 for a mistake in it (one line, nothing written).

    `more(folder, consumed, *options)` gives trackers beside the run's own folder, one options object for each option
    class; `consumed` names the artifact that the run goes on from, which `fetch(name, folder)` downloaded, as
    `fetch_estimate(name, folder)` downloads the one of `--est wandb:NAME`.
    """
    stopping.install()
    try:
        config, *options = parse(sys.argv[1:], description, Config, *option_classes)
    except ConfigError as error:
        return _refused(error)
    if not config.dry_run and _starts_others(config):
        from semi.launch import launched

        return launched(config.nproc)
    from semi.start import start_training

    return start_training(config, options, more, fetch, fetch_estimate)


def estimate(description: str, *option_classes: type, more: Callable[..., None] | None = None) -> int:
    """Estimate as the command line says, and print it; 1 when the distribution cannot be told, 2 for a mistake.

    `more(path, record, *options)` hears of the estimate, also of a cached one.
    """
    stopping.install()
    try:
        config, *options = parse(sys.argv[1:], description, EstimateConfig, *option_classes)
    except ConfigError as error:
        return _refused(error)
    if _starts_others(config):
        from semi.launch import launched

        return launched(config.nproc)
    from semi.start import start_estimation

    return start_estimation(config, options, more)


def retrain_head(description: str, *option_classes: type, more: Callable[..., Sequence[Tracker]]) -> int:
    """Retrain as the command line says; returns the exit code, 2 for a mistake in it (one line, nothing written).

    Flags of the training itself may stand in it, as in the original's commands; they must say what the run says.
    `more(folder, *options)` gives the trackers that --wandb adds.
    """
    stopping.install()
    words = sys.argv[1:]
    if words and not words[0].startswith("-"):
        words = [f"--checkpoint={words[0]}", *words[1:]]
    try:
        own, of_the_run = own_words(words, description, HeadConfig, *option_classes)
        config, *options = parse(own, description, HeadConfig, *option_classes)
    except ConfigError as error:
        return _refused(error)
    from semi.retrain import start_retraining

    return start_retraining(config, options, of_the_run, more)


def _starts_others(config: DataConfig) -> bool:
    """Whether this process is to start those that do the work, as --nproc says, and is none of them itself."""
    return config.nproc > 1 and "RANK" not in os.environ


def _refused(error: ConfigError) -> int:
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun starts, one speaks
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
    return USER_ERROR
