"""The supervised training behind an estimate: it can be stopped after any step and goes on as if it had not been.

Where there are several processes, all of them draw the same batch, and each learns from its share of it. A weak view
costs next to nothing beside the network, and so the number of processes changes no draw: also one that goes on with
another number of them draws what one process would have drawn. Each predicts its own block of the images.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darp.estimation import confusion_matrix
from data import Dataset, Loader, Split, normalize
from models import build_model
from semi import checkpoint, stopping
from semi.checkpoint import CheckpointError
from semi.config import ConfigError, EstimateConfig
from semi.distributed import Ranks
from semi.ema import Ema
from semi.losses import soft_cross_entropy
from semi.mixing import mixup
from semi.pace import Pace
from semi.progress import Progress

DROPS = (0.8, 0.9)  # shares of the epochs after which the learning rate falls to a tenth
EVALUATION_BATCH = 500
CHECKPOINT_EVERY_S = 60.0


@dataclasses.dataclass
class Predictions:
    """What the epochs so far have predicted.

    Attributes:
        per_epoch: (confusion matrix [K, K] on the held-out images, mean prediction [K] for the unlabeled ones) of each.
        heldout, unlabeled: sums over the last epochs, float64 [n, K] and, of this process's rows of the unlabeled
            images, [N, K]; empty before these.
        epochs: how many epochs are in the sums.
    """

    per_epoch: list[tuple[np.ndarray, np.ndarray]] = dataclasses.field(default_factory=list)
    heldout: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    unlabeled: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    epochs: int = 0

    def add(
        self, heldout: np.ndarray, labels: np.ndarray, unlabeled: np.ndarray, mean: np.ndarray, *, keep: bool
    ) -> None:
        """Predictions of one epoch: [n, K] on held-out images with labels [n], [N, K] on the unlabeled ones of this
        process, and the mean [K] over those of all."""
        self.per_epoch.append((confusion_matrix(heldout, labels), mean))
        if keep:
            self.heldout = self.heldout + heldout if self.epochs else heldout
            self.unlabeled = self.unlabeled + unlabeled if self.epochs else unlabeled
            self.epochs += 1

    def state_dict(self, ranks: Ranks, num_unlabeled: int) -> dict[str, Any]:
        """The same on all of the processes, which call this together."""
        unlabeled = torch.from_numpy(self.unlabeled)
        return {
            "per_epoch": [(torch.from_numpy(c), torch.from_numpy(p)) for c, p in self.per_epoch],
            "heldout": torch.from_numpy(self.heldout),
            "unlabeled": ranks.whole(unlabeled, num_unlabeled) if self.epochs else unlabeled,
            "epochs": self.epochs,
        }

    def load_state_dict(self, state: Mapping[str, Any], rows: slice) -> None:
        """`rows` are this process's of the unlabeled images."""
        self.per_epoch = [(c.numpy(), p.numpy()) for c, p in state["per_epoch"]]
        self.heldout, self.unlabeled = state["heldout"].numpy(), state["unlabeled"][rows].numpy()
        self.epochs = int(state["epochs"])


