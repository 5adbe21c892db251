"""Charts of pseudo-label distributions, from plain numbers to Altair charts. Nothing here reads files.

Orange against blue stays apart for every common kind of colour blindness, and each pair also differs in place or dash.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from tracking.report.class_shares import Shares, ShareTables, mean_shares
from tracking.report.epochs import epoch_ticks, thinned

ORIG, REFINED, TARGET, TRUE = "#d9730d", "#1f6fb2", "#969ba3", "#15171a"
# Colours of configurations: warm without DARP, cool with it.
WARM = (ORIG, "#a13d7e", "#8a5a00", "#c2372e")
COOL = (REFINED, "#0a8f75", "#5b53c0", "#3aa6cf")
MAX_LABELED_CLASSES = 20  # beyond it an axis names every tenth class only
MAX_EPOCHS_HEATMAP, MAX_EPOCHS_LINE = 120, 300


@dataclass(frozen=True)
class Line:
    """One configuration's figure over epochs: each seed's epochs and values, two lists of one length."""

    name: str
    colour: str
    seeds: Sequence[tuple[Sequence[int], Sequence[float]]]
    dash: Sequence[int] = (1, 0)


def shares_chart(
    tables: ShareTables, *, top: float, width: int | str = "container", height: int = 170
) -> alt.LayerChart:
    """Bars of the mean share a class over the seeds, each seed a dot, against target, truth and uniform.

    Args:
        tables: the shares; every list has K entries.
        top: upper end of the share axis, the same for charts that are compared.
        width: pixels, or `container` to follow the page.
        height: pixels.
    """
    many = len(tables.class_names) > MAX_LABELED_CLASSES  # too narrow for two bars: refined becomes a line
    x = _class_axis(alt.X, tables.class_names)
    y = alt.Y(
        "share:Q",
        scale=alt.Scale(domain=[0, top], clamp=True),
        title="share",
        axis=alt.Axis(tickCount=4),
    )
    bars, dots = _bars_and_dots(tables)
    if many:
        bars, dots = [bar for bar in bars if bar["table"] == "pseudo_orig"], []
    names = ["pseudo_orig", "refined"]
    colour = alt.Color("table:N", scale=alt.Scale(domain=names, range=[ORIG, REFINED]), legend=None)
    beside = (
        {"xOffset": alt.XOffset("table:N", scale=alt.Scale(domain=names))}
        if tables.refined and not many
        else {}
    )
    tip = [
        alt.Tooltip("class:N"),
        alt.Tooltip("table:N"),
        alt.Tooltip("share:Q", format=".4f"),
        alt.Tooltip("runs:Q"),
    ]
    layers: list[Any] = [_chart(bars).mark_bar().encode(x=x, y=y, color=colour, tooltip=tip, **beside)]
    if dots:
        mark = _chart(dots).mark_point(filled=True, size=13, color=TRUE, opacity=0.55)
        layers.append(mark.encode(x=x, y=y, **beside))
    uniform = [{"share": _short(1 / max(len(tables.class_names), 1))}]
    layers.append(_chart(uniform).mark_rule(color=TARGET, strokeDash=[2, 3], strokeWidth=1).encode(y=y))
    refined = mean_shares(tables.refined) if many and tables.refined else None
    for shares, line_colour, thickness in (
        (tables.target, TARGET, 3.5),
        (refined, REFINED, 2.2),
        (tables.true, TRUE, 1.3 if not many else 0.8),
    ):
        if shares is not None:
            layers.append(
                _level(tables.class_names, shares, y).mark_rule(color=line_colour, strokeWidth=thickness)
            )
    return alt.layer(*layers).properties(width=width, height=height)


def heatmap(
    class_names: Sequence[str], epochs: Sequence[int], shares: Sequence[Shares], *, top: float
) -> alt.Chart:
    """Class by epoch, coloured by share on the scale 0 to `top`; `shares` holds one [K] list an epoch.

    The scale is a square root, which keeps a small share apart from none. Long runs are thinned to about
    `MAX_EPOCHS_HEATMAP` columns, the last epoch among them.
    """
    kept = thinned(len(epochs), MAX_EPOCHS_HEATMAP)
    rows = [
        {"class": label, "epoch": [epochs[e] for e in kept], "share": [_short(shares[e][k]) for e in kept]}
        for k, label in enumerate(class_names)
    ]
    columns = [epochs[e] for e in kept]
    scale = alt.Scale(type="sqrt", scheme="viridis", domain=[0, top], clamp=True)
    legend = alt.Legend(title=None, type="gradient", gradientLength=110, tickCount=3)
    return (
        _chart(rows)
        .transform_flatten(["epoch", "share"])
        .mark_rect(stroke=alt.ExprRef("scale('color', datum.share)"), strokeWidth=0.7)  # closes the seams
        .encode(
            x=alt.X(
                "epoch:O",
                scale=alt.Scale(domain=columns),
                axis=alt.Axis(values=epoch_ticks(columns), labelAngle=0, title="epoch"),
            ),
            y=_class_axis(alt.Y, class_names),
            color=alt.Color("share:Q", scale=scale, legend=legend),
            tooltip=[alt.Tooltip("class:N"), alt.Tooltip("epoch:O"), alt.Tooltip("share:Q", format=".4f")],
        )
        .properties(width="container", height=min(300, max(110, 17 * len(class_names))))
    )


def lines_chart(
    lines: Sequence[Line], y_title: str, *, top: float | None = None, log: bool = False, height: int = 170
) -> alt.LayerChart:
    """Lines over epochs: each seed thin, their mean thick.

    `top` fixes the axis to 0 .. top; `log` asks for a logarithmic axis and drops values <= 0.
    """
    thin: list[dict[str, Any]] = []
    thick: list[dict[str, Any]] = []
    for line in lines:
        for seed, (epochs, values) in enumerate(line.seeds):
            if len(line.seeds) > 1:
                thin.append(_points(line.name, list(epochs), list(values), log) | {"seed": seed})
        thick.append(_points(line.name, *mean_over_seeds(line.seeds), log))
    names = [line.name for line in lines]
    legend = alt.Legend(
        title=None,
        orient="top",
        columns=2,
        labelLimit=320,
        symbolType="stroke",
        symbolSize=220,
        symbolOpacity=1,
    )
    colours, dashes = [line.colour for line in lines], [list(line.dash) for line in lines]
    scale = alt.Scale(zero=True) if top is None else alt.Scale(domain=[0, top], clamp=True)
    axis = alt.Axis(format=".0e", tickCount=4) if log else alt.Axis(tickCount=4)
    ticks = epoch_ticks(sorted({epoch for row in thick for epoch in row["epoch"]}))
    encoding: dict[str, Any] = {
        "x": alt.X(
            "epoch:Q",
            axis=alt.Axis(values=ticks, format="d", grid=False),
            scale=alt.Scale(nice=False),
            title="epoch",
        ),
        "y": alt.Y("value:Q", scale=alt.Scale(type="log") if log else scale, axis=axis, title=y_title),
        "color": alt.Color("line:N", scale=alt.Scale(domain=names, range=colours), legend=legend),
    }
    dash = alt.StrokeDash("line:N", scale=alt.Scale(domain=names, range=dashes), legend=legend)
    tip = [
        alt.Tooltip("line:N", title="run"),
        alt.Tooltip("epoch:Q"),
        alt.Tooltip("value:Q", format=".4g", title=y_title),
    ]
    few = max((len(row["epoch"]) for row in thick), default=0) <= 3
    layers: list[Any] = []
    if thin:
        seeds = _chart(thin).transform_flatten(["epoch", "value"]).mark_line(strokeWidth=1, opacity=0.35)
        layers.append(seeds.encode(**encoding, strokeDash=dash, detail="seed:N"))
    means = _chart(thick).transform_flatten(["epoch", "value"])
    layers.append(means.mark_line(strokeWidth=2.2).encode(**encoding, strokeDash=dash))
    marks = means.mark_point(filled=True, size=40, opacity=1 if few else 0)
    layers.append(marks.encode(**encoding, tooltip=tip))
    return alt.layer(*layers).properties(width="container", height=height)


def share_top(tables: Sequence[ShareTables]) -> float:
    """Upper end of a share axis that holds everything that `shares_chart` draws of these tables."""
    every: list[float | None] = []
    for one in tables:
        many = len(one.class_names) > MAX_LABELED_CLASSES  # single seeds are then not drawn
        for seeds in (one.orig, one.refined):
            every += mean_shares(seeds) if many and seeds else [share for shares in seeds for share in shares]
        every += [*(one.target or ()), *(one.true or ())]
    return _short(1.05 * max((share for share in every if share is not None), default=1.0)) or 1.0


def mean_over_seeds(seeds: Sequence[tuple[Sequence[int], Sequence[float]]]) -> tuple[list[int], list[float]]:
    """Epochs and the mean over the seeds that have each epoch."""
    by_epoch: dict[int, list[float]] = {}
    for epochs, values in seeds:
        for epoch, value in zip(epochs, values, strict=True):
            by_epoch.setdefault(epoch, []).append(value)
    order = sorted(by_epoch)
    return order, [statistics.fmean(by_epoch[epoch]) for epoch in order]


def _bars_and_dots(tables: ShareTables) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows for the mean of each class and, where there are several seeds, for each seed."""
    bars: list[dict[str, Any]] = []
    dots: list[dict[str, Any]] = []
    for name, seeds in (("pseudo_orig", tables.orig), ("refined", tables.refined)):
        for k, label in enumerate(tables.class_names):
            there = [share for shares in seeds if (share := shares[k]) is not None]
            row = {"class": label, "table": name}
            if there:
                bars.append(row | {"share": _short(statistics.fmean(there)), "runs": len(there)})
            if len(there) > 1:
                dots += [row | {"share": _short(share)} for share in there]
    return bars, dots


