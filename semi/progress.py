"""What a person sees while a run goes on: a bar with the time left on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

LINE_EVERY_S = 30.0  # of `now_and_then`


class Progress:
    """Everything goes to standard error. `steps` counts all steps of the run, `done` those before a resume.

    shown: False says nothing: another process does.
    """

    def __init__(self, steps: int, done: int, name: str = "steps", *, shown: bool = True) -> None:
        self.console = Console(stderr=True, highlight=False, quiet=not shown)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task(name, total=steps, completed=done)
        self._steps, self._before, self._done = steps, done, done
        self._begin = self._said = monotonic()

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def step(self) -> None:
        self._done += 1
        self._bar.advance(self._task)

    def now_and_then(self, text: str) -> None:
        """Where there is no bar: a line with the time left, at most one every LINE_EVERY_S."""
        now = monotonic()
        if self.console.is_terminal or now - self._said < LINE_EVERY_S:
            return
        self._said = now
        left = (now - self._begin) / (self._done - self._before) * (self._steps - self._done)
        self.console.print(f"{text}, {timedelta(seconds=round(left))} left", soft_wrap=True)

    def epoch(self, row: Mapping[str, Any], epochs: int) -> None:
        """One line: what the epoch brought."""
        distance = "tv_true" if "pseudo/orig/tv_true" in row else "tv_target"
        line = (
            f"epoch {row['epoch']}/{epochs - 1}  acc {row['test/acc']:.3f}  bacc {row['test/bacc']:.3f}  "
            f"pseudo {distance} {row[f'pseudo/orig/{distance}']:.3f} -> {row[f'pseudo/refined/{distance}']:.3f}  "
            f"data_time {row['data_time'] * 1000:.1f} ms  {row['time/epoch']:.1f} s"
        )
        if row.get("darp/unconverged"):
            line += f"  {row['darp/unconverged']:.0f} solves did not converge (residual {row['darp/residual']:.1e})"
        self.console.print(line, soft_wrap=True)
