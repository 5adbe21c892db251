import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from semi import stopping
from semi.cli import parse
from semi.config import Config, ConfigError
from semi.job import never_refines
from semi.run_folder import default_run_name, run_folder
from tests.commands import run_here, without_wandb
from tests.semi.runs import TINY, Interrupting, Interruption, rows, train
from tracking.row import is_known

ROOT = Path(__file__).parents[2]


def config(tmp_path, **changes) -> Config:
    return Config(**(TINY | {"out": str(tmp_path)} | changes))


def test_the_same_configuration_twice_gives_the_same_rows_but_for_the_times(tmp_path):
    first = train(config(tmp_path / "a", refine="darp"))
    second = train(config(tmp_path / "b", refine="darp"))
    assert len(first) == 3
    assert first == second


def test_another_seed_gives_other_rows(tmp_path):
    assert train(config(tmp_path, seed=0)) != train(config(tmp_path, seed=1))


@pytest.mark.parametrize(("method", "darp"), [("mix", False), ("remix", True), ("pseudo", True)])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path, method, darp):
    c = config(tmp_path / "whole", semi_method=method, refine="darp" if darp else "none", align=True)
    whole = train(c)
    cut = dataclasses.replace(c, out=str(tmp_path / "cut"), resume="auto")
    with pytest.raises(Interruption):
        train(cut, Interrupting(after=1))  # the row of epoch 1 is written, its checkpoint is not
    assert [row["epoch"] for row in rows(run_folder(cut))] == [0, 1]
    torch.manual_seed(99)  # what else happened in between must not matter
    assert train(cut) == whole


def test_every_key_of_a_row_is_in_the_table(tmp_path):
    row = train(config(tmp_path, semi_method="remix", refine="darp", epochs=2))[-1]
    unknown = [key for key in row if not is_known(key)]
    assert unknown == []
    assert not is_known("pseudo/orig/x")
    assert not is_known("test/accuracy")


def test_refinement_begins_after_warm_and_meets_its_target(tmp_path):
    first, second, third = train(config(tmp_path, refine="darp", warm=1))
    assert [row["darp/solves"] for row in (first, second, third)] == [0, 0, 2]
    assert second["pseudo/refined/tv_target"] == second["pseudo/orig/tv_target"] > 0.01
    assert third["pseudo/refined/tv_target"] < 1e-6 < third["pseudo/orig/tv_target"]
    assert third["darp/residual"] <= 1e-6
    assert third["darp/unconverged"] == 0


def test_a_warm_of_minus_one_refines_from_the_first_epoch_on(tmp_path):
    flags = [f"--{name}={value}" for name, value in TINY.items()]
    (c,) = parse([*flags, "--darp", "--warm", "-1", f"--out={tmp_path}", "--epochs=1"], "test", Config)
    (only,) = train(c)
    assert only["darp/solves"] == 2
    assert only["pseudo/refined/tv_target"] < 1e-6
    assert never_refines(c) == ""
    assert never_refines(dataclasses.replace(c, warm=0)).endswith("Add --warm -1 to refine from epoch 0 on.")
    with pytest.raises(ConfigError, match="--warm -2: use -1 or more"):
        config(tmp_path, warm=-2)


def test_the_published_scheme_can_be_selected(tmp_path):
    exact = train(config(tmp_path, refine="darp"))[-1]
    published = train(config(tmp_path, refine="darp", solver="reference"))[-1]
    assert published["darp/residual"] > exact["darp/residual"]


def test_the_tracker_hears_of_a_failure(tmp_path):
    tracker = Interrupting(after=0)
    with pytest.raises(Interruption):
        train(config(tmp_path), tracker)
    assert tracker.exit_code == 1


def test_best_pt_is_the_checkpoint_of_the_epoch_with_the_largest_bacc(tmp_path):
    up_and_down = config(tmp_path, epochs=4, lr=0.05, ema_decay=0.0)
    scores = [row["test/bacc"] for row in train(up_and_down)]
    best = torch.load(run_folder(up_and_down) / "best.pt", weights_only=True)
    assert best["epoch"] == scores.index(max(scores)) < 3


def test_a_request_to_stop_between_a_row_and_its_checkpoint_waits_for_it(tmp_path, monkeypatch):
    class Stopping(Interrupting):
        def log(self, row):
            if row["epoch"] == self.after:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)  # the handler runs before the next statement

    monkeypatch.setattr(stopping, "_waiting", None)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        stopping.install()
        tracker = Stopping(after=1)
        with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
            train(config(tmp_path), tracker)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    folder = run_folder(config(tmp_path))
    assert tracker.exit_code == 128 + signal.SIGTERM
    assert [row["epoch"] for row in rows(folder)] == [0, 1]
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["epoch"] == 1


