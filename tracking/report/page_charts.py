"""The charts of the page: for each data set its questions, for each question the regimes side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

from tracking.report.charts import (
    COOL,
    MAX_LABELED_CLASSES,
    ORIG,
    REFINED,
    WARM,
    Line,
    heatmap,
    lines_chart,
    share_top,
    shares_chart,
)
from tracking.report.class_shares import share_summary, share_tables, shown_run
from tracking.report.figures import mean_data_time_ms, statistic, write_statistic
from tracking.report.runs import Group, Regime, Run

Groups = Mapping[Regime, Sequence[Group]]
DASHES = ((1, 0), (6, 3), (2, 2))


# Title, note, and the charts: key of the row, name on the axis, factor to the unit of that name.
METRIC_BLOCKS: tuple[tuple[str, str, tuple[tuple[str, str, float], ...]], ...] = (
    (
        "Test accuracy",
        "Of the averaged model.",
        (("test/acc", "accuracy", 1), ("test/bacc", "balanced accuracy", 1)),
    ),
    (
        "Data time and mask rate",
        "How long a step waits for its batch, and how many pseudo-labels pass the threshold.",
        (("data_time", "data_time in ms", 1000), ("pseudo/mask_rate", "mask rate", 1)),
    ),
    (
        "Solver health",
        "Of each epoch's solves: worst residual, mean iterations, seconds together.",
        (
            ("darp/residual", "residual", 1),
            ("darp/iterations", "iterations", 1),
            ("darp/seconds", "seconds", 1),
        ),
    ),
)


def datasets(groups: Groups) -> list[str]:
    """Names of the data sets in the order of the groups."""
    return list(dict.fromkeys(regime.dataset for regime in groups))


def anchor(name: str, groups: Groups) -> str:
    """Identifier of a data set's section; made of its place, so that no name from a file becomes part of it."""
    return f"data-{datasets(groups).index(name)}"


def all_datasets(groups: Groups, specs: dict[str, Any]) -> str:
    """HTML of all charts; their specifications are added to `specs`, by the identifier that the HTML names."""
    parts = []
    for name in datasets(groups):
        parts.append(f'<section id="{anchor(name, groups)}"><h2>{escape(name)}</h2>')
        parts += _Sections({r: members for r, members in groups.items() if r.dataset == name}, specs).html()
        parts.append("</section>")
    return "\n".join(parts)


