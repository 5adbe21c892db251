"""Saving in the middle of an epoch, at a request, on a full disk, and not at all once the loss is lost."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from semi import checkpoint, loop, pace, saving, stopping
from semi.config import Config
from semi.distributed import Ranks
from semi.names import METHODS
from semi.run_folder import run_folder
from semi.saving import Checkpoints
from tests.semi.runs import TINY, Interruption, rows, train
from tests.semi.test_loop import command, environment
from tracking import local
from tracking.local import LocalTracker


def config(out: Path, **changes: Any) -> Config:
    return Config(**(TINY | {"out": str(out), "run_name": "r"} | changes))


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    previous = {number: signal.getsignal(number) for number in numbers}
    monkeypatch.setattr(stopping, "_waiting", None)
    stopping.install()
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


def before_step(monkeypatch: pytest.MonkeyPatch, epoch: int, step: int, act: Callable[[], object]) -> None:
    """Call `act` before one training step."""
    original = loop.train_step

    def stepping(job, at_epoch, at_step, watch):
        if (at_epoch, at_step) == (epoch, step):
            act()
        return original(job, at_epoch, at_step, watch)

    monkeypatch.setattr(loop, "train_step", stepping)


def interrupt() -> None:
    raise Interruption


def send(number: int) -> Callable[[], None]:
    def sending() -> None:
        os.kill(os.getpid(), number)
        time.sleep(0.01)

    return sending


@pytest.mark.parametrize("refine", ["none", "darp"])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_dies_within_an_epoch_goes_on_from_the_step_and_gives_the_same_rows(
    tmp_path, monkeypatch, method, refine
):
    changes: dict[str, Any] = {"semi_method": method, "refine": refine, "align": True, "epochs": 2}
    whole = train(config(tmp_path / "whole", **changes))
    cut = config(tmp_path / "cut", resume="auto", checkpoint_every_s=0.0, **changes)
    monkeypatch.setattr(pace, "LARGEST_SHARE", float("inf"))
    with monkeypatch.context() as patched:
        before_step(patched, 1, 3, interrupt)
        with pytest.raises(Interruption):
            train(cut)
    saved = checkpoint.load(run_folder(cut) / "checkpoint.pt")
    assert (saved["epoch"], saved["partial"]["step"]) == (0, 3)
    torch.manual_seed(99)
    assert train(cut) == whole


def test_a_request_to_stop_saves_at_the_next_step_and_the_rows_are_those_of_one_run(tmp_path, monkeypatch):
    whole = train(config(tmp_path / "whole"))
    cut = config(tmp_path / "cut", resume="auto")
    with monkeypatch.context() as patched:
        before_step(patched, 0, 1, send(signal.SIGTERM))
        with pytest.raises(SystemExit) as ended:
            train(cut)
    assert ended.value.code == 128 + signal.SIGTERM
    saved = checkpoint.load(run_folder(cut) / "checkpoint.pt")
    assert (saved["epoch"], saved["partial"]["step"]) == (-1, 2)
    monkeypatch.setattr(stopping, "_waiting", None)
    assert train(cut) == whole


def test_the_warning_of_a_scheduler_saves_at_the_next_step_and_ends_nothing(tmp_path, monkeypatch):
    c = config(tmp_path)
    steps = []
    original = Checkpoints.save

    def saved(self, epoch, so_far=None):
        steps.append((epoch, so_far.step if so_far else None))
        original(self, epoch, so_far)

    monkeypatch.setattr(Checkpoints, "save", saved)
    before_step(monkeypatch, 1, 1, send(signal.SIGUSR1))
    assert len(train(c)) == 3
    assert steps == [(0, None), (0, 2), (1, None), (2, None)]


def test_a_checkpoint_within_an_epoch_is_no_best_one(tmp_path, monkeypatch):
    c = config(tmp_path, resume="auto")
    with monkeypatch.context() as patched:
        before_step(patched, 1, 1, send(signal.SIGTERM))
        with pytest.raises(SystemExit):
            train(c)
    monkeypatch.setattr(stopping, "_waiting", None)
    before_step(monkeypatch, 1, 3, interrupt)
    with pytest.raises(Interruption):
        train(c)
    assert checkpoint.load(run_folder(c) / "best.pt")["partial"] is None


def test_checkpoints_within_an_epoch_take_one_percent_of_the_time_at_most(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("semi.pace.monotonic", lambda: now[0])

    def slow(*_: Any) -> None:
        now[0] += 2.0

    monkeypatch.setattr(checkpoint, "save", slow)
    monkeypatch.setattr(saving, "snapshot", lambda *_: {})
    monkeypatch.setattr(saving, "keep_best", lambda *_: None)
    ranks = Ranks(torch.device("cpu"))
    job: Any = SimpleNamespace(config=config(tmp_path, checkpoint_every_s=10.0), ranks=ranks)
    checkpoints = Checkpoints(job, tmp_path, LocalTracker(tmp_path))
    now[0] = 9.9
    assert not checkpoints.pace.due()
    now[0] = 10.0
    assert checkpoints.pace.due()
    checkpoints.save(0)
    now[0] += 199.0
    assert not checkpoints.pace.due(), "a save of 2 s in 199 s is more than 1 %"
    now[0] += 1.0
    assert checkpoints.pace.due()


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_is_full_for_a_while_costs_no_row_and_is_said_once(tmp_path, monkeypatch, capsys):
    whole = train(config(tmp_path / "whole", epochs=5))
    capsys.readouterr()
    c = config(tmp_path / "full", epochs=5)
    patched = pytest.MonkeyPatch()
    before_step(
        monkeypatch,
        1,
        0,
        lambda: (patched.setattr(checkpoint, "save", full), patched.setattr(local, "append", full)),
    )
    before_step(monkeypatch, 3, 0, patched.undo)
    assert train(c) == whole
    said = capsys.readouterr().err
    assert said.count("No space left on device") == 2, "once for the rows, once for the checkpoint"
    assert checkpoint.load(run_folder(c) / "checkpoint.pt")["epoch"] == 4


def test_rows_that_the_disk_did_not_take_come_out_of_the_checkpoint(tmp_path, monkeypatch):
    whole = train(config(tmp_path / "whole"))
    c = config(tmp_path / "cut", resume="auto")
    with monkeypatch.context() as patched:
        patched.setattr(local, "append", full)
        before_step(patched, 2, 0, interrupt)
        with pytest.raises(Interruption):
            train(c)
    assert not (run_folder(c) / "metrics.jsonl").exists()
    assert train(c) == whole


def test_rows_of_a_finished_run_that_the_disk_did_not_take_are_written_by_the_next_start(
    tmp_path, monkeypatch
):
    whole = train(config(tmp_path / "whole"))
    c = config(tmp_path / "full", resume="auto")
    with monkeypatch.context() as patched:
        patched.setattr(local, "append", full)
        with pytest.raises(SystemExit) as ended:
            train(c)
    assert ended.value.code == 1
    assert train(c) == whole
    assert train(c) == whole, "and not once more by the start after that"


def test_a_disk_that_stays_full_ends_with_exit_code_1_and_the_old_state_whole(tmp_path, monkeypatch, capsys):
    whole = train(config(tmp_path / "whole"))
    c = config(tmp_path / "full", resume="auto")
    with monkeypatch.context() as patched:
        before_step(
            patched,
            1,
            0,
            lambda: (patched.setattr(checkpoint, "save", full), patched.setattr(local, "append", full)),
        )
        with pytest.raises(SystemExit) as ended:
            train(c)
    assert ended.value.code == 1
    assert "make room and go on with --resume auto" in capsys.readouterr().err.splitlines()[-1]
    assert rows(run_folder(c)) == whole[:1]
    assert checkpoint.load(run_folder(c) / "checkpoint.pt")["epoch"] == 0
    assert train(c) == whole


def test_a_row_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("old\n")
    program = (
        "import resource, sys; from pathlib import Path; from tracking.local import append\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))\n"
        "try: append(Path(sys.argv[1]), 'x' * 200)\nexcept OSError: sys.exit(7)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], cwd=Path(__file__).parents[2])
    assert done.returncode == 7
    assert path.read_text() == "old\n"


def test_a_command_whose_files_may_not_grow_ends_in_one_line(tmp_path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))

    done = subprocess.run(
        command("train.py", tmp_path, "--run_name=r"),
        capture_output=True,
        text=True,
        env=environment(),
        preexec_fn=limit,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "make room and go on with --resume auto" in done.stderr.splitlines()[-1]
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["config.yaml", "metrics.jsonl"]


def break_weights(monkeypatch: pytest.MonkeyPatch, epoch: int, step: int) -> None:
    """From this step on every weight is nan."""
    original = loop.train_step

    def breaking(job, at_epoch, at_step, watch):
        if (at_epoch, at_step) == (epoch, step):
            with torch.no_grad():
                for parameter in job.model.parameters():
                    parameter.fill_(float("nan"))
        return original(job, at_epoch, at_step, watch)

    monkeypatch.setattr(loop, "train_step", breaking)


@pytest.mark.parametrize("refine", ["none", "darp"])
def test_a_loss_that_is_not_finite_ends_the_run_at_once_with_the_checkpoint_before(
    tmp_path, monkeypatch, capsys, refine
):
    c = config(tmp_path, refine=refine)
    break_weights(monkeypatch, 1, 0)
    with pytest.raises(SystemExit) as ended:
        train(c)
    assert ended.value.code == 3
    said = capsys.readouterr().err
    assert "is not finite in epoch 1: the run ends (exit code 3)" in said
    assert "--nan continue" in said
    for name in ("checkpoint.pt", "best.pt"):
        state = checkpoint.load(run_folder(c) / name)
        assert state["epoch"] == 0
        assert all(torch.isfinite(value).all() for value in state["model"].values())
    assert [row["epoch"] for row in rows(run_folder(c))] == [0, 1]


def test_a_weight_that_is_lost_in_the_last_step_of_an_epoch_is_not_saved(tmp_path, monkeypatch):
    c = config(tmp_path, epochs=2, val_iteration=21)  # every second step is looked at, so not the last one
    original = loop.train_step

    def breaking(job, epoch, step, watch):
        losses = original(job, epoch, step, watch)
        if (epoch, step) == (1, 20):
            with torch.no_grad():
                next(iter(job.model.parameters()))[0] = float("inf")
        return losses

    monkeypatch.setattr(loop, "train_step", breaking)
    with pytest.raises(SystemExit) as ended:
        train(c)
    assert ended.value.code == 3
    assert checkpoint.load(run_folder(c) / "checkpoint.pt")["epoch"] == 0


def test_who_wants_to_trains_on_with_a_loss_that_is_not_finite(tmp_path, monkeypatch):
    break_weights(monkeypatch, 1, 0)
    trained = train(config(tmp_path, nan="continue"))
    assert [row["loss/total"] is None for row in trained] == [False, True, True]


def test_each_start_leaves_its_conditions_and_others_are_said_in_one_line(tmp_path, capsys):
    first: dict[str, Any] = {"commit": "abc", "threads": 2, "device": "cpu", "torch": "2.6"}
    LocalTracker(tmp_path, first).start({"lr": 0.1}, {}, 0)
    LocalTracker(tmp_path, first).start({"lr": 0.1}, {}, 1)
    assert capsys.readouterr().err == ""
    LocalTracker(tmp_path, first | {"threads": 1, "torch": "2.7"}).start({"lr": 0.1}, {}, 4)
    said = capsys.readouterr().err
    assert "from epoch 4 on under other conditions (threads 2 -> 1, torch 2.6 -> 2.7)" in said
    assert said.count("\n") == 1
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())["starts"]
    assert [(start["epoch"], start["threads"]) for start in written] == [(0, 2), (1, 2), (4, 1)]


def test_a_runs_config_says_which_code_threads_and_versions_made_its_figures(tmp_path):
    flags = ["--run_name=r", "--epochs=1"]
    subprocess.run(command("train.py", tmp_path, *flags), check=True, capture_output=True, env=environment())
    (start,) = yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["starts"]
    assert start["epoch"] == 0
    assert start["torch"] == str(torch.__version__)
    assert start["threads"] >= 1
    assert set(start) == {"epoch", "commit", "threads", "device", "processes", "python", "torch", "numpy"}
