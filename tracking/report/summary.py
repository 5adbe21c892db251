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

from tracking.local import checkout_commit
from tracking.report.figures import (
    FULL,
    MEAN,
    Column,
    FiguresRow,
    distance,
    duration_s,
    heading_of,
    write_statistic,
)
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


COLUMNS: tuple[Column, ...] = (
    _last_epochs("test/bacc"),
    _last_epochs("test/gm"),
    _last_epochs("test/many"),
    _last_epochs("test/medium"),
    _last_epochs("test/few"),
    Column("TV orig", "total variation of pseudo_orig from the truth", lambda run: distance(run, "orig"), ".3f"),
    Column("TV refined", "the same of refined", lambda run: distance(run, "refined"), ".3f"),
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


def gains(groups: Mapping[Regime, Sequence[Group]]) -> dict[str, list[str]]:
    """For each regime, a line for each method that ran with and without DARP: what DARP changed, seed by seed."""
    lines: dict[str, list[str]] = {}
    for regime, members in groups.items():
        refined = {group.counterpart_key(): group for group in members if group.darp}
        for plain in members:
            darp = refined.get(plain.counterpart_key())
            if plain.darp or darp is None:
                continue
            changes = [
                change
                for column in COLUMNS[:2]
                if (change := _change(plain.runs, darp.runs, column)) is not None
            ]
            if changes:
                line = f"{darp.label} minus {plain.label}, seed by seed: {', '.join(changes)}"
                lines.setdefault(heading_of(regime), []).append(line)
    return lines


def _change(plain: Sequence[Run], darp: Sequence[Run], column: Column) -> str | None:
    """`bACC +1.2 ± 0.3 (higher on 3 of 3)`, with a remark where DARP does not help. None without a common seed."""
    without = {run.seed: column.take(run) for run in plain}
    differences = [
        after - before
        for run in darp
        if (after := column.take(run)) is not None and (before := without.get(run.seed)) is not None
    ]
    if not differences:
        return None
    higher = sum(difference > 0 for difference in differences)
    spread = f" ± {statistics.stdev(differences):{column.form}}" if len(differences) > 1 else ""
    verdict = (
        "" if higher == len(differences) else "; **not a gain on every seed**" if higher else "; **no gain**"
    )
    mean = statistics.fmean(differences)
    return (
        f"{column.heading} {mean:+{column.form}}{spread} (higher on {higher} of {len(differences)}{verdict})"
    )


def as_markdown(
    rows: Sequence[FiguresRow], title: str, provenance: Sequence[str], gains: Mapping[str, Sequence[str]]
) -> str:
    """A heading, where the figures come from, what the columns mean, one table a regime and what DARP gained."""
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
