"""Runs a sweep's trials without a server: claims them in the study, starts and watches them as `wandb agent` would."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

import optuna
import yaml

from sweeps.command import as_json, command_of
from sweeps.definition import Sweep, SweepError, Trial, repetition, trial_id
from sweeps.naming import label
from sweeps.study import ABOUT, END, Study, about
from sweeps.terminal import Lines
from tracking.local import METRICS_FILE, read_rows

POLL_S = 0.25
IDLE_S = 1.0
REPORT_S = 5.0  # between two reports of a row that only `status` shows: each is a transaction
UNASKED_S = (
    5.0  # a trial that is told to stop a moment before its runner is (SLURM tells both) was not stopped alone
)
STOP_S = 60.0  # for a trial to keep its state before it is killed
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
SWEEP_KEY = "sweep"  # names the sweep in the config of its runs at W&B
NAME_LIMIT = 128  # letters that W&B takes in a run's name
FOLDER_VARIABLE = "SWEEP_FOLDER_FILE"  # a trial writes the path of its run's folder into this file
REPEATED_VARIABLE = (
    "SWEEP_REPEATED"  # set where an earlier trial has the same parameters: the folder needs another name
)
DEFAULT_OUT = "result"


class Ended(Exception):
    """A trial that gave no value; what became of it stands in the study."""


@dataclass(eq=False)
class Running:
    """A trial that runs."""

    process: subprocess.Popen[bytes]
    stop_asked: float | None = None
    """When it was asked to stop (time.monotonic)."""
    behind: bool = False
    """Whether hyperband asked it to."""
    reported: float = -math.inf
    """When its newest row was reported (time.monotonic)."""

    _size: int = 0

    def has_grown(self, metrics: Path) -> bool:
        """Whether the file is longer than at the last look; reading it takes long when it has many rows."""
        size = metrics.stat().st_size if metrics.exists() else 0
        grown, self._size = size != self._size, size
        return grown

    def ask(self, number: int) -> None:
        if self.stop_asked is None:
            self.stop_asked = time.monotonic()
            self.process.send_signal(number)

    def insist(self) -> None:
        """Cut the lifeline of one that does not stop: see tether.py."""
        if self.stop_asked is not None and time.monotonic() - self.stop_asked > STOP_S:
            assert self.process.stdin is not None
            self.process.stdin.close()


@dataclass
class Runner:
    """What the threads of one `python -m sweeps run` share."""

    study: Study
    folder: Path
    lines: Lines
    count: int | None
    gpus: Sequence[str]
    jobs: int
    stop: int | None = None
    """The signal that ends this runner."""
    failures: int = 0
    trouble: BaseException | None = None
    running: set[Running] = field(default_factory=set)
    taken_over: set[int] = field(default_factory=set)
    """Jobs whose trial another runner has taken over."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def sweep(self) -> Sweep:
        return self.study.sweep

    def take_ticket(self) -> bool:
        """Whether one more trial may start here (--count)."""
        with self.lock:
            if self.count is None:
                return True
            self.count -= 1
            return self.count >= 0

    def give_ticket_back(self) -> None:
        with self.lock:
            if self.count is not None:
                self.count = max(self.count, 0) + 1


def run(
    sweep: Sweep,
    storage: str,
    *,
    jobs: int,
    count: int | None,
    gpus: Sequence[str],
    heartbeat_s: int,
    retry_failed: bool,
) -> int:
    """Run trials, `jobs` at a time, until none is left, also of runners that die meanwhile.

    With `gpus`, each job sees one of them (CUDA_VISIBLE_DEVICES). On a CPU, jobs share the cores evenly. SIGINT and
    SIGTERM end this runner: its trials keep their state and go back in the queue. SIGUSR1 has them save theirs.

    Returns the exit code: 0 when its trials ended well, 1 when one failed or the study could not be reached any more,
    128 + the signal that ended it.
    Raises SweepError, one line, for what cannot be started at all.
    """
    refuse_missing_programs(sweep)
    study = Study(sweep, storage, heartbeat_s=heartbeat_s)
    folder = sweep_folder(sweep)
    folder.mkdir(parents=True, exist_ok=True)
    with Lines(study, folder) as lines:
        if retry_failed:
            lines.say(f"{study.put_back_failed()} failed trials go on")
        runner = Runner(study, folder, lines, count, gpus, jobs)
        with listening(runner):
            threads = [threading.Thread(target=work, args=(runner, k)) for k in range(jobs)]
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(POLL_S)  # a signal is heard between two of these
    if runner.trouble is not None:
        reason = f"{type(runner.trouble).__name__}: {one_line(runner.trouble)}"
        print(f"{sweep.path}: the study cannot go on ({reason}); start this runner again", file=sys.stderr)
        return 1
    lines.summary(interrupted=runner.stop is not None)
    if runner.stop is not None:
        return 128 + runner.stop
    return 1 if runner.failures else 0


