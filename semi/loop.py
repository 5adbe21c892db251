"""Training, from the top: `run`, `train_epoch`, `train_step`. One loop for all methods, data sets and trackers."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semi import checkpoint, stopping
from semi.checkpoint import BEST_FILE, CHECKPOINT_FILE, PREVIOUS_FILE
from semi.device import Stopwatch
from semi.evaluate import confusion, scores
from semi.job import Job, describe, never_refines, other_schedule, restore, snapshot
from semi.lock import claimed
from semi.methods import Losses
from semi.progress import Progress
from semi.run_folder import ResumePoint, refuse_if_moved_on, set_aside
from tracking.base import Tracker
from tracking.row import pseudo_label_metrics

DECAY = 0.02  # each step shrinks the weights by DECAY * lr, as MixMatch's code did


def run(job: Job, folder: Path, resume_from: ResumePoint | None, tracker: Tracker) -> None:
    """Train `job`; `folder` gets the checkpoint, `tracker` one row an epoch.

    Raises ConfigError or CheckpointError, one line each, before anything is written.
    """
    config, first_epoch, tracker_state = job.config, job.config.start_epoch, {}
    if resume_from:
        first_epoch, tracker_state = restore(job, resume_from), resume_from.state.get("tracker", {})
    if first_epoch >= config.epochs:
        print(
            f"nothing to train: epoch {config.epochs - 1} is done; raise --epochs to go on", file=sys.stderr
        )
        if first_epoch == config.epochs:  # a process that was killed at its end may have left a row unsent
            tracker.start(describe(job) | {"run_name": folder.name}, tracker_state, first_epoch)
            tracker.finish(0)
        return
    with claimed(folder, overwrite=config.overwrite and not resume_from):
        refuse_if_moved_on(folder, resume_from)
        if resume_from:
            set_aside(resume_from)
            if resume_from.path.parent == folder:
                keep_best(job, resume_from.path, folder)  # a kill may have come before it was linked
        tracker.start(describe(job) | {"run_name": folder.name}, tracker_state, first_epoch)
        schedule = other_schedule(job, resume_from.state) if resume_from else ""
        for sentence in filter(None, (schedule, never_refines(config))):  # last, where they are seen
            print(sentence, file=sys.stderr)
        train_epochs(job, folder, first_epoch, tracker)


def train_epochs(job: Job, folder: Path, first_epoch: int, tracker: Tracker) -> None:
    """Train from `first_epoch` on; `tracker` hears of the end, however it comes."""
    config = job.config
    exit_code = 1
    try:
        with Progress(config.epochs * config.val_iteration, first_epoch * config.val_iteration) as progress:
            overhead = {"time/log": 0.0, "time/checkpoint": 0.0}
            for epoch in range(first_epoch, config.epochs):
                row = train_epoch(job, epoch, progress) | overhead
                with stopping.held():
                    begin = time.perf_counter()
                    tracker.log(row)
                    logged = time.perf_counter()
                    keep(job, epoch, folder, tracker)
                    overhead = {"time/log": logged - begin, "time/checkpoint": time.perf_counter() - logged}
                progress.epoch(row, config.epochs)
        exit_code = 0
    except SystemExit as stop:
        exit_code = stop.code if isinstance(stop.code, int) else 1
        raise
    finally:
        tracker.finish(exit_code)


def keep(job: Job, epoch: int, folder: Path, tracker: Tracker) -> None:
    """`checkpoint.pt` of this epoch, the one before as `checkpoint.prev.pt`, and `best.pt`."""
    path = folder / CHECKPOINT_FILE
    state = snapshot(job, epoch) | {"tracker": tracker.state_dict()}
    if path.exists():
        checkpoint.link(path, folder / PREVIOUS_FILE)
    checkpoint.save(path, state)
    keep_best(job, path, folder)


def keep_best(job: Job, path: Path, folder: Path) -> None:
    """`best.pt` is the checkpoint of the epoch whose test/bacc is the largest so far."""
    if job.recent and job.recent[-1][0] == job.best_bacc:
        checkpoint.link(path, folder / BEST_FILE)


def train_epoch(job: Job, epoch: int, progress: Progress) -> dict[str, Any]:
    """`val_iteration` steps, then the scores of the averaged weights: one row."""
    steps = job.config.val_iteration
    begin = time.perf_counter()
    watch = Stopwatch(job.device)
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=job.device))
    job.model.train()
    for step in range(steps):
        losses = train_step(job, epoch, step, watch)
        for part in fields(losses):
            if (value := getattr(losses, part.name)) is not None:
                sums[part.name] += value.detach()  # on the device: nothing waits
        progress.step()
    seconds = watch.read()
    trained = time.perf_counter()
    row: dict[str, Any] = {"epoch": epoch, "lr": job.config.lr}
    row |= {f"loss/{name}": float(total) / steps for name, total in sums.items()}
    row |= evaluate(job)
    row |= job.refiner.health()
    now = time.perf_counter()
    row |= {f"time/{name}": value for name, value in seconds.items()}
    row |= {"time/eval": now - trained, "time/epoch": now - begin, "data_time": seconds["data"] / steps}
    row["throughput/images_per_s"] = 2 * job.config.batch_size * steps / (trained - begin)
    return row


def train_step(job: Job, epoch: int, step: int, watch: Stopwatch) -> Losses:
    """One batch: guess, store, refine, learn. Only a refinement's test of convergence waits for the device."""
    config = job.config
    watch.start()
    batch = job.loader.next()
    watch.charge("data")
    probs = job.method.guess(job.model, batch)  # [B, K]
    job.store.update(batch.index_u, probs)
    watch.charge("step")
    targets = job.refiner.targets(batch.index_u, probs, epoch, step)  # [B, K]
    watch.charge("refine")
    progress = (epoch + step / config.val_iteration) / config.epochs
    losses = job.method.losses(job.model, batch, targets, progress)
    job.optimizer.zero_grad(set_to_none=True)
    losses.total.backward()
    job.optimizer.step()
    with torch.no_grad():
        torch._foreach_mul_(list(job.model.parameters()), 1 - DECAY * config.lr)
    job.ema.update()
    watch.charge("step")
    return losses


def evaluate(job: Job) -> dict[str, Any]:
    """Test scores of the averaged weights, and the state of the pseudo-labels."""
    counts, loss = confusion(job.ema.model, job.test_images, job.test_labels)
    test = scores(counts)
    job.recent.append((test["bacc"], test["gm"]))
    job.best_bacc = max(job.best_bacc, test["bacc"])
    row: dict[str, Any] = {f"test/{name}": value for name, value in test.items()}
    row["test/loss"] = loss
    row["best/bacc"] = job.best_bacc
    bacc, gm = zip(*job.recent, strict=True)
    row |= {"last20/bacc": sum(bacc) / len(bacc), "last20/gm": sum(gm) / len(gm)}
    store = job.store
    return row | pseudo_label_metrics(
        store.orig, store.refined, store.visited, job.target_counts, job.true_labels, job.config.tau
    )
