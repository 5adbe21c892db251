"""cRT: a trained backbone keeps its weights, the head is made anew and learns alone from the labels.

Kang et al. 2020 (Decoupling representation and classifier for long-tailed recognition), section 4.1: the classifier is
re-initialised and trained alone for a few epochs. Kim et al. 2020 add it to DARP. Both recipes start from the averaged
weights of the run.

- `published`, of DARP's script: labels as they come, mixup, a loss that weighs class k by 1 / N_k, Adam. The network is
  in train mode, so that batch norm's statistics move, and the averaged weights are scored.
- `balanced`, of Kang et al.: as many labels of each class, SGD along a cosine, the features in evaluation mode.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import Batch, DataError, Loader
from models import build_model
from semi import checkpoint
from semi.checkpoint import CheckpointError
from semi.config import USER_ERROR, ConfigError, kinds_of
from semi.device import pick_device
from semi.ema import Ema
from semi.evaluate import confusion, predict, scores
from semi.head_config import HeadConfig
from semi.job import about_refinement
from semi.load_model import Trained, checkpoint_of, load_trained
from semi.lock import claimed
from semi.losses import soft_cross_entropy
from semi.methods import about_method, method_class
from semi.mixing import mixup
from semi.run_flags import refuse_contradictions
from semi.split import split_for
from tracking.base import Fanout, Tracker
from tracking.local import METRICS_FILE, LocalTracker, exit_code_of, in_one_line

WINDOWS = (20, 10)  # epochs in the means of a row: that of every run, and the published one of cRT
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4  # of the balanced recipe: Kang et al., appendix


def start_retraining(
    config: HeadConfig,
    options: Sequence[Any],
    of_the_run: Sequence[str],
    more: Callable[..., Sequence[Tracker]],
) -> int:
    """Retrain as `config` says. `of_the_run`: the training's own flags; the rest is `semi.commands.retrain_head`'s."""
    try:
        folder = folder_for(config)
        device, note = pick_device(config.gpu)
        trained = load_trained(checkpoint_of(Path(config.checkpoint)), device, config.data_dir)
        refuse_contradictions(of_the_run, trained.config, f"the head goes to {folder}, all else is the run's")
        for line in filter(None, (note, f"run folder: {folder}")):
            print(line, file=sys.stderr)
        others = more(folder, *options) if config.wandb else ()
        retrain(trained, config, folder, Fanout([LocalTracker(folder), *others]))
    except (ConfigError, DataError, CheckpointError) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return USER_ERROR
    except OSError as error:
        print(f"{Path(sys.argv[0]).name}: {in_one_line(error)}", file=sys.stderr)
        return exit_code_of(error)
    return 0


def folder_for(config: HeadConfig) -> Path:
    """`<run>_crt` beside the run. Raises ConfigError when it holds a retraining that may not be touched."""
    path = checkpoint_of(Path(config.checkpoint))
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; name a run's folder, or the checkpoint.pt in it")
    run = path.resolve().parent
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


@dataclass
class HeadTraining:
    """What the two recipes differ in."""

    loader: Loader
    optimizer: torch.optim.Optimizer  # of the head alone
    loss: Callable[[Batch], Tensor]
    after_step: Callable[[], None]
    scored: nn.Module  # what is tested and saved


def published(trained: Trained, config: HeadConfig) -> HeadTraining:
    """Adam on the head, weighted soft cross-entropy of mixed images; batch norm moves, the average is scored."""
    assert config.lr is not None
    model = trained.model.train()
    loader, counts = _loader(trained, config, balanced=False)
    weights = class_weights(counts).to(trained.device)
    ema = Ema(model, config.ema_decay)

    def loss(batch: Batch) -> Tensor:
        labels = F.one_hot(batch.labels_x, len(counts)).float()
        images, targets = mixup(batch.views_x[0], labels, config.mix_alpha)
        with torch.no_grad():
            features = model.backbone(images)
        return soft_cross_entropy(model.head(features), targets, weights)

    optimizer = torch.optim.Adam(model.head.parameters(), lr=config.lr)
    return HeadTraining(loader, optimizer, loss, ema.update, ema.model)


def balanced(trained: Trained, config: HeadConfig) -> HeadTraining:
    """SGD along a cosine on the head, cross-entropy of balanced batches, features in evaluation mode."""
    assert config.lr is not None
    assert config.epochs is not None
    assert config.val_iteration is not None
    model = trained.model.eval()
    loader, _ = _loader(trained, config, balanced=True)

    def loss(batch: Batch) -> Tensor:
        with torch.no_grad():
            features = model.backbone(batch.views_x[0])
        return F.cross_entropy(model.head(features), batch.labels_x)

    optimizer = torch.optim.SGD(
        model.head.parameters(), lr=config.lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * config.val_iteration)
    return HeadTraining(loader, optimizer, loss, schedule.step, model)


def class_weights(counts: Sequence[int]) -> Tensor:
    """Weights [K] float32 in the proportion 1 / N_k for the label counts N_k; they sum to K."""
    inverse = 1 / torch.tensor(counts, dtype=torch.float64)
    return (inverse / inverse.sum() * len(counts)).float()


def retrain(trained: Trained, config: HeadConfig, folder: Path, tracker: Tracker) -> None:
    """Train a new head; one row an epoch to `tracker`, a checkpoint that `eval.py score` reads to `folder`."""
    with claimed(folder, overwrite=config.overwrite):
        _retrain(trained, config, folder, tracker)


def _retrain(trained: Trained, config: HeadConfig, folder: Path, tracker: Tracker) -> None:
    assert config.epochs is not None
    torch.manual_seed(trained.config.seed)
    fresh = build_model(trained.config.arch, len(trained.dataset.class_names)).head.state_dict()
    trained.model.head.load_state_dict(fresh)
    trained.model.head.requires_grad_(True)
    training = {"published": published, "balanced": balanced}[config.recipe](trained, config)
    images, labels = trained.test_set()
    exit_code, recent = 1, []
    tracker.start(describe(trained, config) | {"run_name": folder.name}, {}, 0)
    try:
        for epoch in range(config.epochs):
            begin, lr = time.perf_counter(), training.optimizer.param_groups[0]["lr"]
            loss = train_epoch(training, config)
            counts, test_loss = confusion(predict(training.scored, images), labels)
            recent.append(scores(counts))
            row = _row(epoch, lr, loss, recent, test_loss)
            tracker.log(row | {"time/epoch": time.perf_counter() - begin})
            print(f"epoch {epoch}/{config.epochs - 1}  " + say(row), file=sys.stderr)
        checkpoint.save(folder / "checkpoint.pt", _state(trained, config, training.scored))
        exit_code = 0
    finally:
        tracker.finish(exit_code)


def train_epoch(training: HeadTraining, config: HeadConfig) -> float:
    """`val_iteration` steps; the mean loss."""
    assert config.val_iteration is not None
    total = torch.zeros((), device=training.loader.device)
    for _ in range(config.val_iteration):
        loss = training.loss(training.loader.next())
        training.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        training.optimizer.step()
        training.after_step()
        total += loss.detach()
    return float(total) / config.val_iteration


def say(row: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {row[f'test/{name}']:.3f}" for name in ("acc", "bacc", "gm"))


def describe(trained: Trained, config: HeadConfig) -> dict[str, Any]:
    """The run's configuration, with the head's own settings beside it."""
    run = trained.config
    return {
        **dataclasses.asdict(run),
        "field_kinds": kinds_of(dataclasses.asdict(run))
        | {"head": ["head", "head_recipe", "head_val_iteration", "head_batch_size", "head_lr"]},
        **about_method(run.semi_method),
        **about_refinement(run.refine),
        "lambda_u": run.unlabeled_weight,
        "head": "crt",
        "checkpoint": str(trained.path),
        "backbone_epochs": trained.epoch + 1,
        "head_recipe": config.recipe,
        "epochs": config.epochs,
        "head_val_iteration": config.val_iteration,
        "head_batch_size": config.batch_size,
        "head_lr": config.lr,
        "device": str(trained.device),
        "class_names": list(trained.dataset.class_names),
        "versions": {"torch": str(torch.__version__)},
    }


def _loader(trained: Trained, config: HeadConfig, *, balanced: bool) -> tuple[Loader, list[int]]:
    """Batches of the run's labeled images, and how many of each class there are."""
    run, data = trained.config, trained.dataset
    split = split_for(run, data, include_labeled=method_class(run.semi_method).unlabeled_includes_labeled)
    rows = split.index_x
    if balanced:
        rows = rows[balanced_rows(data.train_labels[rows])]
    loader = Loader(
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
    return loader, split.counts_x


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
    for name, epochs in itertools.product(("bacc", "gm"), WINDOWS):
        window = [scored[name] for scored in recent[-epochs:]]
        row[f"last{epochs}/{name}"] = sum(window) / len(window)
    return row | {"best/bacc": max(scored["bacc"] for scored in recent)}


def _state(trained: Trained, config: HeadConfig, scored: nn.Module) -> dict[str, Any]:
    return {
        "config": dataclasses.asdict(trained.config),
        "ema": scored.state_dict(),
        "epoch": trained.epoch,
        "head": dataclasses.asdict(config),
    }
