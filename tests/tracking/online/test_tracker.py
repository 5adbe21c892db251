"""The W&B tracker against a server that is down, fails, hangs or dies, and over resumes."""

import json
import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from semi.config import REFINEMENTS
from tests.tracking.online.tracker_driver import QUICK, ROOT, end, epochs, start
from tests.wandb_server import WandbServer
from tracking.online.long_table import COLUMNS
from tracking.online.run_writer import own_tags

BOUND_S = 2
BOUNDED = {"WANDB_FINISH_TIMEOUT": str(BOUND_S), "WANDB_INIT_TIMEOUT": str(BOUND_S)}
FAULTS: dict[str, Callable[[WandbServer], None]] = {
    "down": lambda server: server.stop(),
    "500": lambda server: server.fail(1.0, 500),
    "429": lambda server: server.fail(1.0, 429),
    "hanging": lambda server: server.hang(600),
}


def sync(server: WandbServer, folder: Path, said: str) -> None:
    """Type the command that the message names, as a user would."""
    words = shlex.split(re.findall(r"python -m tracking.sync [^`\n]+", said)[-1])
    environment = server.env(folder) | QUICK
    done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "complete: 6 epochs, exit code 0" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_is_broken_at_the_start_costs_a_bounded_wait_and_no_row(
    server: WandbServer, tmp_path: Path, fault: str
) -> None:
    folder = tmp_path / "run"
    FAULTS[fault](server)
    times, said = end(start(server, folder, BOUNDED))
    assert times["start_s"] < BOUND_S + 12
    assert times["slowest_log_s"] < 0.5
    assert times["finish_s"] < BOUND_S + 2
    assert "logging offline instead" in said
    assert epochs(folder) == list(range(6))
    server.heal()
    server.start()
    sync(server, tmp_path, said)
    assert [row["epoch"] for row in server.runs["r1"].history] == list(range(6))


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_breaks_during_the_run_costs_a_bounded_wait_and_no_row(
    server: WandbServer, tmp_path: Path, fault: str
) -> None:
    folder = tmp_path / "run"
    process = start(server, folder, {"WANDB_FINISH_TIMEOUT": str(BOUND_S)}, pause_at=3)
    assert server.wait_until(lambda: (folder / "waiting").exists() and len(server.runs["r1"].history) == 3)
    FAULTS[fault](server)
    (folder / "go").touch()
    times, said = end(process)
    assert times["slowest_log_s"] < 0.5
    assert times["finish_s"] < 2 * BOUND_S + 2
    assert f"W&B did not take everything within {BOUND_S} s" in said
    assert epochs(folder) == list(range(6))
    server.heal()
    server.start()
    sync(server, tmp_path, said)
    history = server.runs["r1"].history
    assert [(row["epoch"], row["test/bacc"]) for row in history] == [(e, 0.5 + e / 100) for e in range(6)]
    assert server.runs["r1"].exit_code == 0