class _Sections:
    """The sections of one data set. Scales are shared among its regimes, so that charts can be compared."""

    def __init__(self, groups: Groups, specs: dict[str, Any]) -> None:
        self.groups, self.specs = groups, specs
        self.members = [group for members in groups.values() for group in members]
        self.runs = [run for group in self.members for run in group.runs]
        self.share_top = share_top([share_tables(group) for group in self.members])
        every = [
            share
            for run in self.runs
            for row in range(len(run.rows))
            for table in ("orig", "refined")
            for share in run.shares(table, row) or ()
            if share is not None
        ]
        self.heat_top = max(every, default=1.0) or 1.0
        self.styles = self._styles()

    def html(self) -> list[str]:
        """The sections in their order, each as HTML."""
        repeated = any(len(group.runs) > 1 for group in self.members)
        parts = self._block("The last epoch", self._bars_note(repeated), self._bars)
        median = " Shown is the seed that ends at the median distance." if repeated else ""
        parts += self._block(
            "Class by epoch",
            "Share of each class as training goes on, one colour scale for all: a dark row is a class that dies "
            f"out, a bright one a class that takes over.{median}",
            self._heatmaps,
        )
        by_truth = any(run.last("pseudo/orig/tv_true") is not None for run in self.runs)
        key, reference = ("tv_true", "truth") if by_truth else ("tv_target", "target")
        parts += self._block(
            f"Distance to the {reference}",
            "Total variation; 0 is agreement."
            + (" Thin lines are seeds, thick lines their mean." if repeated else ""),
            lambda regime, members: self._distances(members, key, f"TV to the {reference}"),
        )
        for title, note, metrics in METRIC_BLOCKS:
            there = [metric for metric in metrics if any(run.series(metric[0]).values for run in self.runs)]
            if there:
                parts += self._block(title, note, partial(self._metrics, metrics=there))
        return parts

    def _bars_note(self, repeated: bool) -> str:
        note = "Share of each class, on one axis for all."
        many = max(len(run.class_names) for run in self.runs) > MAX_LABELED_CLASSES
        if repeated:
            note += f" Bars are the mean over the seeds{'' if many else ', dots the single seeds'}: "
            note += "a class that dies out in one seed may thrive in another, which a mean hides."
        return note + (" With this many classes refined is a blue line." if many else "")

    def _block(self, title: str, note: str, draw: Callable[[Regime, Sequence[Group]], str]) -> list[str]:
        columns = []
        for regime, members in self.groups.items():
            drawn = draw(regime, members)
            columns.append(
                f'<div class="regime"><h4>{escape(regime.label)}</h4>'
                f"{drawn or '<p class=facts>Nothing logged.</p>'}</div>"
            )
        return [f'<h3>{title}</h3><p class="note">{note}</p><div class="regimes">{"".join(columns)}</div>']

    def _bars(self, regime: Regime, members: Sequence[Group]) -> str:
        parts = [f'<p class="facts">{escape(_image_counts(members[0].runs[0]))}</p>']
        for group in members:
            tables = share_tables(group)
            if tables.orig:
                chart = shares_chart(tables, top=self.share_top)
                parts.append(self._figure(chart, group.label, f"{share_summary(group)} · {_seeds(group)}"))
        return "".join(parts)

    def _heatmaps(self, regime: Regime, members: Sequence[Group]) -> str:
        parts = []
        for group in members:
            first = shown_run(group, members)
            parts.append(self._heatmap_pair(group, first))
            others = "".join(self._heatmap_pair(group, run) for run in group.runs if run is not first)
            if others:
                parts.append(
                    f"<details><summary>Other seeds of {escape(group.label)}</summary>{others}</details>"
                )
        return "".join(parts)

    def _heatmap_pair(self, group: Group, run: Run) -> str:
        parts = []
        for table, name in (("orig", "pseudo_orig"), ("refined", "refined"))[: 2 if group.refined else 1]:
            rows = [(int(run.rows[r]["epoch"]), run.shares(table, r)) for r in range(len(run.rows))]
            there = [(epoch, shares) for epoch, shares in rows if shares is not None]
            if there:
                chart = heatmap(
                    run.class_names, [e for e, _ in there], [s for _, s in there], top=self.heat_top
                )
                parts.append(self._figure(chart, f"{group.label}: {name}", f"seed {run.seed}", canvas=True))
        return f'<div class="pair">{"".join(parts)}</div>'

    def _distances(self, members: Sequence[Group], key: str, title: str) -> str:
        tops = [
            value
            for run in self.runs
            for table in ("orig", "refined")
            for value in run.series(f"pseudo/{table}/{key}").values
        ]
        charts = []
        for together in [members] if len(members) <= 2 else [[group] for group in members]:
            lines = []
            for group in together:
                for table, colour in (("orig", ORIG), ("refined", REFINED))[: 2 if group.refined else 1]:
                    seeds = [run.series(f"pseudo/{table}/{key}") for run in group.runs]
                    name = "pseudo_orig" if table == "orig" else table
                    dash = (1, 0) if group.darp else (6, 3)
                    lines.append(Line(f"{group.label}: {name}", colour, [s for s in seeds if s.values], dash))
            lines = [line for line in lines if line.seeds]
            if lines:
                chart = lines_chart(lines, title, top=1.05 * max(tops, default=1.0) or 1.0)
                charts.append(self._figure(chart, "", "", label=f"{title} over epochs"))
        return "".join(charts)

    def _metrics(
        self, regime: Regime, members: Sequence[Group], metrics: Sequence[tuple[str, str, float]]
    ) -> str:
        charts = []
        for key, title, factor in metrics:
            lines = []
            for group in members:
                seeds = [run.series(key) for run in group.runs]
                scaled = [(s.epochs, [factor * value for value in s.values]) for s in seeds if s.values]
                colour, dash = self.styles[group.label]
                if scaled:
                    lines.append(Line(group.label, colour, scaled, dash))
            if lines:
                log = key == "darp/residual"
                top = None if log else self._top(key, factor)
                note = _data_time_means(members) if key == "data_time" else ""
                charts.append(
                    self._figure(
                        lines_chart(lines, title, top=top, log=log), "", note, label=f"{title} over epochs"
                    )
                )
        return "".join(charts)

    def _top(self, key: str, factor: float) -> float:
        if key in ("test/acc", "test/bacc", "pseudo/mask_rate"):
            return 1.0
        return (
            1.05 * factor * max((v for run in self.runs for v in run.series(key).values), default=1.0) or 1.0
        )

    def _styles(self) -> dict[str, tuple[str, tuple[int, int]]]:
        """Colour and dash of each configuration: the same in each regime, warm without DARP and cool with it."""
        styles: dict[str, tuple[str, tuple[int, int]]] = {}
        used = {True: 0, False: 0}
        for group in self.members:
            if group.label not in styles:
                colours, place = (COOL if group.darp else WARM), used[group.darp]
                styles[group.label] = (
                    colours[place % len(colours)],
                    DASHES[place // len(colours) % len(DASHES)],
                )
                used[group.darp] += 1
        return styles

    def _figure(self, chart: Any, name: str, note: str, *, label: str = "", canvas: bool = False) -> str:
        spec = chart.to_dict(validate=False)  # tests validate; here it would take half of the time
        spec.pop("$schema", None)  # an address: the page names none
        identifier = f"chart-{len(self.specs)}"
        self.specs[identifier] = spec
        renderer = ' data-renderer="canvas"' if canvas else ""
        caption = f"<strong>{escape(name)}</strong> {escape(note)}" if name else escape(note)
        caption = f"<figcaption>{caption}</figcaption>" if name or note else ""
        described = escape(label or f"{name}, {note}")
        return (
            f'<figure>{caption}<div class="chart" data-spec="{identifier}"{renderer} role="img" '
            f'aria-label="{described}"></div></figure>'
        )


def _seeds(group: Group) -> str:
    return f"{len(group.runs)} seeds" if len(group.runs) > 1 else f"seed {group.runs[0].seed}"


def _data_time_means(members: Sequence[Group]) -> str:
    means = ((group.label, statistic(mean_data_time_ms(run) for run in group.runs)) for group in members)
    return "mean " + ", ".join(
        f"{label} {write_statistic(figure, '.2f')} ms" for label, figure in means if figure
    )


def _image_counts(run: Run) -> str:
    """How many labeled and unlabeled images a run had, and what was asked for where that differs."""
    parts = []
    for kind in ("labeled", "unlabeled"):
        got, asked = (_total(run.config.get(f"{kind}_counts{suffix}")) for suffix in ("", "_asked"))
        if got is not None:
            parts.append(f"{got:,} {kind}" + (f" (asked for {asked:,})" if asked not in (None, got) else ""))
    return f"{' and '.join(parts)} images in {len(run.class_names)} classes" if parts else ""


def _total(counts: object) -> int | None:
    if isinstance(counts, list) and counts and all(isinstance(count, int) for count in counts):
        return sum(counts)
    return None
