"""Figures for papers as SVG and PNG: the finding, and for each regime its classes, distances and accuracy over epochs.

Drawn by Vega-Lite on white paper. The page has the same charts to look at; these have no controls and fixed sizes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from tracking.report.charts import COOL, WARM, Line, heatmap, lines_chart
from tracking.report.class_shares import shown_run
from tracking.report.figures import heading_of
from tracking.report.findings import first_pair
from tracking.report.picture import PIXELS_PER_POINT, finding_panels, finding_picture, paper
from tracking.report.runs import Group, Regime

DASHES = ((1, 0), (6, 3), (2, 2))
WIDTH = 420  # points of one chart: two fit side by side on a page
Groups = Mapping[Regime, Sequence[Group]]


def write_figures(groups: Groups, folder: Path, write: Callable[[Path, bytes], None]) -> list[Path]:
    """Write `NAME.svg` and `NAME.png` of every figure below `folder` by `write`; gives their paths.

    Raises:
        OSError: what `write` raises.
    """
    paths = []
    for name, chart in figures(groups):
        spec = chart.to_dict()
        for ending, content in (
            ("svg", vl_convert.vegalite_to_svg(spec).encode()),
            ("png", bytes(vl_convert.vegalite_to_png(spec, scale=PIXELS_PER_POINT))),
        ):
            path = folder / f"{name}.{ending}"
            write(path, content)
            paths.append(path)
    return paths


def figures(groups: Groups) -> Iterator[tuple[str, Any]]:
    """Name and chart of every figure that the runs have numbers for."""
    if panels := finding_panels(groups):
        yield "finding", finding_picture(panels)
    for number, (regime, members) in enumerate(groups.items(), start=1):
        name = f"{number}_{re.sub('[^a-z0-9]+', '_', heading_of(regime).lower())[:40].strip('_')}"
        if (classes := _classes(members)) is not None:
            yield f"{name}_classes", classes
        by_truth = any(run.last("pseudo/orig/tv_true") is not None for group in members for run in group.runs)
        key, reference = ("tv_true", "truth") if by_truth else ("tv_target", "target")
        for what, metric, words, top in (
            ("distance", f"pseudo/orig/{key}", f"TV of pseudo_orig to the {reference}", None),
            ("accuracy", "test/acc", "test accuracy", 1.0),
        ):
            if lines := _lines(members, metric):
                chart = lines_chart(lines, words, top=top, height=220)
                yield f"{name}_{what}", paper(chart.properties(width=WIDTH))


def _lines(members: Sequence[Group], key: str) -> list[Line]:
    used = {True: 0, False: 0}
    lines = []
    for group in members:
        colours, place = (COOL if group.refined else WARM), used[group.refined]
        used[group.refined] += 1
        dash = DASHES[place // len(colours) % len(DASHES)]
        seeds = [series for run in group.runs if (series := run.series(key)).values]
        if seeds:
            lines.append(Line(group.label, colours[place % len(colours)], seeds, dash))
    return lines


def _classes(members: Sequence[Group]) -> alt.VConcatChart | None:
    """Class by epoch of the pair that the verdict is about, raw and refined, on one scale."""
    found = []
    for group in first_pair(members):
        if group is None:
            continue
        run = shown_run(group, members)
        for table, words in (("orig", "pseudo_orig"), ("refined", "refined"))[: 2 if group.refined else 1]:
            rows = [(int(row["epoch"]), run.shares(table, place)) for place, row in enumerate(run.rows)]
            there = [(epoch, shares) for epoch, shares in rows if shares is not None]
            if there:
                found.append((f"{group.label}: {words}, seed {run.seed}", run.class_names, there))
    if not found:
        return None
    top = max(share for _, _, rows in found for _, shares in rows for share in shares if share is not None)
    charts = [
        heatmap(
            names, [epoch for epoch, _ in rows], [shares for _, shares in rows], top=top or 1.0
        ).properties(width=WIDTH, title=title)
        for title, names, rows in found
    ]
    return paper(alt.vconcat(*charts))