class EstimationTraining:
    """Network, optimizer and predictions of one estimation. `split` is without labeled images among the unlabeled ones.

    Building it communicates nothing. Where there are several processes, they call each method together.

    Attributes:
        predictions: of the epochs that are done.
        heldout_labels: int64 [n], the classes of the held-out images.
    """

    def __init__(self, config: EstimateConfig, ranks: Ranks, dataset: Dataset, split: Split) -> None:
        torch.manual_seed(config.seed)
        self.config, self.ranks, self.dataset, self.split = config, ranks, dataset, split
        self.device = ranks.device
        self.share = share(config.batch_size, ranks)
        images_x, labels_x = dataset.train_images[split.index_x], dataset.train_labels[split.index_x]
        heldout, rest = hold_out(labels_x, config.num_val)
        self.heldout_images, self.heldout_labels = images_x[heldout], labels_x[heldout].numpy()
        self.images_u = dataset.images_at(split.index_u)
        self.model = build_model(config.arch, len(dataset.class_names)).to(self.device)
        self.learner: nn.Module = self.model  # its gradients are those of the whole batch
        self.statistics = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        self.ema = Ema(self.model, config.ema_decay)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=config.lr, momentum=0.9, weight_decay=config.wd
        )
        milestones = [max(1, int(share * config.epochs)) for share in DROPS]
        self.first_kept = min(milestones[-1], config.epochs - 1)
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, milestones, gamma=0.1)
        self.loader = Loader(
            images_x[rest],
            labels_x[rest],
            self.images_u,
            views_x=("weak",),
            views_u=(),
            batch_size=config.batch_size,
            mean=dataset.mean,
            std=dataset.std,
            flip=dataset.flip,
            augment=config.augment,
            device=self.device,
            seed=config.seed,
        )
        self.predictions = Predictions()
        self.epoch, self.step = 0, 0  # the next ones

    def run(self, saved: Path | None = None) -> None:
        """Do what is left of the epochs; the state goes to the file `saved` now and then, and at a request.

        Raises SystemExit at a request to stop.
        """
        pace, told, steps, ranks = Pace(CHECKPOINT_EVERY_S), False, self.config.val_iteration, self.ranks
        every, done = self.config.epochs * steps, self.epoch * steps + self.step
        self.learner = ranks.replicated(self.model)
        with stopping.held(), Progress(every, done, "estimating", shown=ranks.is_first) as progress:
            while self.epoch < self.config.epochs:
                self.train_step()
                progress.step()
                if self.step == steps:
                    self.finish_epoch()
                    progress.now_and_then(f"estimating: {self.epoch} of {self.config.epochs} epochs")
                if ranks.largest(pace.due()):
                    with pace.saving():
                        told = save(self, saved, told) if saved else told
                    stopping.end_if_requested(ranks.largest(stopping.waiting()))

    def train_step(self) -> None:
        """One batch of cross-entropy, with mixup where `alpha` is above 0."""
        self.model.train()
        batch = self.loader.next()
        images, targets = (
            batch.views_x[0],
            F.one_hot(batch.labels_x, self.model.head.out_features).float(),
        )
        if self.config.alpha > 0:
            images, targets = mixup(images, targets, self.config.alpha)
        images, targets = images[self.share], targets[self.share]
        loss = soft_cross_entropy(self.learner(images), targets)
        self.optimizer.zero_grad(set_to_none=True)
        # The processes' gradients are averaged as if their shares were equal.
        (loss * (len(images) * self.ranks.size / self.config.batch_size)).backward()
        self.optimizer.step()
        self.ranks.mean_(self.statistics)
        self.ema.update()
        self.step += 1

    def finish_epoch(self) -> None:
        self.schedule.step()
        heldout, unlabeled = self.predicted(self.heldout_images), self.predicted(self.images_u)
        self.predictions.add(
            self.ranks.whole(heldout, len(self.heldout_images)).numpy(),
            self.heldout_labels,
            unlabeled.numpy(),
            (self.ranks.sum_(unlabeled.sum(dim=0)) / len(self.images_u)).numpy(),
            keep=self.epoch >= self.first_kept,
        )
        self.epoch, self.step = self.epoch + 1, 0

    def predicted(self, images: Tensor) -> Tensor:
        """Class probabilities float64 [rows, K] of this process's block of images [n, 3, H, W], on the CPU."""
        mine = images[self.ranks.rows(len(images))]
        return predict(self.ema.model, mine, self.dataset, self.device)

    def state_dict(self) -> dict[str, Any]:
        """All that the coming steps and the estimate depend on, for any number of processes."""
        return {
            "images": torch.cat([self.split.index_x, self.split.index_u]),
            "epoch": self.epoch,
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "loader": self.loader.state_dict(),
            "predictions": self.predictions.state_dict(self.ranks, len(self.images_u)),
            "random": [generator.get_state() for generator in generators(self.device)],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken. Raises errors of many kinds where it does not fit, and is then half loaded.

        Communicates nothing.
        """
        if not torch.equal(state["images"], torch.cat([self.split.index_x, self.split.index_u])):
            raise ValueError("it is of other images, or of another order of them")
        self.loader.load_state_dict(state["loader"])
        self.model.load_state_dict(state["model"])
        self.ema.model.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.predictions.load_state_dict(state["predictions"], self.ranks.rows(len(self.images_u)))
        for generator, saved in zip(generators(self.device), state["random"], strict=True):
            generator.set_state(saved)
        self.epoch, self.step = int(state["epoch"]), int(state["step"])


def share(batch_size: int, ranks: Ranks) -> slice:
    """This process's images of a batch, one more or less than another's.

    Raises ConfigError where a process would have none.
    """
    if ranks.size > batch_size:
        raise ConfigError(
            f"--batch_size {batch_size} of the estimation: {ranks.size} processes would not have an image each; make "
            f"the estimate with {batch_size} or fewer first (estimate.py --nproc {batch_size}, the same data flags)"
        )
    return slice(ranks.rank * batch_size // ranks.size, (ranks.rank + 1) * batch_size // ranks.size)


def generators(device: torch.device) -> list[torch.Generator]:
    """What mixup draws from on `device`, with the CPU's."""
    own = [torch.cuda.default_generators[device.index or 0]] if device.type == "cuda" else []
    return [torch.default_generator, *own]


def save(training: EstimationTraining, path: Path, told: bool) -> bool:
    """Write the state. A full disk ends nothing and is said once; returns whether it was said (`told`: before)."""
    state = training.state_dict()
    if not training.ranks.is_first:
        return told
    try:
        checkpoint.save(path, state)
    except OSError as error:
        if not told:
            print(
                f"{path}: {error.strerror or error}; the estimation goes on and tries again", file=sys.stderr
            )
        return True
    return told


def started_or_resumed(
    config: EstimateConfig, ranks: Ranks, dataset: Dataset, split: Split, saved: Path | None
) -> EstimationTraining:
    """A training that goes on from the file `saved` where that can be; one line on standard error says how it went.

    The first process alone reads the file.
    """

    def fresh() -> EstimationTraining:
        return ranks.together(lambda: EstimationTraining(config, ranks, dataset, split))

    training = fresh()
    state, reason = ranks.by_first(lambda: saved_state(saved) if saved else (None, ""))
    if state is not None:
        try:
            training.load_state_dict(state)
        except Exception as error:  # what does not fit fails anywhere in torch's own restoring
            reason = f"{saved}: it does not fit: {(str(error) or type(error).__name__).splitlines()[0]}"
        reason = next(filter(None, ranks.gather(reason)), "")
    if reason:
        ranks.say(f"{reason}; the estimation starts again")
        return fresh()
    if state is not None:
        ranks.say(f"estimating: going on from {saved}, epoch {training.epoch}")
    return training


def saved_state(path: Path) -> tuple[dict[str, Any] | None, str]:
    """The state in a file, and why there is none in it; the reason is empty where there is no such file."""
    if not path.exists():
        return None, ""
    try:
        return checkpoint.load(path, said=""), ""
    except CheckpointError as error:
        return None, str(error).partition("; use ")[0]


def hold_out(labels: Tensor, num_val: int) -> tuple[Tensor, Tensor]:
    """Positions (held out, the rest) in labels [n]: the last `num_val` of each class, half of a class with fewer than
    twice as many, none of a class with one."""
    held, rest = [], []
    for k in range(int(labels.max()) + 1):
        rows = torch.nonzero(labels == k).flatten()
        n = min(num_val, len(rows) // 2)
        held.append(rows[len(rows) - n :])
        rest.append(rows[: len(rows) - n])
    return torch.cat(held), torch.cat(rest)


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, dataset: Dataset, device: torch.device) -> Tensor:
    """Class probabilities float64 [n, K] of uint8 images [n, 3, H, W], in evaluation mode, on the CPU."""
    model.eval()
    chunks = [normalize(c.to(device), dataset.mean, dataset.std) for c in images.split(EVALUATION_BATCH)]
    return torch.cat([model(chunk).softmax(dim=1) for chunk in chunks]).double().cpu()
