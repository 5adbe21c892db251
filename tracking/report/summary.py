"""Scores of finished runs, mean and standard deviation over seeds: for the terminal, as CSV and as Markdown.

bACC and GM are means over a run's last 20 epochs, in percent, as Kim et al. 2020 report them (section 4.1). Those of a
retrained head are means over its last 10.
"""

from __future__ import annotations

import csv
import io
import platform
import statistics
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from tracking.alerts import alerts_of_run
from tracking.local import checkout_commit
from tracking.report.figures import (
    FULL,
    MEAN,
    NO,
    Column,
    FiguresRow,
    distance,
    duration_s,
    write_statistic,
)
from tracking.report.gains import by_regime, over_all
from tracking.report.runs import Group, Regime, Run

WINDOW = 20  # epochs
CRT_WINDOW = 10  # of a retrained head


def _last_epochs(key: str) -> Column:
    """Mean of `key` over the last epochs of a run, in percent."""

    def take(run: Run) -> float | None:
        values = run.series(key).values[-(CRT_WINDOW if run.retrained else WINDOW) :]
        return 100 * statistics.fmean(values) if values else None

    heading, meaning = {
        "test/bacc": ("bACC", "mean recall over the classes of the test set"),
        "test/gm": ("GM", "geometric mean of the recalls"),
        "test/many": ("many", "mean recall of the third of the classes with the most labels"),
        "test/medium": ("medium", "of the middle third"),
        "test/few": ("few", "of the third with the fewest"),
    }[key]
    return Column(
        heading, f"{meaning}, mean of the last {WINDOW} epochs ({CRT_WINDOW} of cRT), %", take, ".1f", FULL
    )


def _of_classes(table: str, words: str) -> Column:
    meaning = f"effective number of classes of {words}"
    return Column(f"classes {table}", meaning, lambda run: run.last(f"pseudo/{table}/effective"), ".1f", NO)


def collapse(run: Run) -> float | None:
    """Epoch in which the alert of collapse came; None where it did not."""
    return next((a.epoch for a in alerts_of_run(run.rows, run.config) if a.kind == "collapse"), None)


def refine_s(run: Run) -> float | None:
    """Seconds that refinement took an epoch, mean over all epochs."""
    seconds = run.series("time/refine").values
    return statistics.fmean(seconds) if seconds else None


COLUMNS: tuple[Column, ...] = (
    _last_epochs("test/bacc"),
    _last_epochs("test/gm"),
    _last_epochs("test/many"),
    _last_epochs("test/medium"),
    _last_epochs("test/few"),
    Column("TV orig", "total variation of pseudo_orig from the truth", lambda run: distance(run, "orig"), ".3f"),
    Column("TV refined", "the same of refined", lambda run: distance(run, "refined"), ".3f"),
    _of_classes("orig", "pseudo_orig of the last epoch"),
    _of_classes("refined", "refined"),
    Column("collapse", "epoch of the alert of collapse, mean and number of runs that had one", collapse, "epoch", NO),
    Column("refine s", "seconds of refinement an epoch, mean over the epochs", refine_s, ".3f", NO),
    Column("duration", "all epochs together", duration_s, "duration", MEAN),
)  # fmt: skip


def as_csv(rows: Sequence[FiguresRow]) -> str:
    """One line a configuration; each figure as mean and standard deviation, at full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [name for c in COLUMNS for name in (c.heading, f"{c.heading} std")]
    writer.writerow(["regime", "run", "seeds", "epochs", *names])
    for row in rows:
        figures = [value for f in row.figures for value in ((f.mean, f.deviation) if f else (None, None))]
        writer.writerow([row.regime, row.run, " ".join(row.seeds), row.epochs, *figures])
    return out.getvalue()


def as_markdown(
    rows: Sequence[FiguresRow],
    title: str,
    provenance: Sequence[str],
    groups: Mapping[Regime, Sequence[Group]],
) -> str:
    """A heading, where the figures come from, what the columns mean, one table a regime and what refinement gained.

    `rows` are the final figures of `groups`.
    """
    gains = by_regime(groups, COLUMNS[:2])
    lines = [f"# {title}", "", *(f"- {line}" for line in provenance), ""]
    lines += [f"- {c.heading}: {c.meaning}" for c in COLUMNS]
    for regime, members in groupby(rows, key=lambda row: row.regime):
        lines += ["", f"## {_cell(regime)}", ""]
        lines += ["| run | n | " + " | ".join(c.heading for c in COLUMNS) + " |"]
        lines += ["|---|" + "---:|" * (1 + len(COLUMNS))]
        for row in members:
            figures = [write_statistic(f, c.form) for f, c in zip(row.figures, COLUMNS, strict=True)]
            name = f"{row.run} ({row.epochs} epochs)" if row.unfinished else row.run
            lines.append(f"| {_cell(name)} | {len(row.seeds)} | " + " | ".join(figures) + " |")
        lines += ["", *(f"- {line}" for line in gains[regime])] if regime in gains else []
    if together := over_all(groups, COLUMNS[:2]):
        lines += ["", "## All regimes together", ""]
        lines += ["Pairs of equal regime and seed; p of Wilcoxon's signed-rank test, exact, two-sided.", ""]
        lines += [
            "| difference | n | " + " | ".join(c.heading for c in COLUMNS[:2]) + " |",
            "|---|---:|---:|---:|",
        ]
        lines += ["| " + " | ".join(map(_cell, line)) + " |" for line in together]
    return "\n".join(lines) + "\n"


def provenance(runs: Sequence[Run], command: str, notes: Sequence[str], root: Path) -> list[str]:
    """What a reader needs to repeat the table: the notes, the command, the commit, the machine, what trained."""
    devices = sorted({str(run.config.get("device", "?")) for run in runs})
    torches = sorted({str((run.config.get("versions") or {}).get("torch", "?")) for run in runs})
    return [
        *notes,
        f"This page: `{command}`, commit {checkout_commit(root)}",
        f"{len(runs)} runs, trained on {', '.join(devices)} with torch {', '.join(torches)}",
        f"Summarised on {platform.system()} {platform.machine()}, {_cpu()}",
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} x {models[0]}" if models else "unknown processor"
