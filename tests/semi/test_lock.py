"""One process writes to a run's folder or a cached estimate at a time."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from semi import lock
from semi.config import ConfigError
from semi.distributed import Ranks
from semi.lock import claimed, held_alone
from tests.semi.runs import TINY
from tests.semi.test_loop import command, environment
from tracking.lock import lock as take
from tracking.lock import release, run_lock

ROOT = Path(__file__).parents[2]


def hold(path: Path, ready: str) -> None:
    """Another process's part: hold the lock until it is killed."""
    with held_alone(path):
        Path(ready).touch()
        time.sleep(60)


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock of the folder `run`."""
    (tmp_path / "run").mkdir()
    process = multiprocessing.get_context("spawn").Process(
        target=hold, args=(run_lock(tmp_path / "run"), str(tmp_path / "ready"))
    )
    process.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    yield process
    process.kill()
    process.join()


def test_the_second_process_is_refused_by_name_of_the_first(tmp_path, other):
    with (
        pytest.raises(
            ConfigError, match=f"process {other.pid} on {socket.gethostname()} is writing to it"
        ) as error,
        claimed(tmp_path / "run"),
    ):
        pass
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=f"process {other.pid}"), claimed(tmp_path / "run", overwrite=True):
        pass
    assert (tmp_path / "run").exists(), "a folder that is written to is not renamed"


def test_a_dead_holders_lock_is_no_lock(tmp_path, other):
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    assert run_lock(tmp_path / "run").exists()
    with claimed(tmp_path / "run"):
        assert json.loads(run_lock(tmp_path / "run").read_text())["pid"] == os.getpid()
    assert not run_lock(tmp_path / "run").exists()


def test_who_waits_comes_next_and_hears_once_who_is_first(tmp_path, monkeypatch, other):
    monkeypatch.setattr(lock, "POLL_S", 0.01)
    heard = []

    def waiting(holder: str) -> None:
        heard.append(holder)
        threading.Timer(0.2, other.kill).start()

    with held_alone(run_lock(tmp_path / "run"), wait=waiting):
        assert heard == [f"process {other.pid} on {socket.gethostname()}"]


def test_processes_of_one_run_hear_of_every_try_so_that_none_takes_the_first_for_hanging(
    tmp_path, monkeypatch, other
):
    monkeypatch.setattr(lock, "POLL_S", 0.01)
    told = []

    class Noted(Ranks):
        def by_first(self, work):
            told.append(work())
            if len(told) == 3:
                other.kill()
            return told[-1]

    first = Noted(torch.device("cpu"))
    with held_alone(run_lock(tmp_path / "run"), wait=lambda _: None, ranks=first):
        assert told[:3] == [False, False, False]
        assert told.count(True) == 1


def test_a_lock_whose_folder_was_renamed_leaves_the_one_of_the_next_run_alone(tmp_path):
    (tmp_path / "run").mkdir()
    path = run_lock(tmp_path / "run")
    first = take(path)
    (tmp_path / "run").rename(tmp_path / "run.old-1")
    (tmp_path / "run").mkdir()
    second = take(path)
    assert first is not None
    assert second is not None, "another file, so another lock"
    release(path, first)
    assert path.exists()
    release(path, second)
    assert not path.exists()


def test_a_folder_that_stays_empty_is_removed_and_one_with_files_is_not(tmp_path):
    with claimed(tmp_path / "empty"):
        pass
    with claimed(tmp_path / "run"):
        (tmp_path / "run" / "row").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_a_killed_writer_left_half_written_is_cleared_and_nothing_else(tmp_path):
    for name in (".checkpoint.pt.4711-0123abcd.tmp", "notes.tmp", ".mine.tmp", "checkpoint.pt"):
        (tmp_path / name).touch()
    with claimed(tmp_path):
        left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".lock", ".mine.tmp", "checkpoint.pt", "notes.tmp"]


def test_two_commands_at_once_write_one_run(tmp_path):
    flags = ["--epochs=6", "--val_iteration=6", "--resume=auto", "--run_name=r"]
    processes = [
        subprocess.Popen(
            command("train.py", tmp_path, *flags),
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=ROOT,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 2], said
    refused = said[codes.index(2)]
    assert "Traceback" not in refused
    assert refused.splitlines()[-1].startswith("train.py: ")
    assert f"process {processes[codes.index(0)].pid} on " in refused or "has just trained this run" in refused
    lines = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(6))


def test_two_estimations_of_one_thing_make_it_once(tmp_path):
    data = {name: TINY[name] for name in ("dataset", "arch", "ratio", "imb_ratio_l", "imb_ratio_u", "gpu")}
    flags = data | {
        "num_max": 40,
        "epochs": 2,
        "val_iteration": 30,
        "th_cond": 1e9,
        "estimation_dir": tmp_path,
    }
    words = [sys.executable, str(ROOT / "estimate.py"), *(f"--{k}={v}" for k, v in flags.items())]
    env = environment() | {"WANDB_MODE": "disabled"}
    processes = [
        subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=env)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert sum("is estimating it; waiting for that" in text for text in said) == 1
    assert len(list(tmp_path.iterdir())) == 1, "neither a lock nor a half-written file is left"