@contextlib.contextmanager
def listening(runner: Runner) -> Iterator[None]:
    """Inside, signals end this runner or have its trials save, and so does a study that is out of reach."""

    def end(number: int, frame: FrameType | None) -> None:
        runner.stop = runner.stop or number
        for trial in list(runner.running):
            trial.ask(signal.SIGTERM)

    def save(number: int, frame: FrameType | None) -> None:
        for trial in list(runner.running):
            trial.process.send_signal(signal.SIGUSR1)

    def lost(failure: threading.ExceptHookArgs) -> None:  # of Optuna's heartbeat: the study is out of reach
        runner.trouble = runner.trouble or failure.exc_value

    previous = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    previous[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, save)
    hook, threading.excepthook = threading.excepthook, lost
    try:
        yield
    finally:
        threading.excepthook = hook
        for number, handler in previous.items():
            signal.signal(number, handler)


def work(runner: Runner, job: int) -> None:
    """One job: a trial after the other until none is left."""
    try:
        study = runner.study.for_a_thread()
        while runner.stop is None and runner.trouble is None:
            runner.study.recover()
            found = runner.study.queue()
            if found == "end":
                return
            if found == "wait":
                runner.lines.waiting(len(runner.running))
                time.sleep(IDLE_S)
                continue
            if not runner.take_ticket():
                return
            try:
                study.optimize(lambda trial: objective(runner, trial, job), n_trials=1, catch=(Ended,))
            except ValueError:  # Optuna: the trial has ended before
                if job not in runner.taken_over:
                    raise
                runner.taken_over.discard(job)
    except BaseException as error:
        runner.trouble = runner.trouble or error
        for trial in list(runner.running):
            trial.ask(signal.SIGTERM)


def objective(runner: Runner, trial: optuna.Trial, job: int) -> float:
    """One trial of Optuna's; returns its value.

    Raises TrialPruned when hyperband ended it, Ended when it has no value: it failed, was stopped, or is not wanted.
    """
    study, sweep = runner.study, runner.sweep
    cell = study.claimed(trial)
    if cell is None:
        runner.give_ticket_back()
        raise Ended
    parameters = study.draw(trial, cell)
    again = repetition(sweep, cell)
    name = trial_id(sweep, parameters, again)
    log = runner.folder / f"{name}.log"
    trial.set_user_attr(ABOUT, about(name, parameters, log))
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary, log.open("ab") as output:
        environment = trial_environment(sweep, parameters, name, Path(temporary), repeated=again > 0)
        environment |= device_environment(runner, job)
        values, code, running = watched(runner, trial, parameters, environment, Path(temporary), output)
        folder = told_folder(Path(temporary))
    value = study.best(values)
    end: dict[str, Any] = {
        "value": value if math.isfinite(value) else None,
        "rows": len(values),
        "seconds": time.monotonic() - start,
        "exit_code": code,
        "folder": str(folder or ""),
    }
    if not study.is_running(trial.number):
        runner.taken_over.add(job)
        runner.lines.say(
            f"{label(sweep, parameters)}: taken over by another runner, which heard nothing from this one"
        )
        raise Ended
    if code == 0 or running.behind:
        trial.set_user_attr(END, end)
        runner.lines.trial_ended(cell, parameters, "ended early" if running.behind else "done", end)
        if running.behind:
            raise optuna.TrialPruned
        return value
    if code in STOPPED and running.stop_asked is None:
        deadline = time.monotonic() + UNASKED_S
        while runner.stop is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
    if runner.stop is not None or runner.trouble is not None:
        study.put_back(trial.number)
        runner.lines.trial_ended(cell, parameters, "interrupted", end)
        raise Ended
    trial.set_user_attr(END, end)
    runner.failures += 1
    runner.lines.trial_ended(cell, parameters, "failed", end, last_line(log), log)
    raise Ended


def watched(
    runner: Runner,
    trial: optuna.Trial,
    parameters: Trial,
    environment: dict[str, str],
    temporary: Path,
    output: IO[bytes],
) -> tuple[list[float], int, Running]:
    """Start the trial's command and follow it to its end; returns the metric's values and the exit code."""
    sweep, json_file = runner.sweep, temporary / "args.json"
    json_file.write_text(as_json(parameters))
    words = command_of(sweep.command, sweep.program, parameters, sys.executable, json_file)
    process = subprocess.Popen(
        [sys.executable, "-I", str(Path(__file__).with_name("tether.py")), *words],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        env=environment,
        start_new_session=True,  # Ctrl-C is for the runner, which asks its trials to keep their state
    )
    running, values, looked = Running(process), list[float](), time.monotonic()
    runner.running.add(running)
    try:
        while True:
            if runner.stop is not None or runner.trouble is not None:
                running.ask(signal.SIGTERM)
            running.insist()
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(POLL_S)
                if code < 0:  # the tether itself was killed, and cannot end what it started
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                report(runner, trial, running, temporary, values)
                return values, code if code >= 0 else 128 - code, running
            report(runner, trial, running, temporary, values)
            if time.monotonic() - looked > runner.study.heartbeat_s:
                looked = time.monotonic()
                if not runner.study.is_running(trial.number):
                    running.ask(signal.SIGTERM)
    finally:
        runner.running.discard(running)
        assert process.stdin is not None
        process.stdin.close()