def _level(class_names: Sequence[str], shares: Shares, y: alt.Y) -> alt.Chart:
    """A horizontal line over the width of each class."""
    rows = [
        {"class": label, "share": _short(share)}
        for label, share in zip(class_names, shares, strict=True)
        if share is not None
    ]
    start, end = _class_axis(alt.X, class_names, bandPosition=0), alt.X2("class:N", bandPosition=1)
    return _chart(rows).encode(x=start, x2=end, y=y)


def _points(name: str, epochs: list[int], values: list[float], log: bool) -> dict[str, Any]:
    kept = [place for place in thinned(len(epochs), MAX_EPOCHS_LINE) if not log or values[place] > 0]
    return {"line": name, "epoch": [epochs[p] for p in kept], "value": [_short(values[p]) for p in kept]}


def _class_axis(channel: Any, class_names: Sequence[str], **options: Any) -> Any:
    """A nominal axis in the order of the classes, with names where there is room for them."""
    step = 1 if len(class_names) <= MAX_LABELED_CLASSES else max(10, len(class_names) // 10)
    long = channel is alt.X and max(map(len, class_names), default=0) > 3
    axis = alt.Axis(
        values=list(class_names[::step]), labelAngle=-40 if long and step == 1 else 0, labelLimit=90, title=None,
        ticks=False, grid=False, labelOverlap=step > 1,
    )  # fmt: skip
    return channel("class:N", scale=alt.Scale(domain=list(class_names)), axis=axis, sort=None, **options)


def _chart(rows: list[dict[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=rows))


def _short(value: float | None) -> Any:
    """Four significant digits: what a reader can see, at a third of the page's size."""
    return None if value is None else float(f"{value:.4g}")
