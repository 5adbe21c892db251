"""Kill trainings at random moments and compare them with ones that nobody killed; train for long and look for growth.

python -m tests.soak --cycles 200 --epochs 2000 --seed 0

Trainings are started as a user starts them (train.py), killed with SIGKILL, and resumed until they are complete. All
methods take part, raw and with --darp. A run must have each epoch once, the rows of its twin that was not killed, and
the same final checkpoint bit by bit. The exit code is 1 if one has not; each failure is one line.

This is a test that is too long for the test suite, so it stands with the tests; tests/test_soak.py is its short form.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from semi import checkpoint
from semi.checkpoint import CHECKPOINT_FILE, CheckpointError
from semi.names import METHODS
from semi.progress import Progress
from semi.run_folder import position
from tests.semi.runs import TIMES, TINY
from tracking.lock import run_lock

ROOT = Path(__file__).parents[1]
POLL_S = 0.002
LONGEST_S = 300.0  # of a training that is not killed
KILLS_OF_A_RUN = (6, 14)
MOMENTS = (
    "start",
    "training",
    "training",
    "write",
    "write",
)  # start: before the first step; write: of a file
OTHERWISE = ("config", "tracker")  # parts of a checkpoint that name the run's folder and its flags


@dataclass(frozen=True)
class Kind:
    """What is trained."""

    method: str
    darp: bool
    epochs: int = 10
    steps: int = 3

    @property
    def name(self) -> str:
        return f"{self.method} --darp" if self.darp else self.method

    def command(self, out: Path) -> list[str]:
        flags = TINY | {"semi_method": self.method, "epochs": self.epochs, "val_iteration": self.steps}
        flags["batch_size"] = 4
        words = [f"--{name}={value}" for name, value in flags.items()]
        words += ["--resume=auto", "--run_name=r", f"--out={out}", "--checkpoint_every_s=0.05"]
        return [sys.executable, str(ROOT / "train.py"), *words, *(["--darp"] if self.darp else [])]


@dataclass(frozen=True)
class Twin:
    """A run that was not killed, and how long it took until its first step and from there to its end."""

    rows: Sequence[Mapping[str, Any]]
    state: Mapping[str, Any]
    start_s: float
    training_s: float


@dataclass
class Report:
    """Counts of kills, by kind of run and by what they left; one line for each failure."""

    kills: Counter[str] = field(default_factory=Counter)
    left: dict[str, Counter[str]] = field(default_factory=dict)
    runs: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


@contextmanager
def started(command: Sequence[str], said: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not outlive the block; what it says goes to the file `said`."""
    with said.open("ab") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait(process: subprocess.Popen[bytes], until: Callable[[], bool]) -> bool:
    """Whether `until` came true while the process was alive."""
    while process.poll() is None:
        if until():
            return True
        time.sleep(POLL_S)
    return False


def trains(process: subprocess.Popen[bytes], folder: Path) -> Callable[[], bool]:
    """Whether the process has taken the run's folder: its first step comes next."""

    def is_holder() -> bool:
        try:
            return bool(json.loads(run_lock(folder).read_text())["pid"] == process.pid)
        except (OSError, ValueError):
            return False

    return is_holder


