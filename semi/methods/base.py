"""What the loop asks of a method, and what it gets back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from data import Batch
from models import Classifier
from semi.config import Config
from semi.distributed import Ranks

View = Literal["weak", "strong"]


@dataclass(frozen=True)
class Losses:
    """Scalars on the device. `total` is what is minimised; the others are its parts before their weights."""

    total: Tensor
    x: Tensor  # labeled
    u: Tensor | None = None  # unlabeled
    r: Tensor | None = None  # rotation (ReMixMatch)
    e: Tensor | None = None  # first strong view (ReMixMatch)


class Method(Protocol):
    """A way to use unlabeled images. One file each; its own state, where it has any, is checkpointed."""

    views_x: tuple[View, ...]  # the views of a labeled image that the loader makes
    views_u: tuple[View, ...]  # of an unlabeled one
    unlabeled_includes_labeled: bool
    weights_follow_epochs: bool  # whether `losses` depends on `progress`

    @classmethod
    def from_config(cls, config: Config, target_counts: Tensor, ranks: Ranks) -> Method:
        """The method with its parameters from `config`; target_counts [K] sums to the unlabeled images of all ranks."""

    def guess(self, model: Classifier, batch: Batch) -> Tensor:
        """Pseudo-labels [B, K], rows sum to 1, without gradient. They are what `pseudo_orig` stores."""

    def losses(self, model: Classifier, batch: Batch, targets: Tensor, progress: Tensor) -> Losses:
        """Losses for targets [B, K]; `progress`, a float64 scalar on the device, runs from 0 to 1 over all epochs.

        A step may be recorded and replayed, so nothing here may depend on the host or make it wait.
        """

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Stateless:
    """A method without state of its own."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
