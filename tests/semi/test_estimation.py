import dataclasses
import json
import os
from typing import Any

import numpy as np
import pytest
import torch

from semi import estimation, estimation_training
from semi.cli import parse
from semi.config import Config, ConfigError, EstimateConfig
from semi.distributed import Ranks
from semi.estimation import (
    NotIdentifiable,
    estimate_config,
    estimate_path,
    estimate_source,
    how_to_use,
    load_or_estimate,
    read_estimate,
)
from semi.estimation_training import hold_out
from semi.job import build_job, target_for
from semi.mixing import mixup
from semi.start import estimated_dist
from tests.semi.runs import TINY

CPU = torch.device("cpu")
ALONE = Ranks(CPU)


DATA_FLAGS: dict[str, Any] = {"dataset": "digits", "arch": "small", "num_max": 40, "ratio": 2.0, "imb_ratio_l": 5.0,
                              "imb_ratio_u": 1.0, "shuffle_split": "0", "gpu": "cpu"}  # fmt: skip


def config(tmp_path, **changes) -> EstimateConfig:
    training = {"epochs": 10, "val_iteration": 60, "estimation_dir": str(tmp_path)}
    return EstimateConfig(**(DATA_FLAGS | training | changes))


def test_the_estimate_is_nearer_to_the_truth_than_the_labeled_distribution(tmp_path):
    record = load_or_estimate(config(tmp_path), ALONE)
    assert record["tv_true"] < 0.8 * record["tv_true_of_labeled_prior"]
    assert sum(record["dist"]) == pytest.approx(1)
    assert record["heldout_counts"][0] == 10
    assert 0 <= record["accepted_epochs"] <= 10


def test_an_estimate_is_cached_and_made_once(tmp_path, monkeypatch):
    wanted = config(tmp_path, epochs=2, val_iteration=2, th_cond=1e9)
    first = load_or_estimate(wanted, ALONE)
    monkeypatch.setattr(estimation, "run_estimation", lambda *_: pytest.fail("estimated again"))
    assert load_or_estimate(wanted, ALONE) == first


def test_what_determines_an_estimate_is_in_its_key(tmp_path):
    base = config(tmp_path)
    changes = ({"seed": 1}, {"num_val": 5}, {"imb_ratio_u": 2.0}, {"imb_ratio_u_reversed": True}, {"epochs": 3},
               {"shuffle_split": "1"}, {"th_cond": 50.0}, {"dataset": "fashion_mnist"})  # fmt: skip
    paths = [estimate_path(config(tmp_path, **change)) for change in changes] + [estimate_path(base)]
    assert len(set(paths)) == len(paths)
    assert estimate_path(config(tmp_path, gpu="0", data_dir="elsewhere")) == estimate_path(base)


def test_too_few_labels_are_not_identifiable_and_the_remedy_is_named(tmp_path):
    with pytest.raises(NotIdentifiable, match=r"cannot be told: no held-out image of class .*label more"):
        load_or_estimate(
            config(tmp_path, num_max=1, ratio=50.0, imb_ratio_l=1.0, epochs=1, val_iteration=1), ALONE
        )


def record(dist, **changes) -> str:
    return json.dumps({"dist": dist, "class_names": ["a", "b"], "identifiable": True, "reason": ""} | changes)


@pytest.mark.parametrize(
    "content",
    [
        "", "{}", '{"dist": [1], "class_names": []}', "[1]", record([0.5, 0.6]), record([1.5, -0.5]),
        record([float("nan"), 1.0]), record([1.0]), record([[0.5, 0.5]]), record("half"), record([0.5, None]),
    ],
)  # fmt: skip
def test_a_damaged_cache_is_named_and_kept(tmp_path, content):
    wanted = config(tmp_path)
    estimate_path(wanted).write_text(content)
    with pytest.raises(ConfigError, match="is not an estimate; move it away"):
        load_or_estimate(wanted, ALONE)
    assert estimate_path(wanted).read_text() == content


def test_a_record_that_could_not_be_told_is_no_target_wherever_it_comes_from(tmp_path):
    path = tmp_path / "e.json"
    path.write_text(record([float("nan")] * 2, identifiable=False, reason="too few labels"))
    with pytest.raises(NotIdentifiable, match="cannot be told: too few labels"):
        read_estimate(path)


