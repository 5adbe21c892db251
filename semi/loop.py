"""Training, from the top: `run`, `train_epoch`, `train_step`. One loop for all methods, data sets and trackers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from darp.pseudo_labels import pseudo_label_metrics
from data import Batch
from semi import stopping
from semi.device import Stopwatch
from semi.distributed import OfFirst, Ranks
from semi.epoch import EpochSoFar
from semi.evaluate import confusion, predict, scores
from semi.graph import STEPS, Halves, capture_of, recorded
from semi.job import Job, describe, never_refines, other_schedule
from semi.lock import claimed
from semi.losses import shifted
from semi.methods import Losses
from semi.profiling import NO_PROFILE, STEP_PARTS, NoProfile, profile_of
from semi.progress import Progress
from semi.run_folder import ResumePoint, refuse_if_moved_on, set_aside
from semi.saving import Checkpoints, keep_best
from semi.snapshot import restore
from tracking.alerts import HOPELESS_EXIT
from tracking.base import Tracker

DECAY = 0.02  # each step shrinks the weights by DECAY * lr, as MixMatch's code did
LOSS_CHECKS = 10  # times an epoch that the loss is looked at; each of them waits for the device


def run(job: Job, folder: Path, resume_from: ResumePoint | None, tracker: Tracker) -> None:
    """Train `job`; `folder` gets the checkpoint, `tracker` one row an epoch.

    Raises ConfigError or CheckpointError, one line each, before anything is written.
    """
    config, first_epoch, partial, tracker_state = job.config, job.config.start_epoch, None, {}
    ranks, tracker = job.ranks, OfFirst(tracker, job.ranks)
    if resume_from:
        first_epoch = ranks.together(lambda: restore(job, resume_from))
        partial = resume_from.state.get("partial")
        tracker_state = resume_from.state.get("tracker", {})
    if first_epoch >= config.epochs:
        ranks.say(f"nothing to train: epoch {config.epochs - 1} is done; raise --epochs to go on")
        if first_epoch == config.epochs:  # a process that was killed at its end may have left a row unsent
            with ranks.on_first(claimed(folder)):
                ranks.by_first(lambda: refuse_if_moved_on(folder, resume_from))
                tracker.start(describe(job) | {"run_name": folder.name}, tracker_state, first_epoch)
                tracker.finish(0)
        return
    with ranks.on_first(claimed(folder, overwrite=config.overwrite and not resume_from)):
        ranks.by_first(lambda: take_over(job, folder, resume_from))
        tracker.start(describe(job) | {"run_name": folder.name}, tracker_state, first_epoch)
        schedule = other_schedule(job, resume_from.state) if resume_from else ""
        for sentence in filter(None, (schedule, never_refines(config))):  # last, where they are seen
            ranks.say(sentence)
        job.learner = ranks.replicated(job.learner)
        exit_code = 1
        try:
            so_far = EpochSoFar(job.device, partial)  # here, because its time begins with it
            with ranks.naming_the_missing():  # before trackers hear of the end, which may take them a while
                train_epochs(job, folder, first_epoch, so_far, tracker)
            exit_code = 0
        except SystemExit as stop:
            exit_code = stop.code if isinstance(stop.code, int) else 1
            raise
        finally:
            tracker.finish(exit_code)


def take_over(job: Job, folder: Path, resume_from: ResumePoint | None) -> None:
    """What the one process that writes to the folder does before the first step."""
    refuse_if_moved_on(folder, resume_from)
    if not resume_from:
        return
    set_aside(resume_from)
    if resume_from.path.parent == folder and not resume_from.state.get("partial"):
        keep_best(job, resume_from.path, folder)  # a kill may have come before it was linked


def train_epochs(job: Job, folder: Path, first_epoch: int, so_far: EpochSoFar, tracker: Tracker) -> None:
    """Train from `first_epoch` on, in which `so_far` is done.

    Raises SystemExit: at a request to stop, with the state saved; when the loss is not finite; and at the end when
    the disk did not take all of it.
    """
    config, ranks, checkpoints = job.config, job.ranks, Checkpoints(job, folder, tracker)
    steps = config.val_iteration
    profile = profile_of(config, folder, job.device) if ranks.is_first else NO_PROFILE
    done_steps = first_epoch * steps + so_far.step
    with so_far.timed("between"):
        record_step(job)
    with stopping.held(), Progress(config.epochs * steps, done_steps, shown=ranks.is_first) as progress:
        for epoch in range(first_epoch, config.epochs):
            broken = train_epoch(job, epoch, so_far, progress, checkpoints, profile)
            row = finish_epoch(job, epoch, so_far)
            # Logging and saving belong to the next row's time: this row cannot tell what its own logging takes.
            done, so_far = so_far, EpochSoFar(job.device)
            with so_far.timed("log"):
                tracker.log(row)
                profile.epoch(row, done.seconds())
            if broken or (config.nan == "stop" and not is_finite(job, done)):
                end_as_not_finite(row, folder, ranks)
            with so_far.timed("checkpoint"):
                checkpoints.save(epoch)
            progress.epoch(row, config.epochs)
            stopping.end_if_requested(ranks.largest(stopping.waiting()))
    if checkpoints.behind or tracker.state_dict().get("unwritten_rows"):
        ranks.say(
            f"{checkpoints.behind or folder}: the end of the run could not be written; make room and go on with "
            "--resume auto, which trains again what is missing"
        )
        raise SystemExit(1)


def train_epoch(
    job: Job,
    epoch: int,
    so_far: EpochSoFar,
    progress: Progress,
    checkpoints: Checkpoints | None = None,
    profile: NoProfile = NO_PROFILE,
) -> bool:
    """The steps of an epoch that are still to do; True when the loss is not finite any more and that ends the run."""
    steps = job.config.val_iteration
    stops = job.config.nan == "stop"
    job.model.train()
    so_far.watch.start()
    while so_far.step < steps:
        so_far.add(train_step(job, epoch, so_far.step, so_far.watch))
        progress.step()
        profile.step()
        due = checkpoints is not None and job.ranks.largest(checkpoints.pace.due()) > 0
        if stops and (due or so_far.step % max(1, steps // LOSS_CHECKS) == 0) and not is_finite(job, so_far):
            return True
        if checkpoints is not None and due:
            with so_far.timed("checkpoint"):
                checkpoints.save(epoch - 1, so_far)
            stopping.end_if_requested(job.ranks.largest(stopping.waiting()))
    return False


def is_finite(job: Job, so_far: EpochSoFar) -> bool:
    """Whether every loss of the epoch was finite, and every weight is. Waits for the device."""
    weights = torch.stack(torch._foreach_norm([p.detach() for p in job.model.parameters()]))
    finite = bool(torch.isfinite(so_far.total()) & torch.isfinite(weights).all())
    return job.ranks.largest(not finite) == 0


def end_as_not_finite(row: dict[str, Any], folder: Path, ranks: Ranks) -> NoReturn:
    """End the run without a checkpoint of its lost weights."""
    ranks.say(
        f"the loss or a weight is not finite in epoch {row['epoch']}: the run ends (exit code {HOPELESS_EXIT}), and "
        f"{folder} keeps the checkpoint before. Start again with a smaller --lr, then a smaller --lambda-u or --ratio; "
        "--nan continue trains on regardless"
    )
    raise SystemExit(HOPELESS_EXIT)


def finish_epoch(job: Job, epoch: int, so_far: EpochSoFar) -> dict[str, Any]:
    """The row of an epoch: its losses, the scores of the averaged weights, its times."""
    so_far.watch.charge("between")
    seconds = dict.fromkeys(("data", "refine", *STEP_PARTS, "log", "checkpoint"), 0.0) | so_far.seconds()
    trained = so_far.elapsed()
    row: dict[str, Any] = {"epoch": epoch, "lr": job.config.lr}
    row |= {f"loss/{name}": mean for name, mean in so_far.losses(job.ranks).items()}
    row |= evaluate(job)
    row |= job.refiner.health()
    row |= {f"method/{name}": value for name, value in job.method.metrics().items()}
    now = so_far.elapsed()
    step = sum(seconds[part] for part in STEP_PARTS)
    row |= {"time/data": seconds["data"], "time/step": step, "time/refine": seconds["refine"]}
    row |= {"time/eval": now - trained, "time/log": seconds["log"], "time/checkpoint": seconds["checkpoint"]}
    row |= {"time/epoch": now, "data_time": seconds["data"] / so_far.step}
    training = seconds["data"] + step + seconds["refine"]
    row["throughput/images_per_s"] = 2 * job.config.batch_size * so_far.step / training
    return row


def train_step(job: Job, epoch: int, step: int, watch: Stopwatch) -> Losses:
    """One batch: guess, refine, learn. Only a refinement's test of convergence waits for the device.

    `guess` and `learn` are those below; on a GPU their recordings (`record_step`).
    """
    config, halves = job.config, job.recorded or unrecorded(job)
    watch.charge("between")
    batch = job.loader.next()
    watch.charge("data")
    probs = halves.guess(batch)  # [B, K]
    watch.charge("guess")
    targets = job.refiner.targets(batch.index_u, probs, epoch, step)  # [B, K]
    watch.charge("refine")
    done = (epoch + step / config.val_iteration) / config.epochs
    progress = torch.full((), done, dtype=torch.float64, device=job.device)
    return halves.learn(batch, targets, progress, watch)


def guess(job: Job, batch: Batch) -> Tensor:
    """Predictions [B, K] for the unlabeled images, and their rows in the table."""
    probs = job.method.guess(job.model, batch)
    job.store.update(batch.index_u, probs)
    job.refiner.look(job.model)
    return probs


def learn(job: Job, batch: Batch, targets: Tensor, progress: Tensor, watch: Stopwatch) -> Losses:
    """Losses, gradients, Adam, averaged weights. Nothing that the host decides is in here, so it may be recorded."""
    losses = Losses(**job.learner(batch, targets, progress))
    watch.charge("forward")
    job.optimizer.zero_grad(set_to_none=True)
    losses.total.backward()
    watch.charge("backward")
    job.optimizer.step()
    with torch.no_grad():
        torch._foreach_mul_(list(job.model.parameters()), 1 - DECAY * job.config.lr)
    watch.charge("optimizer")
    job.ranks.mean_(job.statistics)
    job.ema.update()
    watch.charge("ema")
    return losses


def unrecorded(job: Job) -> Halves:
    return Halves(partial(guess, job), partial(learn, job))


def record_step(job: Job) -> None:
    """Where --graph has it, let a recording of the two halves take their place: two launches in place of hundreds."""
    capture = capture_of(job.config.graph, job.device)
    if capture is None or job.ranks.size > 1:
        return
    job.model.train()
    before = job.loader.state_dict()
    batches = [job.loader.next() for _ in range(STEPS)]
    job.loader.load_state_dict(before)
    job.recorded, fault = recorded(unrecorded(job), partial(changed_by_a_step, job), batches, capture)
    if fault:
        job.ranks.say(f"--graph auto: steps are launched operation by operation ({fault})")


def changed_by_a_step(job: Job) -> dict[str, Tensor]:
    """Every tensor that `guess` and `learn` write to, by PART/NAME."""
    changed: dict[str, Tensor] = {}
    for model, whose in ((job.model, ""), (job.ema.model, "averaged ")):
        changed |= {f"{whose}weights/{name}": weight for name, weight in model.named_parameters()}
        for name, buffer in model.named_buffers():
            kind = "statistics" if buffer.is_floating_point() else "counters"
            changed[f"{whose}{kind}/{name}"] = buffer
    for number, state in job.optimizer.state_dict()["state"].items():
        changed |= {f"Adam's {name}/{number}": tensor for name, tensor in state.items()}
    for whose, state in (("method's", job.method.state_dict()), ("refinery's", job.refiner.state_dict())):
        changed |= {f"{whose} {name}/": value for name, value in state.items() if isinstance(value, Tensor)}
    return changed | {"table/": job.store.orig, "visited rows/": job.store.visited}


def evaluate(job: Job) -> dict[str, Any]:
    """Test scores of the averaged weights, and the state of the pseudo-labels."""
    logits = predict(job.ema.model, job.test_images)
    shift = job.refiner.test_shift(job.ema.model)
    counts, loss = confusion(shifted(logits, shift), job.test_labels, job.ranks)
    test, job.confusions = scores(counts), {"test": counts}
    job.recent.append((test["bacc"], test["gm"]))
    job.best_bacc = max(job.best_bacc, test["bacc"])
    row: dict[str, Any] = {f"test/{name}": value for name, value in test.items()}
    row["test/loss"] = loss
    if shift is not None:
        raw, _ = confusion(logits, job.test_labels, job.ranks)
        row |= {f"test_raw/{name}": value for name, value in scores(raw).items()}
    row["best/bacc"] = job.best_bacc
    bacc, gm = zip(*job.recent, strict=True)
    row |= {"last20/bacc": sum(bacc) / len(bacc), "last20/gm": sum(gm) / len(gm)}
    store, aims_at = job.store, job.refiner.target_counts
    return row | pseudo_label_metrics(
        store.orig,
        store.refined,
        store.visited,
        job.target_counts if aims_at is None else aims_at.tolist(),
        job.true_labels,
        job.config.tau,
        job.ranks.sum_,
        job.confusions,
        job.method.selects,
    )
