"""The runner without a server: trials side by side, once each, stopped and taken over, synced as one group."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from sweeps import __main__ as command_line
from sweeps.definition import SweepError, read_sweep
from sweeps.runner import run
from sweeps.study import GOES_ON, Study
from tests.semi.runs import TINY, rows
from tests.wandb_server import WandbServer

ROOT = Path(__file__).parents[2]
TRIAL = Path(__file__).with_name("trial.py")
STORAGE = "sqlite:///result/study.sqlite3"
NOW = "started"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(variable)


def sweep_file(**changes: Any) -> Path:
    sweep = {
        "program": str(TRIAL),
        "method": "grid",
        "metric": {"name": "test/bacc", "goal": "maximize"},
        "command": ["${env}", "${interpreter}", "${program}", "${args}"],
    } | changes
    Path("s.yaml").write_text(yaml.safe_dump(sweep))
    return Path("s.yaml")


def cells(*names: str, **changes: Any) -> Path:
    return sweep_file(parameters={"cell": {"values": list(names)}}, **changes)


def run_here(file: Path, **more: Any) -> int:
    given: dict[str, Any] = {"jobs": 1, "count": None, "gpus": [], "heartbeat_s": 10, "retry_failed": False}
    return run(read_sweep(file), STORAGE, **given | more)


def notes(name: str) -> list[str]:
    path = Path(f"{name}.log")
    return path.read_text().splitlines() if path.exists() else []


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "sweeps", *words]


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return kept | {"PYTHONPATH": str(ROOT), "NETRC": "/nonexistent"}


@contextmanager
def runner(*words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command("run", "s.yaml", f"--storage={STORAGE}", *words),
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(condition, seconds: float = 90) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


def test_two_jobs_run_at_the_same_time_each_on_its_own_gpu() -> None:
    assert run_here(cells("pair0", "pair1"), jobs=2, gpus=["3", "5"]) == 0  # each waits for the other
    started = [notes(f"pair{k}")[0].split() for k in (0, 1)]
    assert {gpu for _, _, gpu in started} == {"3", "5"}
    assert started[0][1] != started[1][1], "each is a run of its own"


def test_a_failed_trial_is_named_the_others_run_and_it_alone_is_tried_again_on_request(
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = cells("bad", "good")
    assert run_here(file) == 1
    said = capsys.readouterr().out
    assert "[1/2] cell=bad: failed with exit code 5: the data are not there (result/sweep-s/" in said
    assert "2 trials: 1 done, 1 failed" in said
    assert "--retry-failed" in said
    assert run_here(file) == 0, "a finished sweep starts nothing"
    assert len(notes("bad")) == 1
    Path("mended").touch()
    assert run_here(file, retry_failed=True) == 0
    assert [len([n for n in notes(name) if n.startswith(NOW)]) for name in ("bad", "good")] == [2, 1]
    assert "2 trials: 2 done" in capsys.readouterr().out


def test_the_table_has_the_best_trial_first_what_differs_and_what_mattered(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parameters = {"x": {"values": [0.1, 0.9, 0.5]}, "pace": {"value": 0.01}}
    file = sweep_file(parameters=parameters, name="how large?", description="which x is best")
    assert run_here(file) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("how large?: 3 trials (grid)")
    assert said[1] == "which x is best"
    table = said.index(next(line for line in said if line.startswith("x ")))
    assert said[table].split() == ["x", "test/bacc", "rows", "time", "state", "host", "trial"]
    assert [line.split()[0] for line in said[table + 1 : table + 4]] == ["0.9", "0.5", "0.1"]
    assert "best test/bacc: 3.6, x=0.9" in said[table + 5]
    assert said[table + 6].startswith("importance for test/bacc (PED-ANOVA): x 1.00")


def test_status_says_how_far_a_sweep_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = cells("good", "also", "more")

    def status() -> str:
        monkeypatch.setattr(sys, "argv", ["sweeps", "status", str(file), "--storage", STORAGE])
        assert command_line.main() == 0
        return capsys.readouterr().out

    assert "3 trials: 3 not started" in status()
    assert not Path("result").exists(), "a look makes nothing"
    run_here(file, count=2)
    capsys.readouterr()
    assert "3 trials: 2 done, 1 not started" in status()


def test_hyperband_ends_a_trial_that_is_behind_and_asks_it_so_that_it_is_no_preemption() -> None:
    parameters = {"x": {"values": [0.9, 0.1]}, "cell": {"value": "good"}, "pace": {"value": 0.3}}
    file = sweep_file(parameters=parameters, early_terminate={"type": "hyperband", "min_iter": 2})
    assert run_here(file) == 0
    assert notes("good0.9")[-1] == "ended"
    assert notes("good0.1")[-1] == "stopped by SIGINT"
    assert 2 <= len(rows(Path("result/good0.1"))) < 4
    first, second = Study(read_sweep(file), STORAGE).progress()
    assert (first.state, second.state) == ("done", "ended early")


def test_bayes_draws_in_range_as_often_as_run_cap_says_and_learns_from_the_trials() -> None:
    parameters = {"x": {"min": 0.0, "max": 1.0}, "cell": {"value": "bayes"}, "pace": {"value": 0.0}}
    file = sweep_file(parameters=parameters, method="bayes", run_cap=14)
    assert run_here(file, jobs=2) == 0
    progress = Study(read_sweep(file), STORAGE).progress()
    drawn = [trial.parameters["x"] for trial in progress]
    assert len(drawn) == len(set(drawn)) == 14
    assert all(0 <= x <= 1 for x in drawn)
    assert [trial.value for trial in progress] == pytest.approx([4 * x for x in drawn])
    assert sum(drawn[10:]) / 4 > sum(drawn[:10]) / 10, "after ten draws it looks where the metric was large"


def test_a_random_draw_that_comes_again_is_a_run_of_its_own() -> None:
    parameters = {"x": {"values": [1, 2]}, "cell": {"value": "r"}}
    file = sweep_file(parameters=parameters, method="random", run_cap=4)
    assert run_here(file) == 0
    progress = Study(read_sweep(file), STORAGE).progress()
    assert len({trial.trial_id for trial in progress}) == 4
    assert len({trial.folder for trial in progress}) == 4
    assert run_here(file) == 0
    assert sum(len(notes(path.stem)) for path in Path().glob("r*.log")) == 8, "four starts, four ends"


def test_a_larger_run_cap_goes_on_with_the_same_sweep() -> None:
    parameters = {"x": {"min": 0.1, "max": 0.9}, "cell": {"value": "r"}, "pace": {"value": 0.0}}
    for cap in (1, 3):
        assert run_here(sweep_file(parameters=parameters, method="random", run_cap=cap)) == 0
    assert len(list(Path().glob("r*.log"))) == 3
    assert all(len(notes(path.stem)) == 2 for path in Path().glob("r*.log")), "none was trained twice"


def test_no_trial_starts_after_one_has_reached_the_target() -> None:
    metric = {"name": "test/bacc", "goal": "maximize", "target": 1.5}
    parameters = {"x": {"values": [0.1, 0.5, 0.6]}}
    assert run_here(sweep_file(parameters=parameters, metric=metric)) == 0
    assert [bool(notes(f"good{x}")) for x in (0.1, 0.5, 0.6)] == [True, True, False]


def test_a_trial_that_logs_nothing_is_done_and_the_worst() -> None:
    file = cells("shy", "good")
    assert run_here(file) == 0
    first, second = Study(read_sweep(file), STORAGE).progress()
    assert (first.state, first.value) == ("done", None)
    assert second.value == 2.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"command": ["no-such-program", "${args}"]}, "there is no program no-such-program"),
        ({"command": ["${env}", "X=1", "no-such-program"]}, "there is no program no-such-program"),
        ({"program": "nothing.py"}, "there is no file nothing.py"),
        ({"command": ["${program}", "${args}"]}, "is not executable"),
    ],
)
def test_a_command_that_does_not_exist_is_one_line_and_nothing_is_written(changes, message) -> None:
    with pytest.raises(SweepError, match=re.escape(message)) as refused:
        run_here(cells("good", **changes))
    assert "\n" not in str(refused.value)
    assert [path.name for path in Path().iterdir()] == ["s.yaml"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--jobs", "-5"], "--jobs -5: use a whole number from 1"),
        (["--jobs", "0"], "--jobs 0: use a whole number from 1"),
        (["--count", "0"], "--count 0: use a whole number from 1"),
        (["--count", "many"], "--count many: use a whole number from 1"),
        (["--heartbeat", "0.5"], "--heartbeat 0.5: use a whole number from 1"),
        (["--gpus", "foo"], "--gpus foo: foo is no GPU"),
        (["--gpus", "0,,1"], "--gpus 0,,1: nothing is no GPU"),
        (["--gpus", "0,0"], "--gpus 0,0: 0 is named twice"),
        (["--storage", "nonsense"], "--storage nonsense: "),
        (
            ["--storage", "postgresql://u:secret@127.0.0.1:1/x"],
            "postgresql://u:***@127.0.0.1:1/x: connection",
        ),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_a_flag_that_cannot_work_is_one_line_with_exit_code_2(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sweeps", "run", str(cells("good")), *words])
    assert command_line.main() == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert "secret" not in said
    assert notes("good") == []


def test_a_dry_run_prints_the_commands_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sweeps", "run", str(cells("bad", "good")), "--dry-run", "--count=1"])
    assert command_line.main() == 0
    assert capsys.readouterr().out == f"/usr/bin/env {sys.executable} {TRIAL} --cell=bad\n"
    assert [path.name for path in Path().iterdir()] == ["s.yaml"]


def test_ctrl_c_stops_the_trials_starts_no_more_and_the_next_runner_goes_on() -> None:
    cells("slow0", "slow1", "slow2")
    with runner("--jobs=2") as process:
        assert wait_until(lambda: notes("slow0") and notes("slow1"))
        process.send_signal(signal.SIGUSR1)
        assert wait_until(lambda: [notes(f"slow{k}")[1:] for k in (0, 1)] == [["asked to save"]] * 2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert [notes(f"slow{k}")[-1:] for k in range(3)] == [["stopped by SIGTERM"]] * 2 + [[]]
    assert "3 trials: 2 interrupted, 1 not started" in out
    assert "go on with: python -m sweeps run s.yaml" in out
    with runner("--jobs=2") as process:
        assert wait_until(lambda: [len(notes(f"slow{k}")) for k in (0, 1)] == [4, 4])
        process.terminate()
        assert process.wait(60) == 143


def test_a_runner_that_is_killed_ends_its_trials() -> None:
    """test_many_hosts.py has others take them over."""
    cells("slow0")
    with runner() as killed:
        assert wait_until(lambda: len(notes("slow0")) == 1)
        killed.kill()
    assert wait_until(lambda: notes("slow0")[-1] == "stopped by SIGTERM")


def test_what_two_runners_take_at_the_same_moment_is_trained_once() -> None:
    file = cells("a", "b")
    Path("result").mkdir()
    study = Study(read_sweep(file), STORAGE)
    asked = [study.for_a_thread().ask() for _ in range(3)]  # the third came after both looked at the queue
    assert [study.claimed(trial) for trial in asked] == [0, 1, None]
    study.for_a_thread().tell(asked[0], state=optuna.trial.TrialState.FAIL)
    study.put_back(0)
    study.put_back(0)  # as two runners that find it lost
    again = [study.for_a_thread().ask() for _ in range(2)]
    assert all(study.trials()[trial.number].user_attrs[GOES_ON] == 0 for trial in again)
    assert [study.claimed(trial) for trial in again] == [0, None]
    assert [trial.cell for trial in study.progress()] == [0, 1]


def test_threads_that_ask_one_sqlite_file_at_once_get_different_trials() -> None:
    Path("result").mkdir()
    count = 16
    study = Study(read_sweep(cells(*map(str, range(count)))), STORAGE)
    for k in range(count):  # all wait to go on
        trial = study.for_a_thread().ask()
        study.for_a_thread().tell(trial, state=optuna.trial.TrialState.FAIL)
        study.put_back(k)
    with ThreadPoolExecutor(8) as threads:
        asked = list(threads.map(lambda _: study.for_a_thread().ask().number, range(count)))
    assert sorted(asked) == list(range(count, 2 * count))


def test_a_trial_whose_runner_died_before_its_first_heartbeat_is_found_lost() -> None:
    Path("result").mkdir()
    study = Study(read_sweep(cells("a")), STORAGE, heartbeat_s=1)
    study.for_a_thread().ask()

    def found() -> bool:
        study.recover()
        return study.queue() == "start"

    assert study.queue() == "wait"
    assert wait_until(found, 30)
    assert study.claimed(study.for_a_thread().ask()) == 0


@pytest.mark.slow
def test_offline_trials_are_trained_once_and_arrive_by_sync_in_one_group(tmp_path: Path) -> None:
    given = TINY | {"epochs": 2, "out": "out", "resume": "auto"}
    file = sweep_file(
        program=str(ROOT / "train_with_wandb.py"),
        parameters={"darp": {"values": [False, True]}} | {k: {"value": v} for k, v in given.items()},
        command=["${env}", "${interpreter}", "${program}", "${args_no_boolean_flags}"],
        name="tiny",
    )
    first = subprocess.run(
        command("run", str(file), "--jobs=2"), env=environment(), capture_output=True, text=True
    )
    assert first.returncode == 0, first.stderr
    folders = sorted(path.parent for path in Path("out").glob("*/metrics.jsonl"))
    before = [rows(folder) for folder in folders]
    assert [[row["epoch"] for row in trained] for trained in before] == [[0, 1], [0, 1]]
    assert "page: out/sweep-s/report.html" in first.stdout
    assert "FixMatch" in Path("out/sweep-s/report.html").read_text()
    again = subprocess.run(command("run", str(file)), env=environment(), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "2 trials: 2 done" in again.stdout
    assert [rows(folder) for folder in folders] == before
    found = re.search(r"to W&B: (python -m tracking.sync out)\n", again.stdout)
    assert found
    with WandbServer() as server:
        there = server.env(tmp_path) | {"PYTHONPATH": str(ROOT)}
        subprocess.run(
            [sys.executable, *shlex.split(found.group(1))[1:]], env=there, check=True, capture_output=True
        )
        runs = list(server.runs.values())
    assert {run.group for run in runs} == {"digits_r10_n3_il1_iu1"}
    assert {run.config["sweep"] for run in runs} == {"tiny"}
    assert sorted(run.config["darp"] for run in runs) == [False, True]
    assert [[row["epoch"] for row in run.history] for run in runs] == [[0, 1], [0, 1]]
    assert {run.display_name for run in runs} == {"darp=false tiny", "darp=true tiny"}
