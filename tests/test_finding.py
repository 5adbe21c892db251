"""The finding, on real images: the presets of the README, trained for real, three seeds."""

from pathlib import Path
from typing import Any

import pytest
import torch

from semi.cli import parse
from semi.config import Config
from tests.semi.runs import train

ROOT = Path(__file__).parents[1]
SEEDS = (0, 1, 2)
RUNS = [
    (regime, darp, seed)
    for seed in SEEDS
    for regime, darp in (("many", False), ("few", False), ("few", True))
]


def last_row(out: Path, regime: str, darp: bool, seed: int) -> dict[str, Any]:
    preset = ROOT / "configs" / f"digits_regime_{regime}.yaml"
    flags = [f"--config={preset}", f"--darp={darp}", f"--seed={seed}", f"--out={out}", "--gpu=cpu"]
    return train(parse(flags, "test", Config)[0])[-1]


@pytest.fixture(scope="module")
def final(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool, int], dict[str, Any]]:
    out, threads = tmp_path_factory.mktemp("finding"), torch.get_num_threads()
    torch.set_num_threads(1)
    rows = {run: last_row(out, *run) for run in RUNS}
    torch.set_num_threads(threads)
    return rows


# Nine trainings, some 5 minutes on one idle core: a busy machine needs more than the default limit.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.parametrize("seed", SEEDS)]


def test_few_labels_put_the_pseudo_labels_three_times_further_from_the_truth_than_many(final, seed):
    few, many = final["few", False, seed], final["many", False, seed]
    assert few["pseudo/orig/tv_true"] >= 3 * many["pseudo/orig/tv_true"]


def test_darp_brings_the_pseudo_labels_three_times_nearer_to_the_truth(final, seed):
    raw, repaired = final["few", False, seed], final["few", True, seed]
    assert repaired["pseudo/orig/tv_true"] <= raw["pseudo/orig/tv_true"] / 3
    assert repaired["pseudo/refined/tv_true"] < 0.001


def test_darp_raises_the_accuracy(final, seed):
    raw, repaired = final["few", False, seed], final["few", True, seed]
    assert repaired["test/acc"] > raw["test/acc"]
