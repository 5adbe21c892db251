"""Dry-runs the trials of a sweep file: flags, presets, splits, metric."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeps.command import as_flags, command_of
from sweeps.definition import Sweep, SweepError, trials
from tracking.row import FEW_CLASSES, is_among_few, is_known

ROOT = Path(__file__).parents[1]


def check(sweep: Sweep) -> int:
    """Dry-run every trial; returns 0 when all could run. Prints a line for each that could not, and for each note.

    Raises SweepError when the metric is not one that a run logs.
    """
    name = sweep.metric.name if sweep.metric else ""
    if name and not is_known(name):
        raise SweepError(
            f"{sweep.path}: metric.name {name}: no run logs it; python3 train.py --dry-run lists the keys"
        )
    if name and not is_among_few(name, FEW_CLASSES) and sweep.constant("wandb_per_class") != "all":
        raise SweepError(
            f"{sweep.path}: metric.name {name}: add wandb_per_class: {{value: all}}, else W&B does not get it"
        )
    cells = list(trials(sweep, None if sweep.method == "grid" else min(sweep.run_cap or 8, 8)))
    outcomes = dry_run(sweep, cells)
    for trial, outcome in zip(cells, outcomes, strict=True):
        for sentence in filter(None, (outcome["problem"], *outcome["notes"])):
            print(f"{shlex.join(as_flags(trial))}\n  {sentence}")
    for reason in sorted({outcome["unchecked"] for outcome in outcomes} - {""}):
        print(f"{sweep.path}: the flags fit; class counts were not checked: {reason}")
    bad = sum(bool(outcome["problem"]) for outcome in outcomes)
    capped = sum(bool(outcome["notes"]) for outcome in outcomes)
    marked = f", {capped} of them with fewer images than asked for" if capped else ""
    print(f"{sweep.path}: {len(cells) - bad} of {len(cells)} trials can run{marked}")
    return 1 if bad else 0


def dry_run(sweep: Sweep, cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What `semi.dry_run` says of each trial, in one process for all of them. Nothing is trained or written."""
    commands = []
    environment = os.environ | {
        "PYTHONPATH": str(ROOT)
    }  # presets and images are looked for from here, as in a trial
    for trial in cells:
        words = command_of(sweep.command, sweep.program, trial, sys.executable)
        commands.append(words[words.index(sweep.program) :] if sweep.program in words else words)
    done = subprocess.run(
        [sys.executable, "-m", "semi.dry_run"],
        input=json.dumps(commands),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment,
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found