def lines(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl as it stands there, line by line, without the times."""
    path = folder / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [
        {name: value for name, value in json.loads(line).items() if not TIMES.match(name)}
        for line in text.splitlines()
    ]


def twin_of(kind: Kind, out: Path) -> Twin:
    begin = time.monotonic()
    with started(kind.command(out), out.with_suffix(".txt")) as process:
        wait(process, trains(process, out / "r"))
        began = time.monotonic()
        code = process.wait(LONGEST_S)
    if code != 0:
        raise SystemExit(f"{kind.name}: a run that nobody kills fails: {last_line(out.with_suffix('.txt'))}")
    state = checkpoint.load(out / "r" / CHECKPOINT_FILE)
    return Twin(lines(out / "r"), state, began - begin, time.monotonic() - began)


def last_line(said: Path) -> str:
    return (said.read_text(errors="replace").splitlines() or ["nothing was said"])[-1]


def kill_at_random(process: subprocess.Popen[bytes], folder: Path, twin: Twin, rng: random.Random) -> bool:
    """Kill the process at a random moment; False when it had ended before."""
    moment = rng.choice(MOMENTS)
    if moment == "start":
        end = time.monotonic() + rng.uniform(0, twin.start_s)
        wait(process, lambda: time.monotonic() >= end)
    elif wait(process, trains(process, folder)):
        left = twin.training_s * (1 - len(lines(folder)) / len(twin.rows))
        end = time.monotonic() + rng.uniform(0, 0.7 * left)
        wait(process, lambda: time.monotonic() >= end)
        if moment == "write":
            wait(process, writes(folder))
            time.sleep(rng.uniform(0, 0.02))
        elif moment == "warned":
            process.send_signal(signal.SIGUSR1)
            time.sleep(rng.uniform(0, 0.3))
    process.kill()
    return process.wait() == -signal.SIGKILL


def writes(folder: Path) -> Callable[[], bool]:
    """Whether a file of the folder is being written, or a row has come since this call."""
    before = size_of(folder / "metrics.jsonl")
    return lambda: any(folder.glob(".*.tmp")) or size_of(folder / "metrics.jsonl") != before


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def what_is_left(folder: Path) -> str:
    """What a kill left, in words that the summary counts."""
    rows = len(lines(folder))
    if not (folder / CHECKPOINT_FILE).exists():
        return "no checkpoint" + (", a row" if rows else "")
    try:
        epoch, step = position(checkpoint.load(folder / CHECKPOINT_FILE))
    except CheckpointError:
        return "a damaged checkpoint"
    words = "within an epoch" if step else "an epoch's end"
    if rows > epoch + 1:
        words += ", a row more"
    return words + (", half a file" if any(folder.glob(".*.tmp")) else "")


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """Where two checkpoints differ. Tensors must be equal bit by bit, numbers by value."""
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
        if not same:
            yield place
    elif isinstance(one, Mapping):
        if set(one) != set(other):
            yield place
        for name in (name for name in one if name in other):
            yield from differences(one[name], other[name], f"{place}/{name}")
    elif isinstance(one, (list, tuple)):
        if len(one) != len(other):
            yield place
        for number, (mine, its) in enumerate(zip(one, other, strict=False)):
            yield from differences(mine, its, f"{place}/{number}")
    elif one != other:
        yield place


def compare(folder: Path, twin: Twin) -> str:
    """What is wrong with a run that is complete; empty where it is its twin."""
    rows = lines(folder)
    if (epochs := [row["epoch"] for row in rows]) != [row["epoch"] for row in twin.rows]:
        return f"its epochs are {epochs}"
    for mine, its in zip(rows, twin.rows, strict=True):
        if wrong := [name for name in its if mine.get(name) != its[name]]:
            return f"epoch {its['epoch']}: {', '.join(wrong[:3])} differ"
    state = checkpoint.load(folder / CHECKPOINT_FILE)
    ours, its = ({k: v for k, v in s.items() if k not in OTHERWISE} for s in (state, twin.state))
    wrong = list(differences(its, ours))
    return f"the final checkpoint differs in {', '.join(wrong[:3])}" if wrong else ""


def run_and_kill(
    kind: Kind,
    twin: Twin,
    out: Path,
    kills: int,
    rng: random.Random,
    report: Report,
    told: Callable[[], None],
) -> int:
    """One run, killed up to `kills` times, resumed to its end and compared; returns how often it was killed."""
    folder, said, done = out / "r", out.with_suffix(".txt"), 0
    left = report.left.setdefault(kind.name, Counter())
    report.runs[kind.name] += 1
    while done < kills:
        with started(kind.command(out), said) as process:
            if not kill_at_random(process, folder, twin, rng):
                break  # it came to its end first
        done += 1
        report.kills[kind.name] += 1
        left[what_is_left(folder)] += 1
        told()
        for mine, its in zip(lines(folder), twin.rows, strict=False):
            if mine != its:
                report.failures.append(f"{kind.name}: a row is wrong after kill {done} of {folder}")
                return done
    with started(kind.command(out), said) as process:
        code = process.wait(LONGEST_S)
    wrong = compare(folder, twin) if code == 0 else f"exit code {code}: {last_line(said)}"
    if wrong:
        report.failures.append(f"{kind.name}: {folder} after {done} kills: {wrong}")
    return done


def soak(kinds: Sequence[Kind], cycles: int, seed: int, place: Path, report: Report) -> None:
    """Kill `cycles` times, in turns over the kinds of runs; `report` hears of each."""
    rng, done, number = random.Random(seed), 0, 0
    twins: dict[str, Twin] = {}
    with Progress(cycles, 0, "kills") as progress:
        while done < cycles:
            kind = kinds[number % len(kinds)]
            if kind.name not in twins:
                twins[kind.name] = twin_of(kind, place / f"twin-{number}")
            kills = min(rng.randint(*KILLS_OF_A_RUN), cycles - done)
            out = place / f"run-{number}"
            done += run_and_kill(kind, twins[kind.name], out, kills, rng, report, progress.step)
            progress.now_and_then(f"{done} of {cycles} kills, {len(report.failures)} failures")
            number += 1


@dataclass(frozen=True)
class Sample:
    """A process after an epoch: memory in MB, open handles, seconds of processor time so far."""

    epoch: int
    memory: float
    handles: int
    seconds: float

    @classmethod
    def of(cls, pid: int, epoch: int) -> Sample:
        process = Path("/proc") / str(pid)
        pages = int((process / "statm").read_text().split()[1])
        times = (process / "stat").read_text().rpartition(")")[2].split()
        return cls(
            epoch=epoch,
            memory=pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
            handles=len(list((process / "fd").iterdir())),
            seconds=(int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK"),
        )


def long_run(epochs: int, place: Path) -> list[Sample]:
    """Samples of one training of many epochs of a step each."""
    kind = Kind("fix", True, epochs=epochs, steps=1)
    metrics, samples = place / "long" / "r" / "metrics.jsonl", [Sample(0, 0.0, 0, 0.0)]
    with (
        started(kind.command(place / "long"), place / "long.txt") as process,
        Progress(epochs, 0, "epochs") as progress,
    ):
        known = 0
        while process.poll() is None:
            time.sleep(0.1)
            if size_of(metrics) == known:
                continue
            known = size_of(metrics)
            try:
                samples.append(Sample.of(process.pid, metrics.read_bytes().count(b"\n")))
            except OSError:  # it has just ended
                break
            for _ in range(samples[-1].epoch - samples[-2].epoch):
                progress.step()
            progress.now_and_then(f"{samples[-1].epoch} of {epochs} epochs")
        code = process.wait(LONGEST_S)
    if code != 0 or len(lines(place / "long" / "r")) != epochs:
        raise SystemExit(f"the long run failed: {last_line(place / 'long.txt')}")
    return samples[1:]


@dataclass(frozen=True)
class Growth:
    """From the first part of a training, after it has warmed up, to its last part."""

    memory: tuple[float, float]
    handles: tuple[int, int]
    seconds: tuple[float, float]  # of the processor, an epoch

    def failures(self) -> list[str]:
        """One line for what is not flat: the last part may take a twentieth more memory and a quarter more time."""
        found = []
        if self.memory[1] > 1.05 * self.memory[0]:
            found.append(f"memory grew from {self.memory[0]:.1f} to {self.memory[1]:.1f} MB")
        if self.handles[1] > self.handles[0]:
            found.append(f"open handles grew from {self.handles[0]} to {self.handles[1]}")
        if self.seconds[1] > 1.25 * self.seconds[0]:
            first, last = (1000 * s for s in self.seconds)
            found.append(f"an epoch grew from {first:.1f} to {last:.1f} ms")
        return found


def growth(samples: Sequence[Sample]) -> Growth:
    """Epochs from a tenth to three tenths against the last fifth."""
    end = samples[-1].epoch
    first = [s for s in samples if 0.1 * end <= s.epoch <= 0.3 * end]
    last = [s for s in samples if s.epoch >= 0.8 * end]
    seconds = [
        (part[-1].seconds - part[0].seconds) / (part[-1].epoch - part[0].epoch) for part in (first, last)
    ]
    return Growth(
        memory=(statistics.median(s.memory for s in first), statistics.median(s.memory for s in last)),
        handles=(max(s.handles for s in first), max(s.handles for s in last)),
        seconds=(seconds[0], seconds[1]),
    )


def show(report: Report, flat: Growth | None) -> None:
    table = Table("run", "runs", "kills", "what the kills left")
    for name, kills in report.kills.items():
        left = ", ".join(f"{count} x {words}" for words, count in report.left[name].most_common())
        table.add_row(name, str(report.runs[name]), str(kills), left)
    table.add_row("all", str(report.runs.total()), str(report.kills.total()), "")
    console = Console(width=max(Console().width, 120))
    console.print(table)
    if flat:
        table = Table("", "first part", "last part")
        table.add_row("memory (MB)", *(f"{value:.1f}" for value in flat.memory))
        table.add_row("open handles", *map(str, flat.handles))
        table.add_row("processor time an epoch (ms)", *(f"{1000 * value:.1f}" for value in flat.seconds))
        console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cycles", type=int, default=200, help="kills (200); 0: none")
    parser.add_argument(
        "--epochs", type=int, default=2000, help="epochs of the long training (2000); 0: none"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills (0)")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # no training outlives this
    kinds = [Kind(method, darp) for method in METHODS for darp in (False, True)]
    report, flat = Report(), None
    try:
        with tempfile.TemporaryDirectory(prefix="soak-") as place:
            soak(kinds, given.cycles, given.seed, Path(place), report)
            flat = growth(long_run(given.epochs, Path(place))) if given.epochs else None
    finally:  # also of a soak that is interrupted
        show(report, flat)
    failures = report.failures + (flat.failures() if flat else [])
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
