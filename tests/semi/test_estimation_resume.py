"""An estimation that was interrupted goes on, and its record is the one of an estimation that was not."""

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from semi import checkpoint, estimation_training, pace, stopping
from semi.cli import parse
from semi.config import Config, EstimateConfig
from semi.distributed import Ranks
from semi.estimation import estimate_config, estimate_path, load_or_estimate
from semi.estimation_training import EstimationTraining
from semi.start import estimated_dist
from tests.semi.runs import Interruption

ALONE = Ranks(torch.device("cpu"))
DATA: dict[str, Any] = {"dataset": "digits", "arch": "small", "num_max": 20, "ratio": 2.0, "imb_ratio_l": 2.0,
                        "imb_ratio_u": 1.0, "gpu": "cpu", "th_cond": 1e9}  # fmt: skip


def config(folder: Path, **changes: Any) -> EstimateConfig:
    training = {"epochs": 10, "val_iteration": 3, "batch_size": 16, "estimation_dir": str(folder)}
    return EstimateConfig(**(DATA | training | changes))


def partial_file(wanted: EstimateConfig) -> Path:
    return estimate_path(wanted).with_suffix(".partial.pt")


def record(wanted: EstimateConfig) -> dict[str, Any]:
    """What an estimation finds, without where it was asked for."""
    found = load_or_estimate(wanted, ALONE)
    return {name: value for name, value in found.items() if name != "config"}


@pytest.fixture
def before_step(monkeypatch):
    """Act before one step of the next estimation, which is given as (epoch, step)."""

    def patch(epoch: int, step: int, act) -> None:
        original = EstimationTraining.train_step

        def stepping(self):
            if (self.epoch, self.step) == (epoch, step):
                monkeypatch.setattr(EstimationTraining, "train_step", original)
                act()
            original(self)

        monkeypatch.setattr(EstimationTraining, "train_step", stepping)

    return patch


def die() -> None:
    raise Interruption


@pytest.fixture
def saves_each_step(monkeypatch):
    monkeypatch.setattr(pace, "LARGEST_SHARE", float("inf"))
    monkeypatch.setattr(estimation_training, "CHECKPOINT_EVERY_S", 0.0)


def interrupted(wanted: EstimateConfig, before_step, epoch: int = 4, step: int = 0) -> None:
    before_step(epoch, step, die)
    with pytest.raises(Interruption):
        load_or_estimate(wanted, ALONE)
    torch.manual_seed(99)


@pytest.mark.parametrize(
    ("epoch", "step", "more"),
    [(0, 1, {}), (4, 0, {}), (9, 1, {}), (8, 2, {"alpha": 0.5, "ema_decay": 0.9, "wd": 0.1})],
)
def test_an_estimation_that_dies_goes_on_and_gives_the_same_record(
    tmp_path, capsys, saves_each_step, before_step, epoch, step, more
):
    whole = record(config(tmp_path / "whole", **more))
    wanted = config(tmp_path / "cut", **more)
    interrupted(wanted, before_step, epoch, step)
    saved = checkpoint.load(partial_file(wanted))
    assert (saved["epoch"], saved["step"]) == (epoch, step)
    capsys.readouterr()
    assert record(wanted) == whole
    assert capsys.readouterr().err == f"estimating: going on from {partial_file(wanted)}, epoch {epoch}\n"
    assert [path.name for path in (tmp_path / "cut").iterdir()] == [estimate_path(wanted).name]


def test_the_estimation_of_a_training_goes_on_too(tmp_path, saves_each_step, before_step, capsys):
    flags = {"est": True, "est_epochs": 10, "est_val_iteration": 3, "refine": "darp"}
    whole, cut = (
        Config(**(DATA | flags | {"estimation_dir": str(tmp_path / name)})) for name in ("whole", "cut")
    )
    before_step(5, 0, die)
    with pytest.raises(Interruption):
        estimated_dist(cut, ALONE)
    dist = estimated_dist(cut, ALONE)
    assert "going on from" in capsys.readouterr().err
    assert dist == estimated_dist(whole, ALONE)
    assert not partial_file(estimate_config(cut)).exists()


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGTERM, True), (signal.SIGUSR1, False)])
def test_a_request_saves_the_estimation_at_the_next_step(tmp_path, monkeypatch, before_step, number, ends):
    monkeypatch.setattr(stopping, "_waiting", None)
    previous = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    stopping.install()
    wanted = config(tmp_path / "cut")
    try:
        if not ends:
            before_step(3, 0, die)
        before_step(2, 1, lambda: os.kill(os.getpid(), number))
        if ends:
            with pytest.raises(SystemExit) as ended:
                load_or_estimate(wanted, ALONE)
            assert ended.value.code == 128 + number
        else:
            with pytest.raises(Interruption):
                load_or_estimate(wanted, ALONE)
    finally:
        for n, handler in previous.items():
            signal.signal(n, handler)
    saved = checkpoint.load(partial_file(wanted))
    assert (saved["epoch"], saved["step"]) == (2, 2)
    monkeypatch.setattr(stopping, "_waiting", None)
    assert record(wanted) == record(config(tmp_path / "whole"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def without_schedule(path: Path) -> None:
    state = checkpoint.load(path)
    checkpoint.save(path, {name: part for name, part in state.items() if name != "schedule"})


def of_other_images(path: Path) -> None:
    state = checkpoint.load(path)
    checkpoint.save(path, state | {"images": state["images"].flip(0)})


@pytest.mark.parametrize(
    "damage", [flip, without_schedule, of_other_images, lambda path: path.write_text("x")]
)
def test_a_damaged_or_foreign_state_is_said_in_one_line_and_the_estimation_starts_again(
    tmp_path, saves_each_step, before_step, capsys, damage
):
    wanted = config(tmp_path / "cut")
    interrupted(wanted, before_step)
    damage(partial_file(wanted))
    capsys.readouterr()
    found = record(wanted)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"{partial_file(wanted)}: ")
    assert said.endswith("; the estimation starts again\n")
    assert found == record(config(tmp_path / "whole"))


def test_overwrite_starts_an_interrupted_estimation_again(tmp_path, saves_each_step, before_step, capsys):
    wanted = config(tmp_path)
    interrupted(wanted, before_step)
    again = config(tmp_path, overwrite=True)
    before_step(0, 0, lambda: pytest.fail("kept") if partial_file(wanted).exists() else None)
    load_or_estimate(again, ALONE)
    assert "going on" not in capsys.readouterr().err
    assert not partial_file(wanted).exists()


def test_a_disk_that_is_full_ends_no_estimation_and_is_said_once(
    tmp_path, saves_each_step, monkeypatch, capsys
):
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    assert record(config(tmp_path))["identifiable"]
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_resume_auto_is_accepted_because_it_is_what_happens():
    asked: EstimateConfig = parse(["--resume", "auto"], "", EstimateConfig)[0]
    assert estimate_path(asked) == estimate_path(EstimateConfig())
