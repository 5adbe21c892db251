"""The final figures of each configuration: computed once, shown in the terminal and on the page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from tracking.report.runs import Group, Regime, Run


@dataclass(frozen=True)
class Statistic:
    """Mean over n runs and their standard deviation (n - 1 in the denominator; None for one run)."""

    mean: float
    deviation: float | None
    n: int


FULL, MEAN, NO = (
    "full",
    "mean",
    "no",
)  # how a column stands in the terminal: with deviation, without, not at all


@dataclass(frozen=True)
class Column:
    """One figure: how to take it from a run (None: the run has none), how to write it, what it means."""

    heading: str
    meaning: str
    take: Callable[[Run], float | None]
    form: str
    terminal: str = MEAN


@dataclass(frozen=True)
class FiguresRow:
    """The final figures of one configuration; `figures` follows the columns that were asked for."""

    regime: str
    run: str
    darp: bool
    seeds: tuple[str, ...]
    epochs: str
    unfinished: bool
    figures: tuple[Statistic | None, ...]


def mean_data_time_ms(run: Run) -> float | None:
    """Milliseconds that a step waits for its batch, mean over the epochs of the run."""
    seconds = run.series("data_time").values
    return 1000 * statistics.fmean(seconds) if seconds else None


def duration_s(run: Run) -> float | None:
    """Seconds that the logged epochs took together."""
    seconds = run.series("time/epoch").values
    return sum(seconds) if seconds else None


def distance(run: Run, table: str) -> float | None:
    """Last total-variation distance of `orig` or `refined` from the truth; from the target without one."""
    measured = run.last(f"pseudo/{table}/tv_true")
    return run.last(f"pseudo/{table}/tv_target") if measured is None else measured


COLUMNS: tuple[Column, ...] = (
    Column(
        "accuracy",
        "share of the test images classified correctly",
        lambda run: run.last("test/acc"),
        ".3f",
        FULL,
    ),
    Column(
        "bACC", "mean recall over the classes of the test set", lambda run: run.last("test/bacc"), ".3f", NO
    ),
    Column("GM", "geometric mean of the recalls", lambda run: run.last("test/gm"), ".3f", NO),
    Column(
        "TV orig", "distance of pseudo_orig from the truth", lambda run: distance(run, "orig"), ".3f", FULL
    ),
    Column("TV refined", "the same of refined", lambda run: distance(run, "refined"), ".3f"),
    Column(
        "max/min orig", "largest share over smallest", lambda run: run.last("pseudo/orig/imbalance"), ".1f"
    ),
    Column("max/min refined", "of refined", lambda run: run.last("pseudo/refined/imbalance"), ".1f", NO),
    Column("mask rate", "share over the threshold", lambda run: run.last("pseudo/mask_rate"), ".2f", NO),
    Column("coverage", "share of rows visited", lambda run: run.last("pseudo/coverage"), ".2f", NO),
    Column("data_time ms", "wait for a batch, mean per step", mean_data_time_ms, ".2f"),
    Column("duration", "all epochs together", duration_s, "duration"),
)


def statistic(values: Iterable[float | None]) -> Statistic | None:
    """Mean and standard deviation of the values that are there; None when none is."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    if not all(map(math.isfinite, there)):
        return Statistic(math.inf, None, len(there))
    return Statistic(statistics.fmean(there), statistics.stdev(there) if len(there) > 1 else None, len(there))


def final_figures(
    groups: Mapping[Regime, Sequence[Group]], columns: Sequence[Column] = COLUMNS
) -> list[FiguresRow]:
    """One row a configuration, in the order of the groups."""
    return [_row(regime, group, columns) for regime, members in groups.items() for group in members]


def write_number(value: float, form: str) -> str:
    """`value` in a column's form, with a minute or an infinity as a reader would write it."""
    if not math.isfinite(value):
        return "∞"
    if form == "duration":
        minutes, seconds = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        if hours:
            return f"{hours} h {minutes:02d} min"
        return f"{minutes} min {seconds:02d} s" if minutes else f"{value:.1f} s"
    if value >= 1000:
        return f"{value:,.0f}" if value < 1e6 else "> 10⁶"
    return f"{value:{form}}"


def write_statistic(figure: Statistic | None, form: str) -> str:
    """`mean ± deviation`, the mean alone for one run, a dash for none; an epoch with the number of runs."""
    if figure is None:
        return "-"
    if form == "epoch":
        return f"{figure.mean:.0f} ({figure.n})"
    mean = write_number(figure.mean, form)
    if figure.deviation is None or form == "duration":
        return mean
    return f"{mean} ± {write_number(figure.deviation, form)}"


def terminal_table(rows: Sequence[FiguresRow], columns: Sequence[Column] = COLUMNS) -> Table:
    """The rows as a small rich table; names are shown as they are, never read as markup."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("run", overflow="fold", max_width=44)
    table.add_column("n", justify="right")
    for column in columns:
        if column.terminal != NO:
            table.add_column(column.heading.replace(" ", "\n"), justify="right", no_wrap=True)
    previous = None
    for row in rows:
        if previous != row.regime:
            if previous is not None:
                table.add_section()
            table.add_row(Text(row.regime, style="bold"))
        previous = row.regime
        figures = [
            write_statistic(figure if column.terminal == FULL else _mean_alone(figure), column.form)
            for figure, column in zip(row.figures, columns, strict=True)
            if column.terminal != NO
        ]
        name = f"  {row.run} ({row.epochs} epochs)" if row.unfinished else f"  {row.run}"
        table.add_row(Text(name), str(len(row.seeds)), *map(Text, figures))
    return table


def epochs_text(runs: Sequence[Run]) -> str:
    """Epochs done, with the number asked for where a run has not reached it: `10`, `7 of 10`."""
    return ", ".join(
        sorted(
            {
                f"{r.epochs_done}" if r.finished else f"{r.epochs_done} of {r.epochs_asked or '?'}"
                for r in runs
            }
        )
    )


def heading_of(regime: Regime) -> str:
    """The regime as the tables head it: `digits, 1 label a class`."""
    return f"{regime.dataset}, {regime.label}"


def _mean_alone(figure: Statistic | None) -> Statistic | None:
    return None if figure is None else Statistic(figure.mean, None, figure.n)


def _row(regime: Regime, group: Group, columns: Sequence[Column]) -> FiguresRow:
    return FiguresRow(
        regime=heading_of(regime),
        run=group.label,
        darp=group.darp,
        seeds=tuple(run.seed for run in group.runs),
        epochs=epochs_text(group.runs),
        unfinished=not all(run.finished for run in group.runs),
        figures=tuple(statistic(column.take(run) for run in group.runs) for column in columns),
    )
