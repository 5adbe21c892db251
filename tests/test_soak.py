"""The short form of `make soak`: one run that is killed a few times, and an hour's growth in seconds."""

import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from semi import checkpoint
from semi.cli import parse
from semi.config import Config
from semi.run_folder import run_folder
from tests.semi.runs import train
from tests.soak import Growth, Kind, Report, Sample, Twin, compare, differences, growth, lines, run_and_kill

pytestmark = pytest.mark.slow


def trained(kind: Kind, out: Path, *trackers: Any) -> Twin:
    """A run in this process, as the soak's command would train it."""
    c: Config = parse(kind.command(out)[2:], "", Config)[0]
    train(c, *trackers)
    return Twin(
        lines(out / "r"), checkpoint.load(run_folder(c) / "checkpoint.pt"), start_s=3.0, training_s=2.0
    )


class Sampling:
    """A tracker that notes what this process takes after each epoch."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def start(self, config, state, first_epoch):
        pass

    def log(self, row):
        self.samples.append(Sample.of(os.getpid(), row["epoch"] + 1))

    def state_dict(self):
        return {}

    def finish(self, exit_code):
        pass


def test_a_run_that_is_killed_at_random_moments_ends_as_its_twin(tmp_path):
    kind, report = Kind("remix", True), Report()
    twin = trained(kind, tmp_path / "twin")
    kills = run_and_kill(kind, twin, tmp_path / "run", 3, random.Random(0), report, lambda: None)
    assert report.failures == []
    assert 1 <= kills <= 3, "a run may come to its end before its last kill"


def test_sixty_epochs_take_neither_more_memory_nor_more_handles_at_their_end(tmp_path):
    sampling = Sampling()
    trained(Kind("fix", True, epochs=60, steps=1), tmp_path, sampling)
    flat = growth(sampling.samples)
    assert flat.handles[1] <= flat.handles[0]
    assert flat.memory[1] <= 1.05 * flat.memory[0]


def test_the_soak_sees_a_doubled_epoch_another_number_and_another_weight(tmp_path):
    twin = trained(Kind("sup", False), tmp_path)
    folder, metrics = tmp_path / "r", tmp_path / "r" / "metrics.jsonl"
    assert compare(folder, twin) == ""
    text = metrics.read_text()
    metrics.write_text(text + text.splitlines()[-1] + "\n")
    assert compare(folder, twin) == "its epochs are [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]"
    metrics.write_text(text.replace('"best/bacc": 0.', '"best/bacc": 1.', 1))
    assert compare(folder, twin) == "epoch 0: best/bacc differ"
    metrics.write_text(text)
    state = checkpoint.load(folder / "checkpoint.pt")
    name, weight = next(iter(state["ema"].items()))
    weight[(0,) * weight.ndim].nextafter_(torch.tensor(9.0))
    checkpoint.save(folder / "checkpoint.pt", state)
    assert compare(folder, twin) == f"the final checkpoint differs in /ema/{name}"


def test_growth_is_told_from_the_first_part_to_the_last():
    flat = growth([Sample(epoch, 100.0, 9, 0.1 * epoch) for epoch in range(1, 101)])
    assert flat.failures() == []
    leaking = growth([Sample(epoch, 100.0 + epoch, 9 + epoch, 0.001 * epoch**2) for epoch in range(1, 101)])
    assert len(leaking.failures()) == 3
    assert Growth((100.0, 104.0), (9, 8), (0.1, 0.12)).failures() == []


def test_checkpoints_of_other_shapes_types_or_parts_differ():
    one = {"a": torch.zeros(2), "b": [1, 2.0]}
    assert list(differences(one, {"a": torch.zeros(2), "b": [1, 2.0]})) == []
    assert list(differences(one, {"a": torch.zeros(3), "b": [1, 2.0]})) == ["/a"]
    assert list(differences(one, {"a": torch.zeros(2).double(), "b": [1, 2.0]})) == ["/a"]
    assert list(differences(one, {"a": torch.zeros(2), "b": [1, 3.0]})) == ["/b/1"]
    assert list(differences(one, {"a": torch.zeros(2)})) == [""]
