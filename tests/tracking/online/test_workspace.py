"""`python -m tracking.workspace`: what it shows without a server, and what it makes with one."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.commands import run_here, without_wandb
from tests.tracking.online.tracker_driver import config
from tests.wandb_server import WandbServer
from tracking.online.long_table import CHARTS
from tracking.online.panels import SECTIONS, Custom, Lines, Panel, keys, placed
from tracking.row import is_among_few

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of wandb_workspaces' own code


def workspace(environment: dict[str, str], folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return run_here("tracking.workspace", *flags, folder=folder, environment=environment)


def without_account(folder: Path) -> dict[str, str]:
    return without_wandb() | {"HOME": str(folder), "NETRC": str(folder / "none")}


def test_every_panel_shows_keys_that_a_run_sends_without_being_asked_for_all() -> None:
    assert {key for key in keys() if not is_among_few(key, num_classes=10)} == set()
    assert [section.name for section in SECTIONS] == [
        "Regimes",
        "Pseudo-labels",
        "Refinement health",
        "Times",
        "Accuracy",
        "Pictures",
        "Sweeps and differences",
    ]
    shown = {panel.chart for section in SECTIONS for panel in section.panels if isinstance(panel, Custom)}
    assert shown == set(CHARTS)


def test_panels_lie_side_by_side_without_overlap() -> None:
    panels: list[Panel] = [Lines(str(k), width=w) for k, w in enumerate((24, 8, 8, 8, 12, 12, 16, 12))]
    panels += [panel for section in SECTIONS for panel in section.panels]
    cells = [
        (column, line)
        for _, x, y, width, height in placed(panels)
        for column in range(x, x + width)
        for line in range(y, y + height)
    ]
    assert len(cells) == len(set(cells))
    assert max(column for column, _ in cells) < 24


def panels_of(grid: dict) -> list[tuple[str, list[str]]]:
    """(kind, keys) of each panel of a section or a grid."""
    return [(panel["viewType"], panel["config"].get("metrics") or []) for panel in grid["panels"]]


def test_what_would_be_sent_is_shown_with_no_server_and_no_account(tmp_path: Path) -> None:
    done = workspace(
        without_account(tmp_path), tmp_path, "--entity=lab", "--project=p", "--sweep=abc", "--print"
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert set(shown) == {"charts", "workspace", "report"}, "no automation unless it is asked for"
    assert set(shown["charts"]) == {f"lab/{chart.preset}" for chart in CHARTS}
    bank = shown["workspace"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in bank] == [section.name for section in SECTIONS]
    assert bank[0]["panels"][0]["config"]["panelDefId"] == "lab/darp_histograms"
    for key in ("pseudo_orig", "pseudo_refined"):
        assert ("Run History Line Plot", [key]) in panels_of(bank[0]), "W&B's own panel of a histogram"
    assert [kind for kind, _ in panels_of(bank[-1])] == [
        "Parallel Coordinates Plot", "Parameter Importance", "Parameter Importance", "Run Comparer",
    ]  # fmt: skip
    axes = [column["accessor"] for column in bank[-1]["panels"][0]["config"]["columns"]]
    assert {"config:regime.value", "config:refine.value", "summary:test/bacc"} <= set(axes)
    assert [kind for kind, _ in panels_of(bank[-2])] == ["Vega2"] * 3 + ["Weave", "Media Browser"]
    assert [panel["config"]["panelDefId"] for panel in bank[-2]["panels"][:3]] == [
        "wandb/confusion_matrix/v1"
    ] * 3
    (runset,) = shown["workspace"]["section"]["runSets"]
    assert [key["name"] for key in runset["grouping"]] == ["group", "refine.value"], "regime, then refinery"


def test_the_report_has_raw_beside_refined_for_each_ratio(tmp_path: Path) -> None:
    flags = ("--entity=lab", "--project=p", "--sweep=abc", "--print")
    report = json.loads(workspace(without_account(tmp_path), tmp_path, *flags).stdout)["report"]
    both, few, many, sweep, differences = [
        block for block in report["blocks"] if block["type"] == "panel-grid"
    ]
    assert [runset["name"] for runset in both["runSets"]] == ["ratio 2", "ratio 500"]
    assert both["runSets"][1]["filters"] == "Config('ratio') = 500 and Metric('Sweep') = 'abc'"
    for grid, name in ((few, "ratio 2"), (many, "ratio 500")):
        assert [runset["name"] for runset in grid["runSets"]] == [name]
        raw, refined = grid["panels"][:2]
        assert (raw["config"]["metrics"], refined["config"]["metrics"]) == (
            ["pseudo_orig"],
            ["pseudo_refined"],
        )
        assert raw["layout"]["y"] == refined["layout"]["y"]
        assert raw["layout"]["x"] + raw["layout"]["w"] == refined["layout"]["x"]
    assert [kind for kind, _ in panels_of(sweep)][:2] == ["Parallel Coordinates Plot", "Parameter Importance"]
    assert [kind for kind, _ in panels_of(differences)] == ["Run Comparer"]


def test_the_report_opens_with_the_figures_of_the_runs_that_are_named(tmp_path: Path) -> None:
    for refine, values in (("none", (0.7, 0.2, 0.1)), ("darp", (0.4, 0.3, 0.3))):
        folder = tmp_path / "runs" / refine
        folder.mkdir(parents=True)
        settings = config(1) | {"refine": refine, "seed": 0}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        shares = {f"pseudo/orig/{k}": value for k, value in enumerate(values)}
        truth = {f"pseudo/true/{k}": 1 / 3 for k in range(3)}
        distance = sum(abs(value - 1 / 3) for value in values) / 2
        row = {"epoch": 0, "pseudo/orig/tv_true": distance} | shares | truth
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    flags = ("--entity=lab", "--project=p", "--print")
    done = workspace(without_account(tmp_path), tmp_path, *flags, "--runs=runs")
    assert "0.367 from the truth" in done.stdout, done.stdout + done.stderr
    done = workspace(without_account(tmp_path), tmp_path, *flags, "--runs=nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--runs nowhere: no run in it; name a run's folder or one above it" in done.stderr


def test_automations_are_shown_when_they_are_asked_for(tmp_path: Path) -> None:
    flags = ("--entity=lab", "--project=p", "--print", "--automations")
    shown = json.loads(workspace(without_account(tmp_path), tmp_path, *flags).stdout)["automations"]
    assert [made["event"]["event_type"] for made in shown] == ["RUN_METRIC", "RUN_STATE"]
    assert '"name":"pseudo/orig/tv_true"' in shown[0]["event"]["filter"]
    assert is_among_few("pseudo/orig/tv_true", num_classes=100), "else W&B has nothing to watch"


def test_an_entity_is_never_assumed(tmp_path: Path) -> None:
    done = workspace(without_account(tmp_path), tmp_path, "--project=p", "--print")
    assert done.returncode == 2
    assert "--entity: name yours, or set WANDB_ENTITY" in done.stderr
    done = workspace(without_account(tmp_path), tmp_path, "--entity=lab", "--project=p")
    assert done.returncode == 2
    assert "wandb login" in done.stderr


@pytest.mark.slow
def test_workspace_and_report_are_made_once_and_then_updated(tmp_path: Path) -> None:
    with WandbServer() as server:
        server.store.slack_channels = ["alarms"]
        for ratios in ("2,500", "3,500"):
            done = workspace(
                server.env(tmp_path),
                tmp_path,
                "--entity=lab",
                "--project=p",
                f"--ratios={ratios}",
                "--sweep-file=regimes",
                "--automations",
            )
            assert done.returncode == 0, done.stderr
            assert "workspace: http" in done.stdout
            assert done.stdout.count("automation: p: ") == 2
        assert server.errors == []
        assert server.unanswered == set()
        views = {view["type"]: view for view in server.views}
        assert len(server.views) == len(views) == 2
        assert views["project-view"]["displayName"] == "DARP: regimes"
        assert "lab/darp_shares" in views["project-view"]["spec"]
        assert "ratio 3" in views["runs"]["spec"]
        assert "ratio 2" not in views["runs"]["spec"]
        assert "regimes" in views["runs"]["spec"]
        assert {chart["name"] for chart in server.store.charts} == {chart.preset for chart in CHARTS}
        assert json.loads(server.store.charts[0]["spec"]) == CHARTS[0].spec()
        collapse, failed = server.automations
        assert {made["scopeID"] for made in (collapse, failed)} == {"Project:lab/p"}
        threshold = json.loads(collapse["eventFilter"])["run_metric_filter"]["threshold_filter"]
        assert (threshold["name"], threshold["cmp_op"]) == ("pseudo/orig/tv_true", "$gt")
        assert json.loads(failed["eventFilter"])["run_state_filter"] == {"states": ["FAILED"]}
        sent = collapse["triggeredActionConfig"]["notificationActionInput"]
        assert (sent["integrationID"], sent["severity"]) == ("SlackIntegration:alarms", "WARN")


@pytest.mark.slow
def test_automations_need_somebody_whom_they_tell(tmp_path: Path) -> None:
    with WandbServer() as server:
        done = workspace(server.env(tmp_path), tmp_path, "--entity=lab", "--project=p", "--automations")
        assert done.returncode == 1
        assert "lab has no Slack integration; connect Slack in its settings at W&B" in done.stderr
        assert "report: http" in done.stdout, "the rest is there"
        assert (len(server.views), server.automations) == (2, [])
