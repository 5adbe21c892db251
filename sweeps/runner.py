"""Runs a sweep's trials as `wandb agent` would, without a server; `check` dry-runs them."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from types import FrameType
from typing import Any

import yaml

from sweeps.command import as_flags, command_of
from sweeps.definition import Sweep, SweepError, trial_id, trials
from tracking.row import FEW_CLASSES, is_among_few, is_known

INTERRUPTED = 128 + signal.SIGINT
SWEEP_KEY = "sweep"  # names the sweep file in the config of its runs at W&B
ROOT = Path(__file__).parents[1]


def trial_environment(sweep: Sweep, trial: Mapping[str, Any], params_file: Path) -> dict[str, str]:
    """What W&B reads of a trial: its id, and its parameters, which it locks. Offline unless told.

    The group stays the run's own, which is its regime, as it is with an agent. A server knows no sweep that was not
    made there, so the config key SWEEP_KEY ties the trials together: W&B groups and filters runs by any config key.
    """
    named = {**trial, SWEEP_KEY: sweep.name}
    params_file.write_text(yaml.safe_dump({name: {"value": value} for name, value in named.items()}))
    environment = dict(os.environ)
    environment.setdefault("WANDB_MODE", "offline")
    environment["WANDB_RUN_ID"] = trial_id(sweep, trial)
    environment["WANDB_SWEEP_PARAM_PATH"] = str(params_file)
    return environment


def run(sweep: Sweep, *, jobs: int, count: int | None, gpus: Sequence[str], dry_run: bool) -> int:
    """Run the trials, `jobs` at a time; returns 0 when all ended well, else 1.

    With `gpus`, each job sees one of them (CUDA_VISIBLE_DEVICES). On a CPU, jobs share the cores evenly.
    Ctrl-C or SIGTERM goes to the running trials, which keep their last checkpoint.
    """
    cells = list(trials(sweep, count))
    commands = [command_of(sweep.command, sweep.program, trial, sys.executable) for trial in cells]
    if dry_run:
        for command in commands:
            print(shlex.join(command))
        return 0
    jobs = max(1, min(jobs, len(cells)))
    free_gpus: Queue[str] = Queue()
    for i in range(jobs):
        free_gpus.put(gpus[i % len(gpus)] if gpus else "")
    running: set[subprocess.Popen[bytes]] = set()
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for process in list(running):
            process.send_signal(signal.SIGTERM)

    def one(number: int) -> int:
        if stopping:
            return INTERRUPTED
        gpu, start = free_gpus.get(), time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            environment = trial_environment(sweep, cells[number], Path(folder) / "params.yaml")
            if gpu:
                environment["CUDA_VISIBLE_DEVICES"] = gpu
            if jobs > 1:
                environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
            print(f"[{number + 1}/{len(cells)}] {shlex.join(commands[number])}", flush=True)
            process = subprocess.Popen(commands[number], env=environment)
            running.add(process)
            if stopping:  # the request came while it was being started
                process.send_signal(signal.SIGTERM)
            code = process.wait()
            running.discard(process)
        free_gpus.put(gpu)
        outcome = "done" if code == 0 else f"failed with exit code {code}"
        print(f"[{number + 1}/{len(cells)}] {outcome} after {time.monotonic() - start:.0f} s", flush=True)
        return code

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with ThreadPoolExecutor(jobs) as pool:
            codes = list(pool.map(one, range(len(cells))))
    finally:
        for signal_number, handler in previous.items():
            signal.signal(signal_number, handler)
    failed = [i + 1 for i, code in enumerate(codes) if code != 0]
    if failed:
        print(
            f"{len(failed)} of {len(cells)} trials did not end well: {', '.join(map(str, failed))}",
            file=sys.stderr,
        )
    return 1 if failed else 0


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
