"""Several runners on one PostgreSQL, as on several hosts: every trial is trained once and none is lost."""

import contextlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
import yaml

from sweeps.definition import Sweep, read_sweep
from sweeps.study import ABOUT, Study
from tests.semi.runs import rows
from tests.sweeps.postgres import Postgres

ROOT = Path(__file__).parents[2]
TRIAL = Path(__file__).with_name("trial.py")
pytestmark = pytest.mark.slow


def sweep_of(*cells: str, pace: float) -> Sweep:
    content = {
        "program": str(TRIAL),
        "method": "grid",
        "metric": {"name": "test/bacc", "goal": "maximize"},
        "parameters": {"cell": {"values": list(cells)}, "pace": {"value": pace}},
    }
    Path("s.yaml").write_text(yaml.safe_dump(content))
    return read_sweep("s.yaml")


def start(url: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sweeps", "run", "s.yaml", f"--storage={url}", "--heartbeat=2", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def notes(name: str) -> list[str]:
    path = Path(f"{name}.log")
    return path.read_text().splitlines() if path.exists() else []


def trains(study: Study, process: subprocess.Popen[str]) -> str:
    """The cell that this runner's trial is at, once it has logged a row; empty where it has none."""
    for trial in study.trials():
        about = trial.user_attrs.get(ABOUT, {})
        if about.get("pid") == process.pid and not trial.state.is_finished():
            cell = str(about["parameters"]["cell"])
            with contextlib.suppress(FileNotFoundError):
                return cell if rows(Path("result") / cell) else ""
    return ""


def test_four_runners_and_two_kills_train_every_trial_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = [f"c{k}" for k in range(9)]
    sweep = sweep_of(*cells, pace=0.5)
    with Postgres() as database:
        runners = [start(database.url) for _ in range(4)]  # an empty database: they race for its tables
        study = Study(sweep, database.url)
        killed: set[str] = set()
        try:
            for victim in runners[:2]:
                deadline = time.monotonic() + 60
                while not (cell := trains(study, victim)) and time.monotonic() < deadline:
                    assert victim.poll() is None
                    time.sleep(0.02)
                victim.kill()
                killed.add(cell)
            said = [runner.communicate(timeout=120) for runner in runners]
        finally:
            for runner in runners:
                runner.kill()
        assert [runner.returncode for runner in runners] == [-9, -9, 0, 0], said
        progress = study.progress()
    assert [trial.state for trial in progress] == ["done"] * 9
    assert sorted(trial.parameters["cell"] for trial in progress) == sorted(cells)
    assert len(killed) == 2
    for cell in cells:
        assert [row["epoch"] for row in rows(Path("result") / cell)] == [0, 1, 2, 3]
        lines = (Path("result") / cell / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == 4, "no epoch was trained twice"
        starts = [note for note in notes(cell) if note.startswith("started")]
        assert len(starts) == (2 if cell in killed else 1)
    assert "9 trials: 9 done" in said[3][0]


def test_threads_that_ask_at_once_get_different_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    count = 24
    with Postgres() as database:
        study = Study(sweep_of(*map(str, range(count)), pace=0), database.url)
        for k in range(count):  # all wait to go on
            trial = study.for_a_thread().ask()
            study.for_a_thread().tell(trial, state=optuna.trial.TrialState.FAIL)
            study.put_back(k)
        with ThreadPoolExecutor(8) as threads:
            asked = list(threads.map(lambda _: study.for_a_thread().ask().number, range(count)))
    assert sorted(asked) == list(range(count, 2 * count))


def test_a_runner_that_loses_the_database_stops_its_trials_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep_of("slow", pace=0.2)
    with Postgres() as database:
        runner = start(database.url)
        deadline = time.monotonic() + 60
        while not notes("slow") and time.monotonic() < deadline:
            time.sleep(0.05)
        database.stop()
        _, err = runner.communicate(timeout=60)
    assert runner.returncode == 1
    assert err.count("\n") == 1
    assert err.startswith("s.yaml: the study cannot go on (")
    assert notes("slow")[-1] == "stopped by SIGTERM"
