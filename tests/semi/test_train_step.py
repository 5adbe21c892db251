"""What the loop itself does in a step and an epoch, seen with a method that the test makes up."""

import pytest
import torch

from semi.config import Config
from semi.device import Stopwatch
from semi.epoch import EpochSoFar
from semi.job import build_job
from semi.learner import Learner
from semi.loop import DECAY, evaluate, finish_epoch, train_epoch, train_step
from semi.methods import Losses
from semi.methods.supervised import Supervised
from semi.progress import Progress
from tests.semi.runs import TINY


class Counting(Supervised):
    """Loss k in the k-th step (k = 1, 2, ...) with no gradient; notes what it is given."""

    def __init__(self) -> None:
        self.progress: list[float] = []
        self.trained_in: list[bool] = []

    def guess(self, model, batch):
        return torch.full((len(batch.index_u), 10), 0.1)

    def losses(self, model, batch, targets, progress):
        self.progress.append(progress)
        self.trained_in.append(model.training)
        nothing = sum(p.sum() for p in model.parameters()) * 0
        return Losses(total=nothing + len(self.progress), x=nothing + 10.0 * len(self.progress))


def job_of(method, **changes):
    job = build_job(Config(**(TINY | changes)), torch.device("cpu"))
    job.method = method
    job.learner = Learner(method, job.model)
    return job


def test_an_epochs_losses_are_the_means_of_its_steps():
    job = job_of(Counting(), val_iteration=4)
    with Progress(4, 0) as progress:
        so_far = EpochSoFar(job.device)
        assert not train_epoch(job, 0, so_far, progress)
    row = finish_epoch(job, 0, so_far)
    assert row["loss/total"] == (1 + 2 + 3 + 4) / 4
    assert row["loss/x"] == 10 * (1 + 2 + 3 + 4) / 4
    assert "loss/u" not in row


def test_the_reported_score_is_the_mean_of_the_last_twenty_epochs():
    job = job_of(Counting())
    before = [(k / 100, k / 200) for k in range(1, 26)]
    job.recent.extend(before)
    row = evaluate(job)
    window = [*before[-19:], (row["test/bacc"], row["test/gm"])]
    for place, name in enumerate(("bacc", "gm")):
        assert row[f"last20/{name}"] == pytest.approx(sum(pair[place] for pair in window) / 20)


def test_training_progress_runs_over_all_epochs_and_in_train_mode_whatever_was_done_to_the_model_before():
    job = job_of(Counting(), val_iteration=4, epochs=2)
    job.model.eval()
    with Progress(8, 0) as progress:
        for epoch in range(2):
            train_epoch(job, epoch, EpochSoFar(job.device), progress)
    assert job.method.progress == [k / 8 for k in range(8)]
    assert all(job.method.trained_in)


def test_a_step_shrinks_the_weights_but_not_the_statistics_of_batch_norm():
    job = job_of(Counting(), lr=0.5)
    before = {name: value.clone() for name, value in job.model.named_parameters()}
    buffers = {name: value.clone() for name, value in job.model.named_buffers()}
    assert buffers
    train_step(job, 0, 0, Stopwatch(job.device))
    for name, value in job.model.named_parameters():
        assert torch.allclose(value, before[name] * (1 - DECAY * 0.5)), name
    for name, value in job.model.named_buffers():
        assert torch.equal(value, buffers[name]), name


def test_the_averaged_weights_follow_each_step():
    job = job_of(Counting(), lr=0.5, ema_decay=0.9)
    before = {name: value.clone() for name, value in job.ema.model.named_parameters()}
    train_step(job, 0, 0, Stopwatch(job.device))
    for (name, average), value in zip(job.ema.model.named_parameters(), job.model.parameters(), strict=True):
        assert torch.allclose(average, 0.9 * before[name] + 0.1 * value), name


def test_guesses_land_in_the_store_at_the_rows_of_their_images():
    job = job_of(Counting())
    job.store.orig.zero_()
    train_step(job, 0, 0, Stopwatch(job.device))
    visited = job.store.visited
    assert 0 < int(visited.sum()) <= job.config.batch_size
    assert torch.equal(job.store.orig[visited], torch.full((int(visited.sum()), 10), 0.1))
    assert not job.store.orig[~visited].any()
