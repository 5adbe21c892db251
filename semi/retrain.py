"""cRT: a trained backbone keeps its features, the head is made anew and learns from balanced batches of labels.

Kang et al. 2020 (Decoupling representation and classifier for long-tailed recognition), section 4.1: the head is
re-initialised and trained alone for a few epochs with class-balanced sampling. Kim et al. 2020 add it to DARP.
Here the features are those of the averaged weights, in evaluation mode: batch norm keeps its statistics.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data import DataError, Loader
from models import build_model
from semi import checkpoint, stopping
from semi.checkpoint import CheckpointError
from semi.cli import parse
from semi.config import ConfigError, flag, kinds_of
from semi.device import pick_device
from semi.evaluate import confusion, scores
from semi.load_model import Trained, load_trained
from semi.methods import METHODS
from semi.run_folder import keep_aside
from semi.split import split_for
from tracking.base import Fanout, Tracker
from tracking.local import METRICS_FILE, LocalTracker

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4  # Kang et al., appendix


@dataclass(frozen=True)
class RetrainConfig:
    """The head's training; all else is as the checkpoint's run had it, the seed too."""

    checkpoint: str = flag("", "the checkpoint.pt of a finished run")
    epochs: int = flag(10, "epochs", flags=["epoch"])
    val_iteration: int = flag(
        100, "steps an epoch; then evaluation and one row of the log", flags=["val-iteration"]
    )
    batch_size: int = flag(64, "labeled images a step, as many of each class", flags=["batch-size"])
    lr: float = flag(0.1, "first learning rate of SGD; falls to 0 along a cosine", flags=["learning-rate"])
    gpu: str = flag("0", "number among the visible GPUs; cpu for none")
    data_dir: str = flag("", "folder of the image files; empty: where the run had it", flags=["data-dir"])
    overwrite: bool = flag(False, "retrain again; the old folder is kept beside it")
    wandb: bool = flag(False, "log to W&B too, in the run's group, with the job type crt")

    def __post_init__(self) -> None:
        if not self.checkpoint:
            raise ConfigError("no checkpoint is named; use retrain_head.py RUN_FOLDER/checkpoint.pt")
        for name in ("epochs", "val_iteration", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} {getattr(self, name)}: use 1 or more")
        if not self.lr > 0:
            raise ConfigError(f"--lr {self.lr}: use a number above 0")
        if self.gpu not in ("", "cpu") and not self.gpu.isdecimal():
            raise ConfigError(f"--gpu {self.gpu}: use the number of one GPU, or cpu")


def main(description: str, *option_classes: type, more: Callable[..., Sequence[Tracker]]) -> int:
    """Retrain as the command line says; returns the exit code, 2 for a mistake in it (one line, nothing written).

    `more(folder, *options)` gives the trackers that --wandb adds.
    """
    stopping.install()
    words = sys.argv[1:]
    if words and not words[0].startswith("-"):
        words = [f"--checkpoint={words[0]}", *words[1:]]
    try:
        config, *options = parse(words, description, RetrainConfig, *option_classes)
        folder = folder_for(config)
        device, note = pick_device(config.gpu)
        trained = load_trained(Path(config.checkpoint), device, config.data_dir)
        for line in filter(None, (note, f"run folder: {folder}")):
            print(line, file=sys.stderr)
        others = more(folder, *options) if config.wandb else ()
        retrain(trained, config, folder, Fanout([LocalTracker(folder), *others]))
    except (ConfigError, DataError, CheckpointError) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 2
    return 0


def folder_for(config: RetrainConfig) -> Path:
    """`<run>_crt` beside the run. Raises ConfigError when it holds a retraining that may not be touched."""
    if not Path(config.checkpoint).is_file():
        raise ConfigError(f"{config.checkpoint}: no such file; name the checkpoint.pt in a run's folder")
    run = Path(config.checkpoint).resolve().parent
    folder = run.with_name(f"{run.name}_crt")
    if (folder / METRICS_FILE).exists() and not config.overwrite:
        raise ConfigError(
            f"{folder} already holds a retrained head; use --overwrite (the old one is kept beside it)"
        )
    return folder


def balanced_rows(labels: Tensor) -> Tensor:
    """Positions in `labels` [N], each class repeated in turn until it is as large as the largest: int64 [K * max]."""
    classes, sizes = labels.unique(return_counts=True)
    largest = int(sizes.max())
    rows = [torch.nonzero(labels == k).flatten() for k in classes]
    return torch.cat([r.repeat(-(-largest // len(r)))[:largest] for r in rows])


def retrain(trained: Trained, config: RetrainConfig, folder: Path, tracker: Tracker) -> None:
    """Train a new head; one row an epoch to `tracker`, a checkpoint that `eval.py score` reads to `folder`."""
    torch.manual_seed(trained.config.seed)
    loader = _balanced_loader(trained, config)
    model = trained.model
    fresh = build_model(trained.config.arch, len(trained.dataset.class_names)).head.state_dict()
    model.head.load_state_dict(fresh)
    model.head.requires_grad_(True)
    optimizer = torch.optim.SGD(
        model.head.parameters(), lr=config.lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * config.val_iteration)
    images, labels = trained.test_set()
    if config.overwrite:
        keep_aside(folder)
    exit_code, recent = 1, []
    tracker.start(describe(trained, config) | {"run_name": folder.name}, {}, 0)
    try:
        for epoch in range(config.epochs):
            begin, lr = time.perf_counter(), optimizer.param_groups[0]["lr"]
            loss = torch.zeros((), device=trained.device)
            for _ in range(config.val_iteration):
                batch = loader.next()
                with torch.no_grad():
                    features = model.backbone(batch.views_x[0])
                step_loss = F.cross_entropy(model.head(features), batch.labels_x)
                optimizer.zero_grad(set_to_none=True)
                step_loss.backward()
                optimizer.step()
                schedule.step()
                loss += step_loss.detach()
            counts, test_loss = confusion(model, images, labels)
            recent.append(scores(counts))
            row = _row(epoch, lr, float(loss) / config.val_iteration, recent, test_loss)
            tracker.log(row | {"time/epoch": time.perf_counter() - begin})
            print(f"epoch {epoch}/{config.epochs - 1}  " + say(row), file=sys.stderr)
        checkpoint.save(folder / "checkpoint.pt", _state(trained, config))
        exit_code = 0
    finally:
        tracker.finish(exit_code)


def say(row: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {row[f'test/{name}']:.3f}" for name in ("acc", "bacc", "gm"))


def describe(trained: Trained, config: RetrainConfig) -> dict[str, Any]:
    """The run's configuration, with the head's own settings beside it."""
    run = trained.config
    return {
        **dataclasses.asdict(run),
        "field_kinds": kinds_of(run) | {"head": ["head", "head_val_iteration", "head_batch_size", "head_lr"]},
        "lambda_u": run.unlabeled_weight,
        "head": "crt",
        "checkpoint": str(trained.path),
        "backbone_epochs": trained.epoch + 1,
        "epochs": config.epochs,
        "head_val_iteration": config.val_iteration,
        "head_batch_size": config.batch_size,
        "head_lr": config.lr,
        "device": str(trained.device),
        "class_names": list(trained.dataset.class_names),
        "versions": {"torch": str(torch.__version__)},
    }


def _balanced_loader(trained: Trained, config: RetrainConfig) -> Loader:
    run, data = trained.config, trained.dataset
    split = split_for(run, data, include_labeled=METHODS[run.semi_method].unlabeled_includes_labeled)
    rows = split.index_x[balanced_rows(data.train_labels[split.index_x])]
    return Loader(
        data.train_images[rows],
        data.train_labels[rows],
        data.train_images[:1],  # no view of it is made
        views_x=("weak",),
        views_u=(),
        batch_size=config.batch_size,
        mean=data.mean,
        std=data.std,
        flip=data.flip,
        augment=run.augment,
        device=trained.device,
        seed=run.seed,
    )


def _row(
    epoch: int, lr: float, loss: float, recent: list[dict[str, float]], test_loss: float
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "epoch": epoch,
        "lr": lr,
        "loss/total": loss,
        "loss/x": loss,
        "test/loss": test_loss,
    }
    row |= {f"test/{name}": value for name, value in recent[-1].items()}
    for name in ("bacc", "gm"):
        window = [scored[name] for scored in recent[-20:]]
        row[f"last20/{name}"] = sum(window) / len(window)
    return row | {"best/bacc": max(scored["bacc"] for scored in recent)}


def _state(trained: Trained, config: RetrainConfig) -> dict[str, Any]:
    return {
        "config": dataclasses.asdict(trained.config),
        "ema": trained.model.state_dict(),
        "epoch": trained.epoch,
        "head": dataclasses.asdict(config),
    }
