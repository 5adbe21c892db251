import json
from typing import Any

import numpy as np
import pytest
import torch

from semi import estimation
from semi.commands import estimated_dist
from semi.config import Config, ConfigError, EstimateConfig
from semi.estimation import NotIdentifiable, estimate_config, estimate_path, hold_out, load_or_estimate
from semi.job import build_job, target_for
from tests.semi.runs import TINY

CPU = torch.device("cpu")


def config(tmp_path, **changes) -> EstimateConfig:
    small: dict[str, Any] = {
        "dataset": "digits", "arch": "small", "num_max": 40, "ratio": 2.0, "imb_ratio_l": 5.0, "imb_ratio_u": 1.0,
        "epochs": 10, "val_iteration": 60, "shuffle_split": "0", "gpu": "cpu", "estimation_dir": str(tmp_path),
    }  # fmt: skip
    return EstimateConfig(**(small | changes))


def test_the_estimate_is_nearer_to_the_truth_than_the_labeled_distribution(tmp_path):
    record = load_or_estimate(config(tmp_path), CPU)
    assert record["tv_true"] < 0.8 * record["tv_true_of_labeled_prior"]
    assert sum(record["dist"]) == pytest.approx(1)
    assert record["heldout_counts"][0] == 10
    assert 0 <= record["accepted_epochs"] <= 10


def test_an_estimate_is_cached_and_made_once(tmp_path, monkeypatch):
    wanted = config(tmp_path, epochs=2, val_iteration=2, th_cond=1e9)
    first = load_or_estimate(wanted, CPU)
    monkeypatch.setattr(estimation, "run_estimation", lambda *_: pytest.fail("estimated again"))
    assert load_or_estimate(wanted, CPU) == first


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
            config(tmp_path, num_max=1, ratio=50.0, imb_ratio_l=1.0, epochs=1, val_iteration=1), CPU
        )


@pytest.mark.parametrize("content", ["", "{}", '{"dist": [1], "class_names": []}', "[1]"])
def test_a_damaged_cache_is_named_and_kept(tmp_path, content):
    wanted = config(tmp_path)
    estimate_path(wanted).write_text(content)
    with pytest.raises(ConfigError, match="is not an estimate; move it away"):
        load_or_estimate(wanted, CPU)
    assert estimate_path(wanted).read_text() == content


def test_half_of_a_small_class_is_held_out_and_no_image_twice():
    labels = torch.tensor([0] * 30 + [1] * 7 + [2])
    held, rest = hold_out(labels, 10)
    assert torch.bincount(labels[held], minlength=3).tolist() == [10, 3, 0]
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
    dist = estimated_dist(run, CPU)
    assert dist == json.loads(path.read_text())["dist"]
    job = build_job(run, CPU, dist)
    assert sum(job.target_counts) == pytest.approx(len(job.store.orig))
    labeled = np.array(job.split.counts_x)
    expected = np.array(dist) * (len(job.store.orig) - labeled.sum()) + labeled
    np.testing.assert_allclose(job.target_counts, expected)
