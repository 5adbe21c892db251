"""The picture of the finding for a paper: panels of class shares on one axis, with a key of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import altair as alt

from tracking.report.charts import ORIG, REFINED, TARGET, TRUE, share_top, shares_chart
from tracking.report.class_shares import ShareTables, share_summary, share_tables, shown_run
from tracking.report.figures import statistic, write_statistic
from tracking.report.runs import Group, Regime, Run

PICTURE_WIDTH = 900
PIXELS_PER_POINT = 2  # sharp on dense screens


@dataclass(frozen=True)
class Panel:
    """One cell of the picture."""

    title: str
    subtitle: Sequence[str]
    tables: ShareTables


def finding_panels(groups: Mapping[Regime, Sequence[Group]]) -> list[list[Panel]]:
    """Rows of panels, without DARP and with it; columns are the first and the last regime of the first data set.

    A panel shows one seed, the one with the median distance without DARP: a class that dies out in one seed may
    thrive in another, so that a mean over seeds would hide what happens in each. Its text gives mean and deviation.
    """
    name = next(iter(groups)).dataset
    regimes = [regime for regime in groups if regime.dataset == name]
    regimes = list(dict.fromkeys((regimes[0], regimes[-1])))
    rows = []
    for darp in (False, True):
        row = []
        for regime in regimes:
            group = next((group for group in groups[regime] if group.darp == darp), None)
            if group is None:
                continue
            run = shown_run(group, groups[regime])
            if (tables := share_tables(replace(group, runs=(run,)))).orig:
                text = [share_summary(group), _accuracy(group, run)]
                row.append(Panel(f"{regime.label}: {group.label}", text, tables))
        rows.append(row)
    return [row for row in rows if row]


def finding_picture(panels: Sequence[Sequence[Panel]]) -> alt.VConcatChart:
    """Rows of panels on one share axis, `PICTURE_WIDTH` pixels wide together, above a key of the colours."""
    columns = max((len(row) for row in panels), default=1)
    width = (PICTURE_WIDTH - 36) // columns - 62
    top = share_top([panel.tables for row in panels for panel in row])
    rows = []
    for row in panels:
        drawn = []
        for panel in row:
            title = alt.TitleParams(panel.title, subtitle=list(panel.subtitle), anchor="start", frame="group")
            drawn.append(shares_chart(panel.tables, top=top, width=width, height=150).properties(title=title))
        rows.append(alt.hconcat(*drawn, spacing=24))
    return paper(alt.vconcat(*rows, _key(), spacing=26))


def _key() -> alt.LayerChart:
    """The colours and lines of the panels, each before its name; laid out by hand, as no legend spans a concat."""
    kinds = (
        ("pseudo_orig", ORIG, 9.0, 0), ("refined", REFINED, 9.0, 132), ("target", TARGET, 3.5, 238),
        ("true", TRUE, 1.5, 334), ("uniform", TARGET, 1.0, 416),
    )  # fmt: skip
    layers: list[Any] = []
    for name, colour, thickness, at in kinds:
        source = alt.Chart(alt.InlineData(values=[{"name": name}]))
        dash = [2, 3] if name == "uniform" else [1, 0]
        line = source.mark_rule(color=colour, strokeWidth=thickness, strokeDash=dash)
        layers.append(line.encode(x=alt.value(at), x2=alt.value(at + 20), y=alt.value(8)))
        text = source.mark_text(align="left", baseline="middle", fontSize=13, color="#3a3f46")
        layers.append(text.encode(x=alt.value(at + 27), y=alt.value(8), text="name:N"))
    return alt.layer(*layers).properties(width=520, height=16)


def paper(chart: Any) -> Any:
    """The chart as it stands on white paper."""
    grey = "#4a4f57"
    return chart.configure(**{
        "font": "Helvetica, Arial, Liberation Sans, sans-serif",
        "background": "#ffffff",
        "padding": 16,
        "view": {"stroke": None},
        "axis": {
            "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelColor": grey,
            "titleColor": grey, "gridColor": "#e9eaec", "domainColor": "#b9bdc4", "tickColor": "#b9bdc4",
        },
        "title": {
            "color": "#15171a", "subtitleColor": grey, "fontWeight": 600, "fontSize": 15, "subtitleFontSize": 13,
            "subtitleLineHeight": 17, "offset": 8,
        },
    })  # fmt: skip


def _accuracy(group: Group, shown: Run) -> str:
    accuracy = write_statistic(statistic(run.last("test/acc") for run in group.runs), ".3f")
    bars = (
        f"{len(group.runs)} seeds, bars show seed {shown.seed}"
        if len(group.runs) > 1
        else f"seed {shown.seed}"
    )
    return f"test accuracy {accuracy} · {bars}"
