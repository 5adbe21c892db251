"""Dry-runs many command lines in one process: flags, presets and splits, without a network or a run folder.

`python -m semi.dry_run` reads a JSON list of command lines (program, then its words) and writes a JSON list of what
came of each. The sweep runner checks a grid with it: a Python start for each cell would take minutes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data import DataError, Dataset
from semi.cli import parse
from semi.config import Config, ConfigError, WandbOptions
from semi.methods import method_class
from semi.split import dataset_for, split_for

PROGRAMS: dict[str, tuple[type, ...]] = {"train.py": (Config,), "train_with_wandb.py": (Config, WandbOptions)}


# What says which images are read.
PLACE = ("dataset", "data_dir", "unlabeled_dir", "image_size", "test_share", "flip", "skip_broken")


@dataclass(frozen=True)
class Outcome:
    """What a dry run of one command line found. Empty strings are good news.

    Attributes:
        problem: why the run could not start.
        unchecked: why the split could not be checked: the images are not on this machine.
        notes: what the split would say at the start of the run, such as classes that are capped.
    """

    problem: str = ""
    unchecked: str = ""
    notes: tuple[str, ...] = ()


def dry_run(command: Sequence[str], loaded: dict[tuple[object, ...], Dataset | DataError]) -> Outcome:
    """Dry-run one command line; `loaded` keeps the data sets from one call to the next."""
    program, *words = command
    classes = PROGRAMS.get(Path(program).name)
    if classes is None:
        return Outcome(f"program {program}: use one of {', '.join(PROGRAMS)}")
    try:
        config: Config = parse(words, "", *classes)[0]
        place = tuple(getattr(config, name) for name in PLACE)
        if place not in loaded:
            try:
                loaded[place] = dataset_for(config, download=False)
            except DataError as error:
                loaded[place] = error
        dataset = loaded[place]
        if isinstance(dataset, DataError):
            return Outcome(unchecked=str(dataset))
        holds_labeled = method_class(config.semi_method).unlabeled_includes_labeled
        return Outcome(notes=split_for(config, dataset, include_labeled=holds_labeled).warnings)
    except ConfigError as error:
        return Outcome(str(error))


if __name__ == "__main__":
    kept: dict[tuple[object, ...], Dataset | DataError] = {}
    json.dump([asdict(dry_run(command, kept)) for command in json.load(sys.stdin)], sys.stdout)
