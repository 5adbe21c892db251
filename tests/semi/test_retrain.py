import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from data import long_tail_counts
from models import build_model
from semi import checkpoint
from semi.config import Config, ConfigError
from semi.head_config import RECIPES, HeadConfig
from semi.load_model import checkpoint_of, load_trained
from semi.retrain import (
    balanced_rows,
    class_weights,
    folder_for,
    published,
    retrain,
)
from semi.run_folder import run_folder
from tests.commands import run_here
from tests.semi.runs import TINY, rows, train
from tracking.base import Fanout
from tracking.local import LocalTracker
from tracking.row import is_known

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
    small: dict[str, Any] = {"checkpoint": str(run), "epochs": 2, "val_iteration": 5}
    config = HeadConfig(**(small | changes))
    folder = folder_for(config)
    trained = load_trained(checkpoint_of(Path(config.checkpoint)), CPU)
    retrain(trained, config, folder, Fanout([LocalTracker(folder)]))
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = checkpoint.load(run / "checkpoint.pt")["ema"]
    return found


def test_the_published_recipe_is_the_default_and_the_balanced_one_has_defaults_of_its_own():
    c = HeadConfig(checkpoint="c")
    settings = (c.recipe, c.epochs, c.val_iteration, c.batch_size, c.lr, c.mix_alpha, c.ema_decay)
    assert settings == ("published", 20, 500, 64, 0.002, 0.75, 0.999)
    c = HeadConfig(checkpoint="c", recipe="balanced")
    assert (c.epochs, c.val_iteration, c.batch_size, c.lr) == (10, 100, 64, 0.1)
    assert HeadConfig(checkpoint="c", recipe="balanced", lr=0.3).lr == 0.3


def test_class_weights_are_in_the_proportion_of_one_over_the_labels_and_sum_to_the_classes():
    found = class_weights([10, 5, 1])
    assert found.sum() == pytest.approx(3)
    torch.testing.assert_close(found * torch.tensor([10, 5, 1]), found[2].expand(3))


def test_a_step_of_the_published_recipe_is_weighted_mixup_in_train_mode_on_the_head_alone(run, monkeypatch):
    noted = []

    def mixed(images, targets, alpha):
        assert alpha == 0.75
        noted.append((images, targets))
        return images, targets.flip(0)

    monkeypatch.setattr("semi.retrain.mixup", mixed)
    trained = load_trained(run / "checkpoint.pt", CPU)
    trained.model.head.requires_grad_(True)
    training = published(trained, HeadConfig(checkpoint="c", batch_size=32))
    statistics = {name: value.clone() for name, value in trained.model.named_buffers()}
    loss = training.loss(training.loader.next())
    ((images, labels),) = noted
    counts = torch.tensor(long_tail_counts(20, 10, 10)).double()
    sampled = (training.loader._labels_x.bincount(minlength=10)).tolist()
    assert sampled == counts.tolist()  # natural sampling: each label once
    w = (1 / counts) / (1 / counts).sum() * 10
    model = trained.model  # in train mode, with the batch's own statistics
    logits = model(images).double()
    per_image = -(w * labels.flip(0).double() * logits.log_softmax(dim=1)).sum(dim=1)
    assert float(loss.detach()) == pytest.approx(float(per_image.mean().detach()), rel=1e-5)
    moved = [
        name for name, value in trained.model.named_buffers() if not torch.equal(value, statistics[name])
    ]
    assert any("running_mean" in name for name in moved)
    loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        "head.weight",
        "head.bias",
    }
    assert isinstance(training.optimizer, torch.optim.Adam)


def test_the_published_recipe_scores_and_saves_the_averaged_head(run):
    last = weights(retrained(run, overwrite=True, ema_decay=0.0))
    averaged = weights(retrained(run, overwrite=True, ema_decay=0.9))
    assert averaged["head.weight"].norm() != last["head.weight"].norm()
    torch.manual_seed(0)
    fresh = build_model("small", 10).head.weight
    distance = [(w["head.weight"] - fresh).norm() for w in (averaged, last)]
    assert distance[0] < distance[1]  # the average lags behind, on the way from the fresh head


def test_the_mean_of_the_last_ten_epochs_stands_beside_the_one_of_twenty(run):
    logged = rows(retrained(run, overwrite=True, epochs=12, val_iteration=1, ema_decay=0.0))
    bacc = [row["test/bacc"] for row in logged]
    assert logged[-1]["last10/bacc"] == pytest.approx(sum(bacc[2:]) / 10)
    assert logged[-1]["last20/bacc"] == pytest.approx(sum(bacc) / 12)
    assert [key for key in logged[-1] if not is_known(key)] == []


def test_every_class_stands_in_a_balanced_pass_equally_often():
    labels = torch.tensor([0] * 7 + [1] * 3 + [2])
    picked = balanced_rows(labels)
    assert torch.bincount(labels[picked]).tolist() == [7, 7, 7]
    assert torch.bincount(picked).tolist() == [1] * 7 + [3, 2, 2] + [7]  # no image is left out or preferred


@pytest.mark.parametrize("recipe", RECIPES)
def test_only_the_head_is_trained_anew_and_batch_norm_moves_in_the_published_recipe(run, recipe):
    before, after = weights(run), weights(retrained(run, overwrite=True, recipe=recipe))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    buffers = {name for name in before if "running" in name or "tracked" in name}
    assert changed == {"head.weight", "head.bias"} | (buffers if recipe == "published" else set())


