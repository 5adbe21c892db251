"""What a refinery is to a training loop, and what those that work batch by batch have in common.

A refinery has up to three hooks, of which each is optional: it moves the targets of the unlabeled images (`targets`),
it shifts the logits that the losses see (`loss_shift`), and it shifts the logits of test images (`test_shift`).
softmax(z + b) is proportional to softmax(z) exp(b), so rules on targets need probabilities alone. One that asks the
network something beside the guesses does so in `look`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from darp.engine.table import total
from darp.store import PseudoLabelStore

SMALLEST = 1e-8  # share of a class; softmax underflows to 0, and 0 / 0 is no target


@dataclass(frozen=True)
class LossShift:
    """How a refinery changes the losses. Its tensors stay in their places and are changed there.

    So a recorded step, which reads where it read when it was recorded, sees each step's values.

    Attributes:
        labeled, unlabeled: [K], added to the logits of labeled images, and of the views that learn the targets.
        labeled_weight: of the labeled loss.
        soft: the targets are learned as distributions; else their largest entry is the label.
        threshold: least confidence of a target that counts, in place of the method's own.
    """

    labeled: Tensor | None = None
    unlabeled: Tensor | None = None
    labeled_weight: float = 1.0
    soft: bool = False
    threshold: float | None = None


NO_SHIFT = LossShift()


@dataclass(frozen=True)
class Setting:
    """The training that a refinery is part of.

    Attributes:
        labeled_counts: [K], labeled images of each class.
        target_counts: [K], the target of the unlabeled set; sums to its images, those of all processes.
        epochs, steps: number of epochs, and of steps in each.
        dataset: name of the data set, for parameters that were published per data set.
        group: processes that share a batch evenly; None where there is one.
        image_size: side of the images in pixels.
    """

    labeled_counts: Sequence[float]
    target_counts: Sequence[float]
    epochs: int
    steps: int
    dataset: str = ""
    group: dist.ProcessGroup | None = None
    image_size: int = 32

    def done(self, epoch: int, step: int) -> float:
        """The share of the training that is done before this step."""
        return (epoch + step / self.steps) / self.epochs


class Refinery:
    """Moves nothing and shifts nothing. Every refinery is one of these that does more."""

    follows_epochs = False  # whether what it does depends on the share of the training that is done
    # Why methods that learn from mixtures cannot have it, where it changes losses.
    apart_from_mixtures: ClassVar[str] = (
        "it changes the losses of labeled and of unlabeled images, and mix and remix learn from "
        "mixtures of both"
    )

    target_counts: Tensor | None = None  # [K], what it aims at now; None: nothing, or what it was given

    def look(self, network: nn.Module) -> None:
        """Ask the network, in training mode as its step has it, before `targets`. It is left as it was.

        A step may be recorded and replayed: what is found goes in place into tensors of `state_dict`.
        """

    def targets(self, index: Tensor, probs: Tensor, epoch: int, step: int) -> Tensor:
        """Targets [B, K] for the unlabeled rows `index` [B] whose guesses are `probs` [B, K]; not for the gradient."""
        return probs

    def loss_shift(self) -> LossShift:
        """The same object at every call."""
        return NO_SHIFT

    def test_shift(self, network: nn.Module) -> Tensor | None:
        """What is added to the logits of test images, [K]; None for nothing. The network is in evaluation mode."""
        return None

    def health(self) -> dict[str, float]:
        """What happened since the last call, under keys of the row. Every process calls it; all get the same."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What the coming targets depend on beside the table; the same on every process."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Batchwise(Refinery, ABC):
    """A refinery that turns the guesses of each batch into targets, and writes them to `store.refined`.

    Args:
        store: of this process's rows.
        setting: the training.

    Attributes:
        label: its name in tables, pages and pictures.
        state: tensors of the refinery's own, by name, on the store's device. They are changed in their places.
        steps_done: number of batches so far.
    """

    label: ClassVar[str]

    def __init__(self, store: PseudoLabelStore, setting: Setting) -> None:
        self.store, self.setting = store, setting
        self.state: dict[str, Tensor] = {}
        self.steps_done = 0
        store.refined = store.orig.clone()

    @abstractmethod
    def rule(self, probs: Tensor, epoch: int, step: int) -> Tensor:
        """Targets [B, K] for the guesses `probs` [B, K]. Nothing in it waits for the device."""

    @torch.no_grad()
    def targets(self, index: Tensor, probs: Tensor, epoch: int, step: int) -> Tensor:
        targets = self.rule(probs, epoch, step)
        self.store.refined[index] = targets
        self.steps_done += 1
        return targets

    def shares(self, counts: Sequence[float]) -> Tensor:
        """A class distribution [K], where the guesses are, of `counts`; a class without an image counts as one."""
        known = torch.as_tensor(counts, dtype=torch.float64).clamp(min=1)
        return (known / known.sum()).to(self.store.orig)

    def uniform(self) -> Tensor:
        """The class distribution [K] of which nothing is known yet."""
        num_classes = self.store.orig.shape[1]
        return self.store.orig.new_full((num_classes,), 1 / num_classes)

    def batch_sum(self, probs: Tensor) -> tuple[Tensor, int]:
        """Sum [K] of the rows of `probs` over the batch of all processes, and the number of its rows."""
        group = self.setting.group
        return total(probs.sum(dim=0), group), len(probs) * (
            1 if group is None else dist.get_world_size(group)
        )

    def follow(self, shares: Tensor, probs: Tensor, momentum: float) -> None:
        """shares <- momentum shares + (1 - momentum) mean of the rows of the batch, in place."""
        found, rows = self.batch_sum(probs)
        shares.lerp_(found / rows, 1 - momentum)

    def health(self) -> dict[str, float]:
        """`refine/moved`: mean total-variation distance from a row of the table to its target. Waits for the device."""
        orig, refined = self.store.orig, self.store.refined
        away = torch.stack(
            [(orig - refined).abs().sum(dtype=torch.float64) / 2, orig.new_tensor(len(orig)).double()]
        )
        moved, rows = total(away, self.setting.group).tolist()
        return {"refine/moved": moved / rows}

    def state_dict(self) -> dict[str, Any]:
        return {**self.state, "steps_done": self.steps_done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, tensor in self.state.items():
            tensor.copy_(state[name])
        self.steps_done = int(state["steps_done"])


def normalized(table: Tensor) -> Tensor:
    """`table` [..., K] with every row divided by its sum."""
    return table / table.sum(dim=-1, keepdim=True)


def per_class(name: str, shares: Tensor) -> dict[str, float]:
    """A key `refine/NAME/K` for each class. Waits for the device."""
    return {f"refine/{name}/{k}": share for k, share in enumerate(shares.tolist())}