def test_config_yaml_holds_the_resolved_configuration_and_the_counts(tmp_path):
    c = config(tmp_path, ratio=500.0)
    train(c)
    saved = yaml.safe_load((run_folder(c) / "config.yaml").read_text())
    assert saved["num_max"] == 3
    assert saved["labeled_counts"] == [3] * 10
    assert saved["unlabeled_counts_asked"] == [1503] * 10
    assert sum(saved["unlabeled_counts"]) < 1797
    assert len(saved["class_names"]) == 10


def test_a_run_that_is_there_is_not_touched_unless_told(tmp_path):
    c = config(tmp_path, epochs=1)
    before = train(c)
    with pytest.raises(ConfigError, match=r"already holds a run; go on with --resume auto"):
        train(c)
    train(dataclasses.replace(c, overwrite=True))
    kept = run_folder(c).with_name(run_folder(c).name + ".old-1")
    assert rows(kept) == before


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    c = config(tmp_path, epochs=1, resume="auto")
    before = train(c)
    assert train(c) == before


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    c = config(tmp_path, epochs=1)
    train(c)
    other = dataclasses.replace(c, lr=0.1, resume=str(run_folder(c) / "checkpoint.pt"))
    with pytest.raises(ConfigError, match=r"--lr 0.1: the checkpoint was trained with 0.002"):
        train(other)


def test_configurations_that_differ_have_folders_that_differ(tmp_path):
    base = config(tmp_path)
    changes: dict[str, Any] = {
        "ratio": 3.0, "num_max": 4, "imb_ratio_l": 2.0, "imb_ratio_u": 2.0, "refine": "darp", "alpha": 3.0, "warm": 7,
        "seed": 1, "dataset": "fashion_mnist", "semi_method": "mix", "lr": 0.1, "tau": 0.5,
    }  # fmt: skip
    names = [default_run_name(dataclasses.replace(base, **{k: v})) for k, v in changes.items()]
    names += [default_run_name(base), default_run_name(base, "trial1")]
    assert len(set(names)) == len(names)
    assert default_run_name(dataclasses.replace(base, out="x", gpu="3", data_dir="y")) == default_run_name(
        base
    )


def flags(tmp_path) -> list[str]:
    return [f"--{k}={v}" for k, v in (TINY | {"out": tmp_path}).items()]


def command(script: str, tmp_path, *more: str) -> list[str]:
    return [sys.executable, str(ROOT / script), *flags(tmp_path), *more]


def environment() -> dict[str, str]:
    return without_wandb() | {"WANDB_ERROR_REPORTING": "false"}


def test_a_missing_gpu_is_said_and_the_run_goes_on(tmp_path):
    missing = torch.cuda.device_count() + 3
    done = run_here("train.py", *flags(tmp_path), f"--gpu={missing}", "--epochs=1")
    assert done.returncode == 0, done.stderr
    assert f"--gpu {missing}: " in done.stderr
    assert "instead" in done.stderr


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--taux=1"], "train.py: unknown flag --taux. Did you mean --tau?"),
        (["--dataset=cifar10", "--data-dir=NOWHERE"], "cifar-10-python.tar.gz"),
        (["--resume=NOWHERE/checkpoint.pt"], "no such file; use a run's checkpoint.pt"),
        (["--imb_ratio_l=100"], "imb_ratio_l"),
    ],
)
def test_a_users_mistake_ends_with_one_line_exit_code_2_and_nothing_written(tmp_path, wrong, message):
    wrong = [flag.replace("NOWHERE", str(tmp_path / "nowhere")) for flag in wrong]
    done = run_here("train.py", *flags(tmp_path / "out"), *wrong)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_would_run_and_writes_nothing(tmp_path):
    done = run_here("train.py", *flags(tmp_path / "out"), "--dry-run")
    said = yaml.safe_load(done.stdout)
    assert said["config"]["labeled_counts"] == [3] * 10
    assert "data_time" in said["row"]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_request_to_stop_keeps_the_last_checkpoint_and_the_run_can_go_on(tmp_path):
    more = ["--epochs=3", "--val_iteration=25", "--resume=auto", "--run_name=r"]
    process = subprocess.Popen(
        command("train.py", tmp_path, *more), stderr=subprocess.DEVNULL, env=environment()
    )
    metrics = tmp_path / "r" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (tmp_path / "r" / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert len(metrics.read_text().splitlines()) < 3
    assert run_here("train.py", *flags(tmp_path), *more).returncode == 0
    assert [row["epoch"] for row in rows(tmp_path / "r")] == [0, 1, 2]
