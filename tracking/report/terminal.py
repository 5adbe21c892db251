"""The page's first screen in a terminal: verdicts, bars of each class, and how they came about as sparklines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Group as Together
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tracking.report.class_shares import mean_shares, share_summary, share_tables, shown_run
from tracking.report.epochs import thinned
from tracking.report.figures import heading_of
from tracking.report.findings import verdict
from tracking.report.runs import Group, Regime, Run

WIDE, NARROW = (18, 24), (10, 12)  # characters of a bar and of a sparkline
ROOM = 112  # characters of a line that takes the wide ones
MAX_CLASSES = 20  # beyond it, those whose raw share is furthest from the truth
EIGHTHS, STEPS = " ▏▎▍▌▋▊▉█", "▁▂▃▄▅▆▇█"
ORIG, REFINED = "dark_orange3", "dodger_blue2"


class Scale(NamedTuple):
    """What all bars and all sparklines of a data set are drawn on, so that they can be compared."""

    bars: float  # largest mean share
    lines: float  # largest share of a run at any epoch
    sizes: tuple[int, int]  # characters of a bar and of a sparkline


def terminal_report(groups: Mapping[Regime, Sequence[Group]], width: int) -> RenderableType:
    """Every regime and configuration, at most `width` characters wide; names are never read as markup."""
    sizes = WIDE if width >= ROOM else NARROW
    scales = {}
    for name in {regime.dataset for regime in groups}:
        members = [group for regime in groups if regime.dataset == name for group in groups[regime]]
        scales[name] = Scale(_largest_mean(members), _largest(members), sizes)
    return Together(
        *(
            part
            for regime, members in groups.items()
            for part in _regime(regime, members, scales[regime.dataset])
        )
    )


def bar(share: float, top: float, width: int) -> str:
    """A bar of `share` on the scale 0 to `top`, to an eighth of a character."""
    eighths = round(8 * width * min(max(share / top, 0.0), 1.0))
    return EIGHTHS[8] * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")


def sparkline(values: Sequence[float | None], top: float, width: int) -> str:
    """One character an epoch, on the scale 0 to `top`; a gap where there is none."""
    kept = [values[place] for place in thinned(len(values), width)]
    return "".join(
        " " if value is None else STEPS[round((len(STEPS) - 1) * min(max(value / top, 0.0), 1.0))]
        for value in kept
    )


def _regime(regime: Regime, members: Sequence[Group], scale: Scale) -> Iterator[RenderableType]:
    word, sentence = verdict(members)
    yield Text(f"\n{heading_of(regime)}: {word}", style="bold")
    yield Text(sentence)
    for group in members:
        if share_tables(group).orig:
            yield Text(f"\n{group.label}", style="bold", end="")
            yield Text(f"  {share_summary(group)}", style="dim")
            yield _classes(group, shown_run(group, members), scale)


def _classes(group: Group, run: Run, scale: Scale) -> Table:
    """A line a class: means over the seeds as bars, and one seed over its epochs."""
    tables = share_tables(group)
    orig, refined = mean_shares(tables.orig), mean_shares(tables.refined) if tables.refined else None
    rows = [run.shares("orig", place) or [] for place in range(len(run.rows))]
    reference = tables.true or tables.target or [0.0] * len(orig)
    shown = sorted(range(len(orig)), key=lambda k: -abs((orig[k] or 0.0) - (reference[k] or 0.0)))
    shown = sorted(shown[:MAX_CLASSES])
    wide, spark = scale.sizes

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", padding=(0, 1))
    table.add_column("class", overflow="fold", max_width=16)
    for name in ("raw", *(["refined"] if refined else [])):
        table.add_column(name, width=wide + 6, no_wrap=True)
    table.add_column("target", justify="right")
    table.add_column("truth", justify="right")
    table.add_column(f"raw, epochs {_span(run)}, seed {run.seed}", min_width=spark)
    for k in shown:
        cells = [_bar_cell(orig[k], scale, ORIG)]
        cells += [_bar_cell(refined[k], scale, REFINED)] if refined else []
        line = sparkline([row[k] if k < len(row) else None for row in rows], scale.lines, spark)
        known = [Text(_number(shares[k] if shares else None)) for shares in (tables.target, tables.true)]
        table.add_row(Text(tables.class_names[k]), *cells, *known, Text(line, style=ORIG))
    if len(orig) > len(shown):
        table.caption = f"the {len(shown)} of {len(orig)} classes that are furthest from the truth"
    return table


def _bar_cell(share: float | None, scale: Scale, style: str) -> Text:
    drawn = "" if share is None else bar(share, scale.bars, scale.sizes[0])
    return Text(f"{_number(share)} ").append(drawn, style=style)


def _number(share: float | None) -> str:
    return "    -" if share is None else f"{share:.3f}"


def _span(run: Run) -> str:
    return f"{int(run.rows[0]['epoch'])} to {int(run.rows[-1]['epoch'])}"


def _largest_mean(members: Sequence[Group]) -> float:
    tables = [share_tables(group) for group in members]
    means = (mean_shares(seeds) for both in tables for seeds in (both.orig, both.refined))
    return max((share for shares in means for share in shares if share is not None), default=1.0) or 1.0


def _largest(members: Sequence[Group]) -> float:
    runs = (run for group in members for run in group.runs)
    rows = (run.shares("orig", place) or () for run in runs for place in range(len(run.rows)))
    return max((share for row in rows for share in row if share is not None), default=1.0) or 1.0