def test_the_published_recipe_is_the_default():
    c = EstimateConfig()
    recipe = {"epochs": 200, "val_iteration": 200, "batch_size": 128, "lr": 0.1, "wd": 5e-4, "alpha": 0.0,
              "ema_decay": 0.0, "num_val": 10, "th_cond": 100.0}  # fmt: skip
    assert {name: getattr(c, name) for name in recipe} == recipe
    asked_by_a_run = estimate_config(Config(batch_size=64, mix_alpha=0.75))
    assert {name: getattr(asked_by_a_run, name) for name in recipe} == recipe


def test_the_recipe_trains_with_sgd_its_weight_decay_and_no_mixup(tmp_path, monkeypatch):
    made = []

    class Noted(torch.optim.SGD):
        def __init__(self, parameters, **settings):
            super().__init__(parameters, **settings)
            made.append((settings, self))

    monkeypatch.setattr(torch.optim, "SGD", Noted)
    monkeypatch.setattr(estimation_training, "mixup", lambda *_: pytest.fail("mixed up"))
    small = config(tmp_path, epochs=10, val_iteration=1, th_cond=1e9)
    load_or_estimate(small, ALONE)
    ((settings, optimizer),) = made
    assert settings == {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 100)  # a tenth at 80 %, another at 90 %


def test_flags_of_the_estimation_do_what_they_say(tmp_path, monkeypatch):
    calls = []

    def noted(images, targets, alpha):
        calls.append(alpha)
        return mixup(images, targets, alpha)

    monkeypatch.setattr(estimation_training, "mixup", noted)
    flags = (
        "--dataset digits --arch small --num_max 20 --imb_ratio_l 1 --imb_ratio_u 1 --gpu cpu --th_cond 1e9 "
    )
    flags += f"--epochs 1 --val-iteration 2 --start-epoch 0 --resume= --alpha 0.5 --wd 0.1 --out {tmp_path}/e"
    plain: EstimateConfig = parse(flags.split(), "", EstimateConfig)[0]
    dist = load_or_estimate(plain, ALONE)["dist"]
    assert calls == [0.5, 0.5]
    assert estimate_path(plain).parent == tmp_path / "e"
    averaged = dataclasses.replace(plain, ema_decay=0.9)
    assert load_or_estimate(averaged, ALONE)["dist"] != dist


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--start-epoch 3",
            "--start-epoch 3: an estimation that was interrupted goes on by itself .*; leave it out",
        ),
        (
            "--resume c.pt",
            "--resume c.pt: an estimation that was interrupted goes on by itself .*; leave it out",
        ),
        ("--wd -1", "--wd -1.0: use 0 or more"),
        ("--alpha -1", "--alpha -1.0: use 0 or more"),
        ("--ema-decay 1", "--ema-decay 1.0: use a value in"),
        ("--epochs 0", "--epochs 0: use 1 or more"),
    ],
)
def test_a_flag_that_cannot_work_is_answered_in_one_line(flags, message):
    with pytest.raises(ConfigError, match=message) as error:
        parse(flags.split(), "", EstimateConfig)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_written_to_is_told_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(estimation, "run_estimation", lambda *_: pytest.fail("trained first"))
    (tmp_path / "file").write_text("")
    wanted = config(tmp_path, estimation_dir=str(tmp_path / "file" / "e"))
    with pytest.raises(
        ConfigError, match=r"--estimation_dir .*file/e: cannot be written to .*name a folder"
    ) as error:
        load_or_estimate(wanted, ALONE)
    assert "\n" not in str(error.value)


def test_a_mistake_in_the_data_leaves_no_folder_behind(tmp_path):
    wanted = config(tmp_path, num_max=1, imb_ratio_l=50.0, estimation_dir=str(tmp_path / "e"))
    with pytest.raises(ConfigError, match="without a labeled image"):
        load_or_estimate(wanted, ALONE)
    assert not (tmp_path / "e").exists()


def test_an_estimate_of_an_earlier_recipe_is_not_taken_for_a_new_one(tmp_path, monkeypatch):
    now = estimate_path(config(tmp_path))
    monkeypatch.setattr(estimation, "RECIPE", 1)
    assert estimate_path(config(tmp_path)) != now


