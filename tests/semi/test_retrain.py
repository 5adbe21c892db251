import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from semi import checkpoint
from semi.config import Config, ConfigError
from semi.load_model import load_trained
from semi.retrain import RetrainConfig, balanced_rows, folder_for, retrain
from semi.run_folder import run_folder
from tests.semi.runs import TINY, rows, train
from tracking.base import Fanout
from tracking.local import LocalTracker

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a finished run with a long tail."""
    c = Config(
        **TINY
        | {"out": str(tmp_path_factory.mktemp("runs")), "num_max": 20, "imb_ratio_l": 10.0, "refine": "darp"}
    )
    train(c)
    return run_folder(c)


def retrained(run: Path, **changes) -> Path:
    config = RetrainConfig(checkpoint=str(run / "checkpoint.pt"), epochs=2, val_iteration=5, **changes)
    folder = folder_for(config)
    trained = load_trained(Path(config.checkpoint), CPU)
    retrain(trained, config, folder, Fanout([LocalTracker(folder)]))
    return folder


def test_every_class_stands_in_a_balanced_pass_equally_often():
    labels = torch.tensor([0] * 7 + [1] * 3 + [2])
    picked = balanced_rows(labels)
    assert torch.bincount(labels[picked]).tolist() == [7, 7, 7]
    assert torch.bincount(picked).tolist() == [1] * 7 + [3, 2, 2] + [7]  # no image is left out or preferred


def test_only_the_head_is_trained_anew(run):
    before = checkpoint.load(run / "checkpoint.pt")["ema"]
    after = checkpoint.load(retrained(run, overwrite=True) / "checkpoint.pt")["ema"]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.weight", "head.bias"}


def test_the_head_starts_from_scratch(run, monkeypatch):
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: None)
    before = checkpoint.load(run / "checkpoint.pt")["ema"]
    after = checkpoint.load(retrained(run, overwrite=True) / "checkpoint.pt")["ema"]
    assert torch.equal(after["head.bias"], torch.zeros(10))
    assert not torch.equal(after["head.weight"], before["head.weight"])


def test_its_rows_stand_beside_the_run_and_name_it(run):
    folder = retrained(run, overwrite=True)
    assert folder == run.with_name(run.name + "_crt")
    logged = rows(folder)
    assert [row["epoch"] for row in logged] == [0, 1]
    assert logged[0]["lr"] == 0.1 > logged[1]["lr"]
    bacc = [row["test/bacc"] for row in logged]
    assert logged[1]["last20/bacc"] == pytest.approx(sum(bacc) / 2)
    said = yaml.safe_load((folder / "config.yaml").read_text())
    assert (said["head"], said["run_name"], said["epochs"]) == ("crt", folder.name, 2)
    assert (said["semi_method"], said["refine"], said["backbone_epochs"]) == ("fix", "darp", 3)


def test_retraining_twice_gives_the_same_head(run):
    first = checkpoint.load(retrained(run, overwrite=True) / "checkpoint.pt")["ema"]
    second = checkpoint.load(retrained(run, overwrite=True) / "checkpoint.pt")["ema"]
    assert torch.equal(first["head.weight"], second["head.weight"])


def test_a_retrained_head_is_not_overwritten_unless_told(run):
    retrained(run, overwrite=True)
    with pytest.raises(ConfigError, match="already holds a retrained head; use --overwrite"):
        retrained(run)
    before = rows(run.with_name(run.name + "_crt"))
    retrained(run, overwrite=True)
    assert rows(run.with_name(run.name + "_crt.old-1")) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": ""}, "no checkpoint is named"),
        ({"lr": 0.0}, "--lr 0.0: use a number above 0"),
        ({"epochs": 0}, "--epochs 0: use 1 or more"),
        ({"gpu": "x"}, "--gpu x"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(changes, message):
    with pytest.raises(ConfigError, match=message):
        RetrainConfig(**({"checkpoint": "c"} | changes))


def command(*words: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    return subprocess.run(
        [sys.executable, str(ROOT / "retrain_head.py"), *words], capture_output=True, text=True, env=clean
    )


def test_the_command_takes_the_checkpoint_first(run):
    done = command(
        str(run / "checkpoint.pt"), "--epochs=1", "--val_iteration=2", "--gpu=cpu", "--overwrite", "--wandb"
    )
    assert done.returncode == 0, done.stderr
    folder = run.with_name(run.name + "_crt")
    assert f"run folder: {folder}" in done.stderr
    assert len(rows(folder)) == 1
    (offline,) = folder.glob("wandb/offline-run-*/*.wandb")
    assert b"crt" in offline.read_bytes()


def test_a_missing_checkpoint_ends_with_one_line_and_exit_code_2(tmp_path):
    done = command(str(tmp_path / "checkpoint.pt"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(
        f"retrain_head.py: {tmp_path / 'checkpoint.pt'}: no such file"
    )
    assert not any(tmp_path.iterdir())


def test_the_settings_of_the_head_do_not_reach_the_runs_configuration(run):
    state = checkpoint.load(retrained(run, overwrite=True, lr=0.5) / "checkpoint.pt")
    assert state["config"] == checkpoint.load(run / "checkpoint.pt")["config"]
    assert state["head"]["lr"] == 0.5
    assert {field.name for field in dataclasses.fields(RetrainConfig)} == set(state["head"])
