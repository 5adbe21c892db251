"""A workspace and a report of this project at W&B; the command that makes them is tracking/workspace.py."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from tracking.online.long_table import CHARTS, TABLE_KEY
from tracking.online.media import confusion_spec
from tracking.online.panels import (
    BOTH_RATIOS,
    ONE_RATIO,
    SECTIONS,
    SWEEP,
    Confusion,
    Custom,
    Differences,
    Histogram,
    Importance,
    Panel,
    Parallel,
    Pictures,
    Table,
    placed,
)
from tracking.online.timeout import first_line

VIEW = "darpregimes"  # the workspace's name in its address: one view, however often this runs
NAME = "DARP: regimes"
TITLE = "Few labels or many: what becomes of the pseudo-labels"
LOOK_FOR = (
    "With many labels: are the raw pseudo-labels close to the truth (TV near 0), and the bars level?",
    "With few labels: do they fall on some classes (TV far from 0, bars uneven), and from which epoch on?",
    "With DARP: do the refined labels meet their target, and do the raw ones come nearer to it as training goes on?",
    "Does the balanced accuracy follow? Means over seeds, with the single runs behind them.",
    "python -m tracking.workspace --runs FOLDER writes the figures of your runs here.",
)


def panel(shown: Panel, entity: str, x: int, y: int, width: int, height: int) -> Any:
    """A panel as wandb-workspaces has it."""
    layout = wr.Layout(x=x, y=y, w=width, h=height)
    if isinstance(shown, Custom):
        return wr.CustomChart(
            query={"summaryTable": {"tableKey": TABLE_KEY}},
            chart_name=f"{entity}/{shown.chart.preset}",
            chart_fields=shown.chart.fields,
            chart_strings={"title": shown.chart.title},
            layout=layout,
        )
    if isinstance(shown, Histogram):
        return wr.LinePlot(title=shown.title, x="epoch", y=[shown.key], layout=layout)
    if isinstance(shown, Confusion):
        spec = confusion_spec("", shown.title)
        return wr.CustomChart(
            query={"summaryTable": {"tableKey": shown.table_key}},
            chart_name=spec.spec_name,
            chart_fields=spec.fields,
            chart_strings=spec.string_fields,
            layout=layout,
        )
    if isinstance(shown, Pictures):
        return wr.MediaBrowser(title=shown.title, media_keys=[shown.key], gallery_axis="run", layout=layout)
    if isinstance(shown, Table):
        return wr.WeavePanelSummaryTable(table_name=shown.key, layout=layout)
    if isinstance(shown, Parallel):
        names = [wr.Config(name) for name in shown.config] + [wr.SummaryMetric(key) for key in shown.summary]
        columns = [wr.ParallelCoordinatesPlotColumn(name) for name in names]
        return wr.ParallelCoordinatesPlot(title=shown.title, columns=columns, layout=layout)
    if isinstance(shown, Importance):
        return wr.ParameterImportancePlot(with_respect_to=shown.key, layout=layout)
    if isinstance(shown, Differences):
        return wr.RunComparer(diff_only="split", layout=layout)
    return wr.LinePlot(
        title=shown.title,
        x="epoch",
        y=list(shown.keys),
        metric_regex=shown.pattern or None,
        log_y=shown.log or None,
        layout=layout,
    )


def grid(panels: Sequence[Panel], entity: str) -> list[Any]:
    return [panel(shown, entity, *place) for shown, *place in placed(panels)]


def workspace(entity: str, project: str) -> ws.Workspace:
    """The workspace, not saved."""
    made = ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[
            ws.Section(name=section.name, panels=grid(section.panels, entity), is_open=True)
            for section in SECTIONS
        ],
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=24),
        runset_settings=ws.RunsetSettings(
            # the W&B group of a run is its regime
            groupby=[ws.Metric("Group"), ws.Config("refine")],
            order=[ws.Ordering(ws.Config("ratio")), ws.Ordering(ws.Config("refine"))],
        ),
        auto_generate_panels=False,
    )
    made._internal_name = f"nw-{VIEW}-v"
    return made


def report(
    entity: str,
    project: str,
    *,
    ratios: Sequence[float],
    sweep: str = "",
    sweep_file: str = "",
    finding: Sequence[str] = (),
) -> wr.Report:
    """The report, not saved: one run set a ratio, of one sweep where given: by its id at W&B, or by its file.

    finding: sentences with the figures of runs; without them the report says what to look for.
    """
    within = [f"Metric('Sweep') = '{sweep}'"] if sweep else []
    within += [f"Config('sweep') = '{sweep_file}'"] if sweep_file else []
    runsets = [
        wr.Runset(
            entity=entity,
            project=project,
            name=f"ratio {ratio:g}",
            filters=" and ".join([f"Config('ratio') = {ratio:g}", *within]),
            groupby=["config.refine"],
        )
        for ratio in ratios
    ]
    blocks: list[Any] = [
        wr.TableOfContents(),
        wr.P(
            "How imbalanced are the pseudo-labels with few labeled images, and with many? "
            "Raw (pseudo_orig): what the network guesses. Refined (pseudo_refined): what DARP makes of it, and "
            "training uses. Ratio: unlabeled images for each labeled one."
        ),
        wr.H1("The finding"),
        wr.UnorderedList(items=list(finding or LOOK_FOR)),
        wr.H1("Ratio beside ratio"),
        wr.PanelGrid(runsets=runsets, panels=grid(BOTH_RATIOS, entity)),
    ]
    for runset in runsets:
        blocks += [
            wr.H1(f"Raw and refined, {runset.name}"),
            wr.PanelGrid(runsets=[runset], panels=grid(ONE_RATIO, entity)),
        ]
    blocks += [
        wr.H1("Which parameters matter"),
        wr.PanelGrid(runsets=runsets, panels=grid(SWEEP, entity)),
        wr.H1("What differs between the runs"),
        wr.PanelGrid(runsets=runsets, panels=grid([Differences(24)], entity)),
    ]
    return wr.Report(entity=entity, project=project, title=TITLE, blocks=blocks, width="fluid")


def save(made: ws.Workspace, written: wr.Report) -> None:
    """Create both, or replace what an earlier call made."""
    api = wandb.Api()
    entity, project = made.entity, made.project
    if project not in {found.name for found in api.projects(entity)}:
        api.create_project(project, entity)
    with contextlib.suppress(ValueError):  # it is not there yet
        made._internal_id = ws.Workspace.from_url(made.url)._internal_id
    made.save()
    for there in api.reports(f"{entity}/{project}"):
        if there.display_name == TITLE:
            written.id = there.id
    written.save()


def register_charts(entity: str) -> list[str]:
    """Make the custom charts known to the entity; returns a sentence for each that the server did not take."""
    api, problems = wandb.Api(), []
    for chart in CHARTS:
        try:
            api.create_custom_chart(
                entity=entity,
                name=chart.preset,
                display_name=chart.title,
                spec_type="vega2",
                access="private",
                spec=chart.spec(),
            )
        except Exception as error:  # noqa: PERF203  such as a chart of that name that is there from an earlier call
            problems.append(f"chart {entity}/{chart.preset} left as it is: {first_line(error)}")
    return problems


def as_data(made: ws.Workspace, written: wr.Report) -> dict[str, Any]:
    """What would be sent, as plain values. A run set needs a server for that: its filter is shown."""

    def plain(part: Any) -> Any:
        return part._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)

    def block(part: Any) -> Any:
        if not isinstance(part, wr.PanelGrid):
            return plain(part)
        runsets = [{"name": runset.name, "filters": runset.filters} for runset in part.runsets]
        return {"type": "panel-grid", "runSets": runsets, "panels": [plain(panel) for panel in part.panels]}

    return {
        "charts": {f"{made.entity}/{chart.preset}": chart.spec() for chart in CHARTS},
        "workspace": plain(made)["spec"],
        "report": {"title": written.title, "blocks": [block(part) for part in written.blocks]},
    }