@pytest.mark.parametrize(("recipe", "optimizer"), [("published", "Adam"), ("balanced", "SGD")])
def test_the_head_starts_from_scratch(run, monkeypatch, recipe, optimizer):
    monkeypatch.setattr(getattr(torch.optim, optimizer), "step", lambda self: None)
    before, after = weights(run), weights(retrained(run, overwrite=True, recipe=recipe))
    assert torch.equal(after["head.bias"], torch.zeros(10))
    assert not torch.equal(after["head.weight"], before["head.weight"])


def test_its_rows_stand_beside_the_run_and_name_it(run):
    folder = retrained(run, overwrite=True, recipe="balanced")
    assert folder == run.with_name(run.name + "_crt")
    logged = rows(folder)
    assert [row["epoch"] for row in logged] == [0, 1]
    assert logged[0]["lr"] == 0.1 > logged[1]["lr"]
    bacc = [row["test/bacc"] for row in logged]
    assert logged[1]["last20/bacc"] == pytest.approx(sum(bacc) / 2)
    said = yaml.safe_load((folder / "config.yaml").read_text())
    assert (said["head"], said["run_name"], said["epochs"]) == ("crt", folder.name, 2)
    assert said["head_recipe"] == "balanced"
    assert (said["semi_method"], said["refine"], said["backbone_epochs"]) == ("fix", "darp", 3)


def test_retraining_twice_gives_the_same_head(run):
    first = checkpoint.load(retrained(run, overwrite=True) / "checkpoint.pt")["ema"]
    second = checkpoint.load(retrained(run, overwrite=True) / "checkpoint.pt")["ema"]
    assert torch.equal(first["head.weight"], second["head.weight"])


def test_a_retrained_head_is_not_overwritten_unless_told(run):
    retrained(run, overwrite=True)
    with pytest.raises(ConfigError, match="already holds a retrained head; use --overwrite"):
        retrained(run)
    kept = set(run.parent.glob("*.old-*"))
    before = rows(run.with_name(run.name + "_crt"))
    retrained(run, overwrite=True, lr=0.5)
    (new,) = set(run.parent.glob("*.old-*")) - kept
    assert rows(new) == before != rows(run.with_name(run.name + "_crt"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": ""}, "no run is named; use retrain_head.py RUN_FOLDER"),
        ({"recipe": "kang"}, "--recipe kang: use one of published, balanced"),
        ({"mix_alpha": 0.0}, "--mix_alpha 0.0: use 0.001 or more"),
        ({"ema_decay": 1.0}, "--ema-decay 1.0: use a value in"),
        ({"lr": 0.0}, "--lr 0.0: use a number above 0"),
        ({"epochs": 0}, "--epochs 0: use 1 or more"),
        ({"gpu": "x"}, "--gpu x"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(changes, message):
    with pytest.raises(ConfigError, match=message):
        HeadConfig(**({"checkpoint": "c"} | changes))


def test_the_command_takes_the_checkpoint_first(run):
    done = run_here(
        "retrain_head.py",
        str(run / "checkpoint.pt"),
        "--epochs=1",
        "--val_iteration=2",
        "--gpu=cpu",
        "--overwrite",
        "--wandb",
    )
    assert done.returncode == 0, done.stderr
    folder = run.with_name(run.name + "_crt")
    assert f"run folder: {folder}" in done.stderr
    assert len(rows(folder)) == 1
    (offline,) = folder.glob("wandb/offline-run-*/*.wandb")
    assert b"crt" in offline.read_bytes()


def test_a_command_of_the_original_works_where_it_says_what_the_run_says_and_is_answered_else(run):
    words = [
        "--pre_trained",
        str(run),
        "--dataset",
        "digits",
        "--num_max=20",
        "--imb_ratio_l",
        "10",
        "--darp",
    ]
    done = run_here("retrain_head.py", *words, "--epochs=1", "--val-iteration=2", "--gpu=cpu", "--overwrite")
    assert done.returncode == 0, done.stderr
    before = rows(run.with_name(run.name + "_crt"))
    for wrong, answer in (
        (["--imb_ratio_l", "50"], "--imb_ratio_l 50.0: the run was trained with 10.0; leave it out"),
        (["--out", "x"], "--out x: not used here, leave it out; the head goes to"),
        (["--epocs", "3"], "unknown argument --epocs"),
    ):
        done = run_here("retrain_head.py", *words, "--gpu=cpu", "--overwrite", *wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert answer in done.stderr.splitlines()[-1]
    assert rows(run.with_name(run.name + "_crt")) == before


def test_a_missing_checkpoint_ends_with_one_line_and_exit_code_2(tmp_path):
    done = run_here("retrain_head.py", str(tmp_path / "checkpoint.pt"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(
        f"retrain_head.py: {tmp_path / 'checkpoint.pt'}: no such file"
    )
    assert not any(tmp_path.iterdir())


def test_the_settings_of_the_head_do_not_reach_the_runs_configuration(run):
    state = checkpoint.load(retrained(run, overwrite=True, lr=0.5) / "checkpoint.pt")
    assert state["config"] == checkpoint.load(run / "checkpoint.pt")["config"]
    assert state["head"]["lr"] == 0.5
    assert {field.name for field in dataclasses.fields(HeadConfig)} == set(state["head"])
