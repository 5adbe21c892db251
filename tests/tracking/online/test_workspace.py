"""`python -m tracking.workspace`: what it shows without a server, and what it makes with one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.wandb_server import WandbServer
from tracking.online.long_table import CHARTS
from tracking.online.panels import SECTIONS, Custom, Lines, keys, placed
from tracking.row import is_among_few

ROOT = Path(__file__).parents[3]


def workspace(environment: dict[str, str], folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tracking.workspace", *flags],
        env=environment | {"PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def without_account(folder: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return kept | {"HOME": str(folder), "NETRC": str(folder / "none")}


def test_every_panel_shows_keys_that_a_run_sends_without_being_asked_for_all() -> None:
    assert {key for key in keys() if not is_among_few(key, num_classes=10)} == set()
    assert [section.name for section in SECTIONS] == [
        "Regimes",
        "Pseudo-labels",
        "Refinement health",
        "Times",
        "Accuracy",
    ]
    shown = {panel.chart for section in SECTIONS for panel in section.panels if isinstance(panel, Custom)}
    assert shown == set(CHARTS)


def test_panels_lie_side_by_side_without_overlap() -> None:
    panels = [Lines(str(k), width=width) for k, width in enumerate((24, 8, 8, 8, 12, 12, 16, 12))]
    cells = [
        (column, line)
        for _, x, y, width, height in placed(panels)
        for column in range(x, x + width)
        for line in range(y, y + height)
    ]
    assert len(cells) == len(set(cells))
    assert max(column for column, _ in cells) < 24


def test_what_would_be_sent_is_shown_with_no_server_and_no_account(tmp_path: Path) -> None:
    done = workspace(
        without_account(tmp_path), tmp_path, "--entity=lab", "--project=p", "--sweep=abc", "--print"
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert set(shown["charts"]) == {"lab/darp_shares", "lab/darp_history", "lab/darp_regimes"}
    sections = shown["workspace"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == [section.name for section in SECTIONS]
    first = sections[0]["panels"][0]
    assert first["viewType"] == "Vega2"
    assert first["config"]["panelDefId"] == "lab/darp_regimes"
    grids = [block for block in shown["report"]["blocks"] if block["type"] == "panel-grid"]
    assert [runset["name"] for runset in grids[0]["runSets"]] == ["ratio 2", "ratio 500"]
    assert grids[0]["runSets"][1]["filters"] == "Config('ratio') = 500 and Metric('Sweep') = 'abc'"


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
        for ratios in ("2,500", "3,500"):
            done = workspace(
                server.env(tmp_path),
                tmp_path,
                "--entity=lab",
                "--project=p",
                f"--ratios={ratios}",
                "--sweep-file=regimes",
            )
            assert done.returncode == 0, done.stderr
            assert "workspace: http" in done.stdout
        assert server.errors == []
        views = {view["type"]: view for view in server.views}
        assert len(server.views) == len(views) == 2
        assert views["project-view"]["displayName"] == "DARP: regimes"
        assert "lab/darp_shares" in views["project-view"]["spec"]
        assert "ratio 3" in views["runs"]["spec"]
        assert "ratio 2" not in views["runs"]["spec"]
        assert "regimes" in views["runs"]["spec"]
        assert {chart["name"] for chart in server.store.charts} == {chart.preset for chart in CHARTS}
        assert json.loads(server.store.charts[0]["spec"]) == CHARTS[0].spec()
