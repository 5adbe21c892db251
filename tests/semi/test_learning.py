"""Unlabeled images help: trained on a few labels of the digits, each method beats the same network without them."""

from typing import Any

import pytest
import torch

from semi.config import Config
from tests.semi.runs import train

SETTING: dict[str, Any] = {
    "dataset": "digits",
    "arch": "small",
    "num_max": 3,
    "ratio": 40.0,
    "imb_ratio_l": 1.0,
    "imb_ratio_u": 1.0,
    "shuffle_split": "0",
    "epochs": 5,
    "val_iteration": 100,
    "batch_size": 32,
    "warm": 1,
    "tau": 0.8,
    "align": True,
    "ema_decay": 0.95,
    "gpu": "cpu",
}
MARGIN = 0.03  # measured: at least 0.07 for every method


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def supervised(tmp_path_factory) -> float:
    """The best accuracy of any epoch, so that the comparison favours it."""
    rows = train(Config(**SETTING, semi_method="sup", out=str(tmp_path_factory.mktemp("sup"))))
    return max(row["test/acc"] for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("darp", [False, True])
@pytest.mark.parametrize("method", ["mix", "remix", "fix"])
def test_a_method_reaches_what_labels_alone_do_not(tmp_path, supervised, method, darp):
    last = train(Config(**SETTING, semi_method=method, refine="darp" if darp else "none", out=str(tmp_path)))[
        -1
    ]
    assert last["test/acc"] > supervised + MARGIN
    if darp:
        assert last["pseudo/refined/tv_true"] < last["pseudo/orig/tv_true"]
        assert last["darp/unconverged"] == 0
