"""benchmarks/published_step.py: the published loop learns what this code learns, so their times may be compared."""

import copy
import re
from typing import cast

import pytest
import torch

from benchmarks import published_step
from benchmarks.published_step import (
    PublishedLoop,
    job_of,
    largest_gap,
    lines,
    milliseconds,
    on_host,
    published_way,
)
from data import BatchSource
from semi.device import NoStopwatch
from semi.learner import Learner
from semi.loop import train_step
from semi.methods.fixmatch import FixMatch

CPU = torch.device("cpu")


class OneBatch:
    """A loader that has one batch."""

    def __init__(self, batch) -> None:
        self.batch = batch

    def next(self):
        return self.batch


def test_the_published_step_and_ours_have_the_same_losses_table_gradients_and_averaged_weights():
    job = job_of(2000, CPU, arch="small", batch_size=8, amp="off")
    batch = job.loader.next()
    job.loader = cast(BatchSource, OneBatch(batch))
    job.learner = Learner(FixMatch(0.1), job.model)  # every image counts
    theirs = copy.deepcopy(job.model)
    published = PublishedLoop(theirs, job.store.orig.clone(), 0.1, job.config.lr, job.config.ema_decay)
    published.step(on_host(batch))
    losses = train_step(job, 0, 0, NoStopwatch())
    found = [getattr(losses, name).item() for name in ("total", "x", "u")]
    assert found == pytest.approx(published.sums, rel=1e-5)
    assert min(found) > 0.1
    assert torch.allclose(published.orig, job.store.orig)
    assert torch.equal(published.backup, published.orig)
    learned = 0
    for mine, its, averaged, its_averaged in zip(
        *(model.parameters() for model in (job.model, theirs, job.ema.model, published.averaged)), strict=True
    ):
        if its.grad is None:  # the head that tells rotations
            continue
        assert torch.allclose(mine.grad, its.grad, atol=1e-5)
        # Adam's first step is the sign of the gradient, so where that is rounding the two may go opposite ways.
        clear = its.grad.abs() > 1e-4
        assert torch.allclose(mine[clear], its[clear], atol=1e-5)
        # A step moves an average by (1 - decay) * lr = 2e-6. Theirs averages before it shrinks, which is far less.
        assert torch.allclose(averaged[clear], its_averaged[clear], rtol=0, atol=2e-7)
        learned += int(clear.sum())
    assert learned > 1000


def test_the_ways_take_turns_and_the_first_turn_is_not_counted():
    called = []
    steps = {name: lambda name=name: called.append(name) for name in ("published", "float32")}
    taken = milliseconds(steps, CPU, times=2, number=3)
    assert called == 3 * (3 * ["published"] + 3 * ["float32"])
    assert {name: len(times) for name, times in taken.items()} == {"published": 2, "float32": 2}


def test_ratios_are_those_of_the_same_turn():
    base, ours = lines({"published": [10.0, 20.0, 60.0], "float32": [5.0, 4.0, 6.0]}, batch_size=64)
    assert base["times_published"] == 1
    assert (ours["ms"], ours["times_published"], ours["least_times"], ours["most_times"]) == (5, 5, 2, 10)
    assert ours["images_per_s"] == 2 * 64 / 0.005


def test_the_largest_gap_is_the_longest_time_in_which_nothing_ran():
    """Spans overlap, as those of two streams do, and come in any order."""
    assert largest_gap([(0, 10), (30, 40), (2, 18), (36, 90), (91, 95)]) == 12
    assert largest_gap([(5, 6)]) == 0


def test_the_published_loop_has_torchs_order_of_weights_not_the_one_that_makes_ours_fast():
    job = job_of(2000, CPU, arch="small", batch_size=8, amp="off")
    kernels = [weight for weight in job.model.parameters() if weight.ndim == 4]
    assert not any(weight.is_contiguous() for weight in kernels if weight.shape[1] > 1)
    published_way(job)
    assert all(weight.is_contiguous() for weight in kernels)


def test_a_small_run_prints_each_way_and_keeps_nothing(capsys, monkeypatch):
    monkeypatch.setattr(published_step, "keep", lambda *_: pytest.fail("kept"))
    published_step.main(["--small", "--times", "1", "--device", "cpu"])
    printed = capsys.readouterr().out.splitlines()
    ways = [re.split("  +", line)[0] for line in printed[2:6]]
    assert ways == ["published", "float32, default order", "float32", "bf16"]
    assert printed[-1] == "nothing is kept of a small run"
