"""The runner without a server: trials side by side, once each, stopped together, and synced as one group."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.semi.runs import TINY, rows
from tests.wandb_server import WandbServer

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, signal, sys, time
name = sys.argv[1].removeprefix("--cell=")
def stop(number, frame):
    open(f"{name}.stopped", "w").close()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
open(f"{name}.started", "w").write(os.environ["WANDB_RUN_ID"] + " " + os.environ.get("CUDA_VISIBLE_DEVICES", ""))
while name.startswith("slow"):
    time.sleep(0.02)
while name.startswith("pair") and not all(os.path.exists(f"pair{k}.started") for k in (0, 1)):
    time.sleep(0.02)
sys.exit(5 if name.startswith("bad") else 0)
"""


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return kept | {"PYTHONPATH": str(ROOT), "NETRC": "/nonexistent"} | more


def runner(folder: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sweeps", "run", "s.yaml", *flags],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def cells(folder: Path, *names: str) -> None:
    (folder / "trial.py").write_text(PROGRAM)
    sweep = {
        "program": "trial.py",
        "method": "grid",
        "metric": {"name": "test/bacc", "goal": "maximize"},
        "parameters": {"cell": {"values": list(names)}},
        "command": ["${env}", "${interpreter}", "${program}", "${args}"],
    }
    (folder / "s.yaml").write_text(yaml.safe_dump(sweep))


def test_two_jobs_run_at_the_same_time_each_on_its_own_gpu(tmp_path: Path) -> None:
    cells(tmp_path, "pair0", "pair1")  # each waits for the other
    process = runner(tmp_path, "--jobs=2", "--gpus=3,5")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.count("done after") == 2
    started = [(tmp_path / f"pair{k}.started").read_text().split() for k in (0, 1)]
    assert {gpu for _, gpu in started} == {"3", "5"}
    assert started[0][0] != started[1][0]


def test_a_trial_that_fails_is_named_and_the_others_still_run(tmp_path: Path) -> None:
    cells(tmp_path, "bad", "good")
    process = runner(tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "[1/2] failed with exit code 5" in out
    assert "1 of 2 trials did not end well: 1" in err
    assert (tmp_path / "good.started").exists()


def test_a_request_to_stop_reaches_the_trials_and_starts_no_more(tmp_path: Path) -> None:
    cells(tmp_path, "slow0", "slow1", "slow2")
    process = runner(tmp_path, "--jobs=2")
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.started"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 1
    assert sorted(path.name for path in tmp_path.glob("*.stopped")) == ["slow0.stopped", "slow1.stopped"]
    assert not (tmp_path / "slow2.started").exists()


def test_a_dry_run_prints_the_commands_alone(tmp_path: Path) -> None:
    cells(tmp_path, "bad", "good")
    out, _ = runner(tmp_path, "--dry-run", "--count=1").communicate(timeout=60)
    assert out == f"/usr/bin/env {sys.executable} trial.py --cell=bad\n"
    assert list(tmp_path.glob("*.started")) == []


@pytest.mark.slow
def test_offline_trials_are_trained_once_and_arrive_by_sync_in_one_group(tmp_path: Path) -> None:
    given = TINY | {"epochs": 2, "out": "out", "resume": "auto"}
    sweep = {
        "program": str(ROOT / "train_with_wandb.py"),
        "method": "grid",
        "metric": {"name": "test/bacc", "goal": "maximize"},
        "parameters": {"darp": {"values": [False, True]}} | {k: {"value": v} for k, v in given.items()},
        "command": ["${env}", "${interpreter}", "${program}", "${args_no_boolean_flags}"],
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(sweep))
    first = runner(tmp_path, "--jobs=2")
    _, said = first.communicate(timeout=200)
    assert first.returncode == 0, said
    folders = sorted((tmp_path / "out").iterdir())
    before = [rows(folder) for folder in folders]
    assert [[row["epoch"] for row in run] for run in before] == [[0, 1], [0, 1]]
    again = runner(tmp_path, "--count=1")
    _, repeated = again.communicate(timeout=200)
    assert again.returncode == 0, repeated
    assert repeated.count("nothing to train: epoch 1 is done") == 1
    assert [rows(folder) for folder in folders] == before
    with WandbServer() as server:
        commands = re.findall(r"python -m tracking.sync [^`\n]+", said)
        assert len(commands) == 2
        for command in commands:
            words, environment = shlex.split(command), server.env(tmp_path)
            subprocess.run(words, cwd=ROOT, env=environment, check=True, capture_output=True)
        runs = list(server.runs.values())
    assert {run.group for run in runs} == {"digits_r10_n3_il1_iu1"}
    assert {run.config["sweep"] for run in runs} == {"s"}
    assert sorted(run.config["darp"] for run in runs) == [False, True]
    assert [[row["epoch"] for row in run.history] for run in runs] == [[0, 1], [0, 1]]
    assert {run.display_name for run in runs} == {folder.name for folder in folders}
