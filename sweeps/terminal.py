"""What a sweep says at the terminal: a line a trial with the time left, and a table at the end."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.table import Table

from sweeps.definition import Sweep, differing
from sweeps.naming import label, shown_value, value_of
from sweeps.study import Progress, Study

ROOT = Path(__file__).parents[1]
MOST_LINES = 40  # of the table
STATES = ("done", "ended early", "running", "interrupted", "failed")
ENDED = ("done", "ended early", "failed")


class Lines:
    """The lines of one runner. Threads share it."""

    def __init__(self, study: Study, folder: Path) -> None:
        self.study, self.folder = study, folder
        self._console = console()
        self._status = Status("", console=self._console) if self._console.is_terminal else None
        self._lock = threading.Lock()
        self._waits = False
        self._ended = 0  # by this runner

    def __enter__(self) -> Lines:
        sweep = self.study.sweep
        total = "no end of" if self.study.size is None else str(self.study.size)
        self.say(f"{sweep.title}: {total} trials ({sweep.method}); what each says: {self.folder}/ID.log")
        if sweep.description:
            self.say(sweep.description)
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()

    def say(self, line: str) -> None:
        with self._lock:
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)

    def waiting(self, own: int) -> None:
        """What an idle job waits for: said once, where it is not for this runner's `own` trials alone."""
        others = sum(trial.state == "running" for trial in self.study.progress()) - own
        if others > 0 and not self._waits:
            self._waits = True
            self.say(
                f"nothing is left to start; waits for {others} trials of other runners, in case one dies"
            )
        self.refresh()

    def refresh(self) -> None:
        if self._status:
            self._status.update(counted(self.study.sweep, self.study.progress(), self.study.size))

    def trial_ended(
        self,
        cell: int,
        parameters: Mapping[str, Any],
        state: str,
        end: Mapping[str, Any],
        reason: str = "",
        log: Path | None = None,
    ) -> None:
        sweep = self.study.sweep
        total = "" if self.study.size is None else f"/{self.study.size}"
        result = (
            "" if end["value"] is None or not sweep.metric else f", {sweep.metric.name} {end['value']:.4g}"
        )
        if state == "failed":
            result = f" with exit code {end['exit_code']}: {reason} ({log})"
        self._ended += 1
        # Optuna is told of the end after this.
        own = {"state": state, "seconds": end["seconds"]}
        now = [replace(trial, **own) if trial.cell == cell else trial for trial in self.study.progress()]
        left = time_left(now, self.study.size)
        what = f"{label(sweep, parameters)}: {state}{result}"
        self.say(
            f"[{cell + 1}{total}] {what} after {duration(end['seconds'])}{f', {left} left' if left else ''}"
        )
        self.refresh()

    def summary(self, *, interrupted: bool) -> None:
        progress = self.study.progress()
        print_table(self._console, self.study, progress)
        over = all(trial.state in ENDED for trial in progress) and len(progress) == self.study.size
        folders = [
            folder
            for trial in progress
            if (folder := trial.folder) and (Path(folder) / "config.yaml").exists()
        ]
        if folders and over:
            self.say(page(self.study.sweep, folders, self.folder / "report.html", anew=self._ended > 0))
        if sync := sync_command(folders):
            self.say(f"to W&B: {sync}")
        run = f"python -m sweeps run {self.study.sweep.path}"
        if interrupted:
            self.say(f"go on with: {run}")
        elif any(trial.state == "failed" for trial in progress):
            self.say(f"try the failed ones again with: {run} --retry-failed")


def console() -> Console:
    plain = not sys.stdout.isatty()
    return Console(width=160 if plain else None, emoji=False)


def counted(sweep: Sweep, progress: Sequence[Progress], size: int | None) -> str:
    """`12 trials: 5 done, 1 running, 6 not started`."""
    counts = Counter(trial.state for trial in progress)
    words = [f"{counts[state]} {state}" for state in STATES if counts[state]]  # type: ignore[index]
    if size is not None and size > len(progress):
        words.append(f"{size - len(progress)} not started")
    return f"{len(progress) if size is None else size} trials: {', '.join(words) or 'none started'}"


def time_left(progress: Sequence[Progress], size: int | None) -> str:
    """As long as trials took so far, with as many at a time as run now; nothing where that is not known."""
    took = [trial.seconds for trial in progress if trial.state in ENDED and trial.seconds]
    if not took or size is None:
        return ""
    left = size - sum(trial.state in ENDED for trial in progress)
    at_a_time = max(1, sum(trial.state == "running" for trial in progress))
    return f"about {duration(left * sum(took) / len(took) / at_a_time)}" if left else ""


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def print_table(out: Console, study: Study, progress: Sequence[Progress]) -> None:
    """Best trial first: what differs, the metric, the state; then the counts, the best, what mattered."""
    sweep, metric = study.sweep, study.sweep.metric
    sign = -1 if metric and metric.goal == "maximize" else 1
    ordered = sorted(progress, key=lambda t: (t.value is None, sign * (t.value or 0.0), t.cell))
    columns = differing(sweep)
    table = Table(box=None, pad_edge=False)
    for name in [p.name for p in columns]:
        table.add_column(name, overflow="fold")
    for name in (metric.name if metric else "metric", "rows", "time"):
        table.add_column(name, justify="right")
    for name in ("state", "host", "trial"):
        table.add_column(name)
    for trial in ordered[:MOST_LINES]:
        cells = [shown_value(value_of(p, trial.parameters)) if trial.parameters else "" for p in columns]
        value = "" if trial.value is None else f"{trial.value:.4g}"
        state = f"failed ({trial.exit_code})" if trial.state == "failed" else trial.state
        took = duration(trial.seconds) if trial.seconds else ""
        table.add_row(*cells, value, str(trial.rows or ""), took, state, trial.host, trial.trial_id)
    if ordered:
        out.print(table, markup=False)
    if len(ordered) > MOST_LINES:
        out.print(f"and {len(ordered) - MOST_LINES} more", markup=False)
    out.print(counted(sweep, progress, study.size), markup=False, highlight=False)
    ranked = [
        trial for trial in ordered if trial.value is not None and trial.state in ("done", "ended early")
    ]
    if ranked and metric:
        first = ranked[0]
        best = f"best {metric.name}: {first.value:.4g}, {label(sweep, first.parameters)}"
        folder = f", {shortened(Path(first.folder))}" if first.folder else ""
        out.print(
            f"{best}{folder}",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
    importances = study.importances()
    if importances and metric:
        words = ", ".join(f"{name} {share:.2f}" for name, share in importances.items())
        out.print(
            f"importance for {metric.name} (PED-ANOVA): {words}",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )


def page(sweep: Sweep, folders: Sequence[str], path: Path, *, anew: bool) -> str:
    """Write the page that compares the runs; returns the line that says where it is."""
    if anew or not path.exists():
        command = [
            sys.executable,
            str(ROOT / "report.py"),
            *folders,
            f"--out={path}",
            f"--title={sweep.title}",
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return f"no page: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
    return f"page: {path}"


def sync_command(folders: Sequence[str]) -> str:
    """The command that sends the runs to W&B, where any was logged for it."""
    logged = [Path(folder) for folder in folders if (Path(folder) / "wandb_run.json").exists()]
    parents = sorted({str(shortened(folder.parent)) for folder in logged})
    return f"python -m tracking.sync {' '.join(parents)}" if parents else ""


def shortened(folder: Path) -> Path:
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder
