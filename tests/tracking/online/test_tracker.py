"""The W&B tracker against a server that is down, fails, hangs or dies, and over resumes."""

import json
import re
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from wandb.sdk.lib.run_stopping import RunStopChecker

from semi.names import REFINERIES
from tests.commands import run_here
from tests.tracking.online.tracker_driver import ROOT, config, end, epochs, row, start
from tests.wandb_server import Sweep, WandbServer
from tests.wandb_server.quick import QUICK_RETRIES
from tests.wandb_server.records import USER
from tracking.base import Fanout
from tracking.local import LocalTracker
from tracking.online.long_table import CHARTS, COLUMNS
from tracking.online.run_writer import own_tags
from tracking.online.tracker import WandbTracker

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
    words = shlex.split(re.findall(r"python -m (tracking.sync [^`\n]+)", said)[-1])
    done = run_here(*words, folder=ROOT, environment=server.env(folder) | QUICK_RETRIES)
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
    assert set(charts) == {f"charts/{chart.name}" for chart in CHARTS}
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


@pytest.mark.parametrize("refine", REFINERIES)
def test_the_tag_of_a_refinement_is_its_value(refine: str) -> None:
    assert refine in own_tags({"dataset": "digits", "semi_method": "fix", "refine": refine})


@pytest.mark.slow
@pytest.mark.parametrize("reason", ["preempted", "stopped in the browser", "early termination", "cancelled"])
def test_a_run_that_was_ended_on_purpose_does_not_ask_to_go_back_in_the_queue(
    server: WandbServer, folder: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    if reason in ("early termination", "cancelled"):
        sweep = Sweep("s1", USER, "darp", "{method: grid, parameters: {ratio: {values: [2]}}}")
        server.store.sweeps["s1"] = sweep
        monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
        monkeypatch.setenv("WANDB_RUN_ID", "r1")
        monkeypatch.setenv("WANDB_PROJECT", "darp")
    tracker = Fanout([LocalTracker(folder), WandbTracker(folder, mode="online")])
    tracker.start(config(6), {"wandb_run_id": "r1"}, 0)
    tracker.log(row(0))
    if reason == "stopped in the browser":
        server.runs["r1"].stop_requested = True
    elif reason == "early termination":
        sweep.stop("r1")
    elif reason == "cancelled":
        sweep.state = "CANCELED"
    tracker.finish(128 + signal.SIGTERM)
    run = server.runs["r1"]
    assert run.preempting == (reason == "preempted")
    assert (run.state, run.exit_code) == ("preempted" if run.preempting else "failed", 128 + signal.SIGTERM)
    assert [sent["epoch"] for sent in run.history] == [0]


@pytest.mark.slow
def test_a_stop_in_the_browser_interrupts_the_training_and_says_so(
    server: WandbServer, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert RunStopChecker.__init__.__kwdefaults__ is not None
    monkeypatch.setitem(
        RunStopChecker.__init__.__kwdefaults__, "poll_interval", 0.2
    )  # the SDK looks every 15 s
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        tracker = Fanout([LocalTracker(folder), WandbTracker(folder, mode="online")])
        tracker.start(config(100), {"wandb_run_id": "r1"}, 0)
        server.runs["r1"].stop_requested = True
        for epoch in range(100):
            if caught:
                break
            tracker.log(row(epoch))
            time.sleep(0.2)
        tracker.finish(128 + signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught == [signal.SIGINT]
    assert "W&B was told to stop this run" in capsys.readouterr().err
    assert (server.runs["r1"].preempting, server.runs["r1"].exit_code) == (False, 128 + signal.SIGINT)


@pytest.mark.slow
def test_a_stopped_run_whose_server_does_not_answer_counts_as_preempted(
    server: WandbServer, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tracking.online.tracker.ASK_S", 0.5)
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")
    tracker = Fanout([LocalTracker(folder), WandbTracker(folder, mode="online")])
    tracker.start(config(6), {"wandb_run_id": "r1"}, 0)
    tracker.log(row(0))
    server.hang(60)
    tracker.finish(128 + signal.SIGTERM)
    assert "it counts as preempted" in capsys.readouterr().err
    server.heal()