@pytest.mark.slow
def test_a_killed_run_goes_on_with_no_epoch_lost_or_doubled(server: WandbServer, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(server, folder, pause_at=3, epoch_s=0.0)
    assert server.wait_until(lambda: (folder / "waiting").exists() and len(server.runs["r1"].history) == 3)
    server.fail(only="file_stream")  # epochs 3 and 4 stay on the way
    (folder / "waiting").unlink()
    (folder / "go").touch()
    assert server.wait_until(lambda: epochs(folder)[-1:] == [5] or len(epochs(folder)) >= 5)
    process.kill()
    process.communicate()
    server.heal()
    missed = len(server.runs["r1"].history)
    assert missed == 3
    end(start(server, folder, first=5))  # the checkpoint had epoch 4
    assert [row["epoch"] for row in server.runs["r1"].history] == list(range(6))
    end(start(server, folder, first=3, epochs=8))  # an older checkpoint: epochs 3 to 5 come again
    assert [row["epoch"] for row in server.runs["r1"].history] == list(range(8))
    assert server.runs["r1"].state == "finished"


@pytest.mark.slow
def test_the_last_row_carries_the_long_table_once(server: WandbServer, tmp_path: Path) -> None:
    end(start(server, tmp_path / "run", tracker={"charts": True, "entity": "lab"}))
    run = server.runs["r1"]
    assert ["pseudo_labels" in row for row in run.history] == [False] * 5 + [True]
    tables = {name: body for name, body in run.files.items() if name.startswith("media/table/")}
    (body,) = {json.dumps(json.loads(b)) for b in tables.values()}
    table = json.loads(body)
    assert table["columns"] == list(COLUMNS)
    assert len(table["data"]) == 6 * 3
    charts = run.raw_config["_wandb"]["value"]["visualize"]
    assert set(charts) == {"charts/shares", "charts/history", "charts/regimes"}
    shown = charts["charts/shares"]["panel_config"]
    assert shown["panelDefId"] == "lab/darp_shares"
    assert shown["fieldSettings"]["orig"] == "orig"
    assert '"pseudo_labels"' in json.dumps(shown["userQuery"])


@pytest.mark.slow
@pytest.mark.parametrize("charts", [False, True])
@pytest.mark.parametrize(("exit_code", "state"), [(3, "failed"), (128 + signal.SIGTERM, "preempted")])
def test_a_run_that_ends_early_still_leaves_its_table_and_charts(
    server: WandbServer, tmp_path: Path, exit_code: int, state: str, charts: bool
) -> None:
    _, said = end(start(server, tmp_path / "run", until=4, exit_code=exit_code, tracker={"charts": charts}))
    assert "did not take" not in said
    run = server.runs["r1"]
    assert [row["epoch"] for row in run.history] == [0, 1, 2, 3]
    assert run.summary["pseudo_labels"]["nrows"] == 4 * 3
    assert bool(run.raw_config["_wandb"]["value"].get("visualize")) == charts
    assert (run.state, run.exit_code) == (state, exit_code)


@pytest.mark.slow
def test_the_table_is_there_and_grows_while_the_run_goes_on(server: WandbServer, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(server, folder, pause_at=4, epoch_s=0.5, tracker={"table_every": 2})
    assert server.wait_until(lambda: (folder / "waiting").exists(), 60)
    summary = server.runs["r1"].summary
    assert server.wait_until(lambda: server.runs["r1"].summary.get("pseudo_labels", {}).get("nrows") == 4 * 3)
    assert server.runs["r1"].state == "running", summary
    stored = server.runs["r1"].summary["pseudo_labels"]["path"]
    assert server.wait_until(lambda: stored in server.runs["r1"].files)
    assert len(json.loads(server.runs["r1"].files[stored])["data"]) == 4 * 3
    (folder / "go").touch()
    end(process)
    run = server.runs["r1"]
    assert [row["epoch"] for row in run.history] == list(range(6))
    assert run.summary["pseudo_labels"]["nrows"] == 6 * 3


@pytest.mark.slow
def test_a_server_that_hangs_when_a_table_is_due_delays_no_epoch(server: WandbServer, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(server, folder, BOUNDED, pause_at=1, epoch_s=0.1, tracker={"table_every": 1})
    assert server.wait_until(lambda: (folder / "waiting").exists(), 60)
    server.hang(600)
    (folder / "go").touch()
    times, _ = end(process)
    assert times["slowest_log_s"] < 0.5
    assert times["finish_s"] < 2 * BOUND_S + 2
    server.heal()


def test_tags_mark_a_capped_regime() -> None:
    config = {"dataset": "digits", "semi_method": "fix", "refine": "none"}
    counts = {"labeled_counts_asked": [3], "labeled_counts": [3], "unlabeled_counts_asked": [9]}
    assert own_tags(config | counts | {"unlabeled_counts": [9]}) == ["digits", "fix", "none"]
    assert own_tags(config | counts | {"unlabeled_counts": [8]}) == ["digits", "fix", "none", "capped"]


@pytest.mark.parametrize("refine", REFINEMENTS)
def test_the_tag_of_a_refinement_is_its_value(refine: str) -> None:
    assert refine in own_tags({"dataset": "digits", "semi_method": "fix", "refine": refine})