def report(
    runner: Runner, trial: optuna.Trial, running: Running, temporary: Path, values: list[float]
) -> None:
    """Add the metric's new values to `values`, tell the study, and end the trial where hyperband says so."""
    metric, folder = runner.sweep.metric, told_folder(temporary)
    if metric is None or folder is None or not running.has_grown(folder / METRICS_FILE):
        return
    rows = [row[metric.name] for row in read_rows(folder) if is_finite(row.get(metric.name))]
    hyperband = runner.sweep.hyperband
    brackets = hyperband.brackets if hyperband else ()
    newest = time.monotonic() - running.reported > REPORT_S
    for step in range(len(values), len(rows)):
        if step + 1 in brackets or (newest and step == len(rows) - 1):
            trial.report(rows[step], step)
    if newest and len(rows) > len(values):
        running.reported = time.monotonic()
        runner.lines.refresh()
    if len(rows) > len(values):
        values[:] = rows
        if running.process.poll() is None and runner.study.is_behind(trial, values):
            running.behind = True
            running.ask(
                signal.SIGINT
            )  # not SIGTERM, which is preemption: W&B would put the run back in a queue


def is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def told_folder(temporary: Path) -> Path | None:
    """The run's folder, once the trial has said it."""
    with contextlib.suppress(FileNotFoundError):
        if said := (temporary / "folder").read_text().strip():
            return Path(said)
    return None


def trial_environment(
    sweep: Sweep, parameters: Trial, name: str, temporary: Path, *, repeated: bool = False
) -> dict[str, str]:
    """What W&B reads of a trial: its id, its name, and its parameters, which it locks. Offline unless told.

    The group stays the run's own, which is its regime, as it is with an agent. A server knows no sweep that was not
    made there, so the config key SWEEP_KEY ties the trials together: W&B groups and filters runs by any config key.
    """
    params_file = temporary / "params.yaml"
    named = {**parameters, SWEEP_KEY: sweep.title}
    params_file.write_text(yaml.safe_dump({name: {"value": value} for name, value in named.items()}))
    environment = dict(os.environ)
    environment.setdefault("WANDB_MODE", "offline")
    environment.setdefault("WANDB_NAME", f"{label(sweep, parameters)} {sweep.title}"[:NAME_LIMIT])
    for variable, value in (("WANDB_PROJECT", sweep.project), ("WANDB_ENTITY", sweep.entity)):
        if value:
            environment.setdefault(variable, value)
    environment["WANDB_RUN_ID"] = name
    environment["WANDB_SWEEP_PARAM_PATH"] = str(params_file)
    environment[FOLDER_VARIABLE] = str(temporary / "folder")
    environment.pop(REPEATED_VARIABLE, None)
    return environment | ({REPEATED_VARIABLE: "1"} if repeated else {})


def device_environment(runner: Runner, job: int) -> dict[str, str]:
    """One of the GPUs, and an even share of the cores unless the user said otherwise."""
    environment = {"CUDA_VISIBLE_DEVICES": runner.gpus[job % len(runner.gpus)]} if runner.gpus else {}
    if runner.jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // runner.jobs))
    return environment


def refuse_missing_programs(sweep: Sweep) -> None:
    """Raises SweepError where the command's first program or ${program} is not there."""
    words = command_of(sweep.command, sweep.program, {}, sys.executable)
    first = next((word for word in words if word != "/usr/bin/env" and "=" not in word), "")
    if shutil.which(first) is None and first != sweep.program:
        raise SweepError(
            f"{sweep.path}: command: there is no program {first}; install it, or name another one"
        )
    if sweep.program and "${program}" in sweep.command:
        runs_itself = first == sweep.program and shutil.which(first)
        if not Path(sweep.program).is_file() and not runs_itself:
            raise SweepError(
                f"{sweep.path}: program: there is no file {sweep.program}; start from the folder that has it"
            )
        if first == sweep.program and not runs_itself:
            raise SweepError(
                f"{sweep.path}: program: {first} is not executable; put ${{interpreter}} before it"
            )


def sweep_folder(sweep: Sweep) -> Path:
    """Where the study, the logs and the page of a sweep are: beside its runs, so that they go together."""
    out = sweep.constant("out")
    return Path(out if isinstance(out, str) and out else DEFAULT_OUT) / f"sweep-{sweep.name}"


def default_storage(sweep: Sweep) -> str:
    return f"sqlite:///{sweep_folder(sweep) / 'study.sqlite3'}"


def last_line(log: Path) -> str:
    """The last thing that a trial said."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")[:200]


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
