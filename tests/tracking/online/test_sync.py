"""`python -m tracking.sync`: whatever W&B's own files look like, the server gets each epoch once and in order."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import wandb

from semi.commands import train
from semi.config import WandbOptions
from tests.semi.runs import TINY
from tests.tracking.online.tracker_driver import ROOT, drive, start
from tests.wandb_server import WandbServer
from tracking.local import read_rows
from tracking.online.run_record import RunRecord, read_record
from tracking.online.sync import runs_below, sync, sync_run
from train_with_wandb import wandb_tracker

OFFLINE, ONLINE = {"tracker": {"mode": "offline"}}, {"tracker": {"mode": "online"}}
PREEMPTED = 128 + signal.SIGTERM
pytestmark = pytest.mark.slow


def assert_whole(server: WandbServer, run_id: str, folder: Path, epochs: int = 6) -> None:
    """The server has every row of the folder, once, in order, value by value; and table, summary and config."""
    run = server.runs[run_id]
    local = read_rows(folder)
    assert [sent["epoch"] for sent in run.history] == [kept["epoch"] for kept in local] == list(range(epochs))
    assert [sent["_step"] for sent in run.history] == sorted({sent["_step"] for sent in run.history})
    for sent, kept in zip(run.history, local, strict=True):
        for key, value in kept.items():
            assert sent[key] == value or sent[key]["values"] == value, key
    assert run.summary["epoch"] == epochs - 1
    assert run.summary["test/bacc"] == local[-1]["test/bacc"]
    assert run.summary["pseudo_labels"]["nrows"] == epochs * 3
    assert (run.config["dataset"], run.group, run.display_name) == (
        "digits",
        "digits_r2_n3_il1_iu1",
        folder.name,
    )


def pieces(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"))


def by_wandb(folder: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_SILENT"}
    words = ["wandb", "sync", str(folder)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert "Finished syncing" in done.stderr


def test_offline_first_and_online_after_a_resume_is_whole_without_a_sync(
    server: WandbServer, folder: Path
) -> None:
    drive(folder, **OFFLINE, until=3, exit_code=PREEMPTED)
    assert server.runs == {}
    drive(folder, **ONLINE, first=3)
    assert_whole(server, "r1", folder)
    assert server.runs["r1"].state == "finished"


def test_offline_preempted_and_offline_again_arrives_as_one_finished_run_and_a_second_call_sends_nothing(
    server: WandbServer, folder: Path
) -> None:
    drive(folder, **OFFLINE, until=3, exit_code=PREEMPTED)
    drive(folder, **OFFLINE, first=3)
    with (folder / "config.yaml").open("a") as file:
        file.write(
            "starts: [{epoch: 0}, {epoch: 3}]\n"
        )  # what a start notes of its machine, for the folder alone
    assert len(pieces(folder)) == 2
    files = sorted(folder.rglob("*"))
    assert sync_run(folder).sentence == "complete: 6 epochs, exit code 0"
    assert_whole(server, "r1", folder)
    assert (server.runs["r1"].state, server.runs["r1"].exit_code) == ("finished", 0)
    assert "starts" not in server.runs["r1"].config
    assert sorted(folder.rglob("*")) == files, "the command leaves nothing behind"
    before = len(server.requests)
    assert sync_run(folder).sentence == "complete: 6 epochs, exit code 0, nothing to send"
    after = server.requests[before:]
    assert {request.path for request in after} == {"/graphql"}
    assert not {"UpsertBucket", "CreateRunFiles", "CreateArtifact"} & {request.operation for request in after}


def test_a_preempted_run_arrives_as_preempted_and_goes_on_to_finish(
    server: WandbServer, folder: Path
) -> None:
    drive(folder, **OFFLINE, until=3, exit_code=PREEMPTED)
    assert sync_run(folder).complete
    assert_whole(server, "r1", folder, epochs=3)
    assert (server.runs["r1"].state, server.runs["r1"].exit_code) == ("preempted", PREEMPTED)
    server.runs["r1"].state = "crashed"  # the process that sent it was killed before it could say so
    assert sync_run(folder).complete
    assert server.runs["r1"].state == "preempted"
    drive(folder, **OFFLINE, first=3, until=5, exit_code=1)
    assert sync_run(folder).complete
    assert_whole(server, "r1", folder, epochs=5)
    assert (server.runs["r1"].state, server.runs["r1"].exit_code) == ("failed", 1)


def test_pieces_that_were_synced_out_of_order_are_told_and_replaced_when_asked(
    server: WandbServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drive(folder, **OFFLINE, until=3, exit_code=PREEMPTED)
    drive(folder, **OFFLINE, first=3)
    for piece in reversed(pieces(folder)):
        by_wandb(piece)
    assert [sent["epoch"] for sent in server.runs["r1"].history] == [3, 4, 5, 0, 1, 2]
    assert sync([folder], replace=False) == 1
    assert "--replace sends the run anew" in capsys.readouterr().out
    assert server.runs["r1"].state == "finished"
    assert server.runs["r1"].summary["epoch"] == 5
    assert sync([folder], replace=True) == 0
    (run_id,) = server.runs
    assert run_id != "r1"
    assert_whole(server, run_id, folder)
    assert read(folder).id == run_id
    assert sync([folder], replace=False) == 0
    assert "nothing to send" in capsys.readouterr().out


@pytest.mark.parametrize("mode", [OFFLINE, ONLINE], ids=["offline", "online"])
def test_a_run_killed_between_its_last_row_and_its_end_arrives_whole(
    server: WandbServer, folder: Path, mode: dict
) -> None:
    folder.parent.mkdir()
    process = start(server, folder, **mode, pause_at="end")
    assert server.wait_until(lambda: (folder / "waiting").exists(), 60)
    process.kill()
    process.communicate()
    assert "r1" not in server.runs or len(server.runs["r1"].history) < 6
    assert sync_run(folder).complete
    assert_whole(server, "r1", folder)
    assert server.runs["r1"].state == "finished"


KILLED_AT_ITS_END = """
import os, sys
from tracking.online.tracker import WandbTracker
from train_with_wandb import WandbOptions, train, wandb_tracker
WandbTracker.finish = lambda self, exit_code: os._exit(137)
sys.exit(train("test", WandbOptions, more=wandb_tracker))
"""


def test_a_run_killed_at_its_end_delivers_its_last_row_when_it_is_resumed_though_nothing_is_left_to_train(
    server: WandbServer, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = TINY | {"out": folder.parent, "run_name": folder.name, "epochs": 2, "resume": "auto"}
    words = [f"--{key}={value}" for key, value in given.items()]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", KILLED_AT_ITS_END, *words], env=environment, timeout=240)
    assert killed.returncode == 137
    assert [sent["epoch"] for sent in server.runs[read(folder).id].history] != [0, 1]
    monkeypatch.setattr(sys, "argv", ["train_with_wandb.py", *words])
    assert train("test", WandbOptions, more=wandb_tracker) == 0
    assert "W&B: complete: 2 epochs, exit code 0" in capsys.readouterr().err
    run = server.runs[read(folder).id]
    assert [sent["epoch"] for sent in run.history] == [0, 1]
    assert (run.state, run.summary["pseudo_labels"]["nrows"]) == ("finished", 2 * 10)
    history = (folder / "metrics.jsonl").read_bytes()
    assert train("test", WandbOptions, more=wandb_tracker) == 0
    assert "nothing to send" in capsys.readouterr().err
    assert (folder / "metrics.jsonl").read_bytes() == history


def read(folder: Path) -> RunRecord:
    record = read_record(folder)
    assert record is not None
    return record


def test_a_run_killed_half_way_arrives_as_failed_by_sigkill_and_a_living_one_is_left_alone(
    server: WandbServer, folder: Path
) -> None:
    folder.parent.mkdir()
    process = start(server, folder, **OFFLINE, pause_at=4)
    assert server.wait_until(lambda: (folder / "waiting").exists(), 60)
    assert f"process {process.pid} on " in sync_run(folder).sentence
    assert server.requests == []
    process.kill()
    process.communicate()
    assert sync_run(folder).complete
    assert_whole(server, "r1", folder, epochs=4)
    assert (server.runs["r1"].state, server.runs["r1"].exit_code) == ("failed", 128 + signal.SIGKILL)


def test_a_table_that_never_arrived_is_sent_alone(server: WandbServer, folder: Path) -> None:
    drive(folder, **ONLINE)
    server.runs["r1"].summary.pop("pseudo_labels")
    history = list(server.runs["r1"].history_lines)
    assert sync_run(folder).complete
    assert_whole(server, "r1", folder)
    assert server.runs["r1"].history_lines == history


def test_a_server_that_dies_while_it_is_sent_to_gets_the_rest_in_a_second_call(
    server: WandbServer, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drive(folder, **OFFLINE, epochs=40)
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "2")
    server.fail(only="file_stream")
    assert sync([folder], replace=False) == 1
    assert "call this again" in capsys.readouterr().out
    server.heal()
    assert sync([folder], replace=False) == 0
    assert_whole(server, "r1", folder, epochs=40)


def test_a_folder_of_nested_runs_with_torn_files_arrives_whole_by_the_command(
    server: WandbServer, folder: Path
) -> None:
    root = folder.parent
    places = {"r1": root / "one", "r2": root / "deeper" / "two", "r3": root / "deeper" / "three"}
    for run_id, place in places.items():
        drive(place, **OFFLINE, id=run_id)
    (torn,) = (places["r2"] / "wandb").glob("offline-run-*/*.wandb")
    torn.write_bytes(torn.read_bytes()[:7])
    with (places["r3"] / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 6, "test/ba')
    (root / "without").mkdir()
    shutil.copy(places["r1"] / "metrics.jsonl", root / "without")
    shutil.copytree(places["r1"], root / "one.old-1")
    assert list(runs_below(root)) == [
        places["r3"],
        places["r2"],
        places["r1"],
        root / "without",
    ]
    words = [sys.executable, "-m", "tracking.sync", str(root)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert sum("complete: 6 epochs, exit code 0" in line for line in lines) == 3
    assert lines[3].endswith("skipped: trained without W&B")
    for run_id, place in places.items():
        assert_whole(server, run_id, place)
    assert set(server.runs) == set(places)


def test_after_wandb_sync_of_a_run_in_one_piece_nothing_is_left_to_send(
    server: WandbServer, folder: Path
) -> None:
    drive(folder, **OFFLINE)
    by_wandb(pieces(folder)[0])
    assert server.runs["r1"].facts["host"], "what only W&B's own files hold"
    assert sync_run(folder).sentence == "complete: 6 epochs, exit code 0, nothing to send"
    assert_whole(server, "r1", folder)


def test_a_run_of_before_there_was_a_record_is_known_by_the_names_of_its_wandb_files(
    server: WandbServer, folder: Path
) -> None:
    drive(folder, **OFFLINE, id="an-old-one")
    (folder / "wandb_run.json").unlink()
    assert sync_run(folder).complete
    assert_whole(server, "an-old-one", folder)


def test_what_only_the_sdk_was_told_is_kept_for_the_sync(
    server: WandbServer, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "params.yaml").write_text("sweep: {value: regimes}\nratio: {value: 2.0}\n")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(tmp_path / "params.yaml"))
    monkeypatch.setenv("WANDB_TAGS", "mine")
    monkeypatch.setenv("WANDB_JOB_TYPE", "crt")
    drive(folder, **OFFLINE)
    program = Path(sys.argv[0]).name
    for name in ("WANDB_SWEEP_PARAM_PATH", "WANDB_TAGS", "WANDB_JOB_TYPE"):
        monkeypatch.delenv(name)
    wandb.teardown()
    monkeypatch.setattr(sys, "argv", ["sync.py"])
    assert sync_run(folder).complete
    run = server.runs["r1"]
    assert (run.config["sweep"], run.job_type) == ("regimes", "crt")
    assert set(run.tags) == {"mine", "digits", "fix", "darp"}
    assert run.facts["jobProgram"] == program
    assert "host" not in run.facts, "the machine that sends is not the one that trained"
