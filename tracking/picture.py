"""The picture of the finding for a README: panels of class shares on one axis, with a key of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert

from tracking.charts import ORIG, REFINED, TARGET, TRUE, ShareTables, share_top, shares_chart

PICTURE_WIDTH = 900


@dataclass(frozen=True)
class Panel:
    """One cell of the picture of the finding."""

    title: str
    subtitle: str
    tables: ShareTables


def finding_picture(
    panels: Sequence[Sequence[Panel | None]], title: str, subtitle: Sequence[str]
) -> alt.VConcatChart:
    """The picture of the finding: rows of panels on one share axis, `PICTURE_WIDTH` pixels wide, with its own key."""
    columns = max(len(row) for row in panels)
    width = (PICTURE_WIDTH - 70) // columns - 48
    present = [panel for row in panels for panel in row if panel is not None]
    top = share_top([panel.tables for panel in present])
    rows = []
    for row in panels:
        drawn = []
        for panel in row:
            if panel is not None:
                heading = alt.TitleParams(
                    panel.title,
                    subtitle=panel.subtitle,
                    anchor="start",
                    fontSize=14,
                    subtitleFontSize=12.5,
                    offset=8,
                )
                drawn.append(
                    shares_chart(panel.tables, top=top, width=width, height=150).properties(title=heading)
                )
        rows.append(alt.hconcat(*drawn, spacing=28))
    names = ["pseudo_orig", "refined", "target", "true", "uniform"]
    key = (
        _chart([{"name": name} for name in names])
        .mark_square(size=110, opacity=1)
        .encode(
            x=alt.X(
                "name:N",
                sort=None,
                axis=alt.Axis(
                    orient="bottom", domain=False, ticks=False, labelAngle=0, labelFontSize=12.5, title=None
                ),
            ),
            color=alt.Color(
                "name:N",
                scale=alt.Scale(domain=names, range=[ORIG, REFINED, TARGET, TRUE, TARGET]),
                legend=None,
            ),
        )
        .properties(width=420, height=14)
    )
    heading = alt.TitleParams(
        title, subtitle=list(subtitle), anchor="start", fontSize=18, subtitleFontSize=13, offset=14
    )
    return alt.vconcat(*rows, key, spacing=22, title=heading).configure(**picture_config())


def picture_config() -> dict[str, Any]:
    """Vega-Lite configuration of the picture: the fonts and lines that the page's own script sets for its charts."""
    font = "Helvetica, Arial, Liberation Sans, sans-serif"
    axis = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelColor": "#4a4f57",
            "titleColor": "#4a4f57", "gridColor": "#e9eaec", "domainColor": "#c6c9ce", "tickColor": "#c6c9ce"}  # fmt: skip
    title = {"color": "#15171a", "subtitleColor": "#4a4f57", "fontWeight": 600}
    return {
        "font": font,
        "background": "#ffffff",
        "padding": 18,
        "axis": axis,
        "title": title,
        "view": {"stroke": None},
    }
