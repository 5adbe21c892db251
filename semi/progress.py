"""What a person sees while a run goes on: a bar with the time left on a terminal, one line an epoch elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """Everything goes to standard error. `steps` counts all steps of the run, `done` those before a resume."""

    def __init__(self, steps: int, done: int) -> None:
        self.console = Console(stderr=True, highlight=False)
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
        self._task = self._bar.add_task("steps", total=steps, completed=done)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def step(self) -> None:
        self._bar.advance(self._task)

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