def test_what_is_printed_after_an_estimation_leads_a_run_to_it(tmp_path):
    for c in (
        config(tmp_path),
        EstimateConfig(),
        config(tmp_path, alpha=0.75),
        config(tmp_path, batch_size=64),
    ):
        flags = (
            how_to_use(c).removeprefix("--est estimates by another recipe, so ").removeprefix("train with ")
        )
        data = (
            " ".join(f"--{name} {value}" for name, value in DATA_FLAGS.items())
            if c != EstimateConfig()
            else ""
        )
        words = flags.removesuffix(" and the same data flags").split() + data.split()
        run: Config = parse(words, "", Config)[0]
        assert run.est
        assert estimate_source(run) == str(estimate_path(c))


@pytest.mark.parametrize("numbers", [[1, 3], [[0.25, 0.75]], [[1.0], [3.0]]])
def test_published_estimates_are_read_from_npy_and_normalised(tmp_path, numbers):
    path = tmp_path / "q.npy"
    np.save(path, np.array(numbers))
    run: Config = parse(["--est", str(path), "--darp"], "", Config)[0]
    assert (run.est, run.est_from) == (True, str(path))
    assert estimated_dist(run, ALONE) == [0.25, 0.75]
    assert estimate_source(run) == str(path)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize(
    "numbers",
    [
        [0.5, -0.5],
        [0.0, 0.0],
        [np.nan, 1.0],
        [np.inf, 1.0],
        [[1, 2], [3, 4]],
        ["a", "b"],
        3.0,
        [True, False],
        None,
    ],
)
def test_a_npy_that_is_no_distribution_is_told_in_one_line(tmp_path, monkeypatch, numbers):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "q.npy"
    np.save(path, np.array([Bomb()] if numbers is None else numbers), allow_pickle=True)
    with pytest.raises(
        ConfigError, match=r"^--est .*q\.npy: .*give a \.npy file of K finite numbers"
    ) as error:
        read_estimate(path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [None, b"", b"no numbers"])
def test_a_npy_that_is_missing_or_damaged_is_told_in_one_line(tmp_path, content):
    path = tmp_path / "q.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"^--est .*q\.npy: .*give a \.npy file"):
        read_estimate(path)


def test_half_of_a_small_class_is_held_out_from_its_end_and_no_image_twice():
    labels = torch.tensor([0] * 30 + [1] * 7 + [2])
    held, rest = hold_out(labels, 10)
    assert held.tolist() == [*range(20, 30), *range(34, 37)]
    assert sorted([*held.tolist(), *rest.tolist()]) == list(range(38))


def test_labeled_images_in_the_unlabeled_set_count_as_they_are():
    assert target_for([8, 2], 110, False, None) == [88, 22]
    np.testing.assert_allclose(target_for([8, 2], 110, True, [0.3, 0.7]), [0.3 * 100 + 8, 0.7 * 100 + 2])
    np.testing.assert_allclose(target_for([8, 2], 100, False, [0.3, 0.7]), [30, 70])


def test_the_estimate_of_another_data_set_is_refused():
    with pytest.raises(ConfigError, match="the estimate has 3 classes and the data set 2"):
        target_for([8, 2], 100, False, [0.3, 0.3, 0.4])


def test_a_run_with_est_aims_at_the_estimate_and_makes_it_when_it_is_missing(tmp_path):
    flags = TINY | {
        "num_max": 20,
        "ratio": 3.0,
        "imb_ratio_l": 4.0,
        "refine": "darp",
        "est": True,
        "est_epochs": 2,
    }
    run = Config(**flags, est_val_iteration=20, th_cond=1e9, estimation_dir=str(tmp_path))
    path = estimate_path(estimate_config(run))
    assert not path.exists()
    dist = estimated_dist(run, ALONE)
    assert dist == json.loads(path.read_text())["dist"]
    job = build_job(run, CPU, dist)
    assert sum(job.target_counts) == pytest.approx(len(job.store.orig))
    labeled = np.array(job.split.counts_x)
    expected = np.array(dist) * (len(job.store.orig) - labeled.sum()) + labeled
    np.testing.assert_allclose(job.target_counts, expected)
