"""What the loop asks of a method, and what it gets back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from darp.refineries.base import NO_SHIFT, LossShift
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


class Method(ABC):
    """A way to use unlabeled images. One file each; its own state, where it has any, is checkpointed.

    Attributes:
        label: its name in tables, pages and pictures.
        views_x, views_u: the views of a labeled and of an unlabeled image that the loader makes.
        unlabeled_includes_labeled: whether the labeled images are among the unlabeled ones too.
        weights_follow_epochs: whether `losses` depends on `progress`.
        thresholded: whether it learns from selected rows alone (`selects`); alerts about their share depend on it.
        threshold: what a row must reach to be selected, in the words of these alerts: the flag that sets it.
        shifts: whether `losses` heeds `shift`; else refineries that shift logits are refused.
        shift: how the refinery changes the losses; set once, after the method is made.
        own_metrics: what each name in `metrics` is, for --dry-run and the documents.
    """

    label: ClassVar[str]
    views_x: ClassVar[tuple[View, ...]]
    views_u: ClassVar[tuple[View, ...]]
    unlabeled_includes_labeled: ClassVar[bool]
    weights_follow_epochs: ClassVar[bool]
    thresholded: ClassVar[bool]
    threshold: ClassVar[str] = "--tau"
    shifts: ClassVar[bool] = False
    shift: LossShift = NO_SHIFT
    own_metrics: ClassVar[Mapping[str, str]] = {}

    @classmethod
    @abstractmethod
    def from_config(cls, config: Config, target_counts: Tensor, ranks: Ranks) -> Method:
        """The method with its parameters from `config`; target_counts [K] sums to the unlabeled images of all ranks."""

    @abstractmethod
    def guess(self, model: Classifier, batch: Batch) -> Tensor:
        """Pseudo-labels [B, K], rows sum to 1, without gradient. They are what `pseudo_orig` stores."""

    @abstractmethod
    def losses(self, model: Classifier, batch: Batch, targets: Tensor, progress: Tensor) -> Losses:
        """Losses for targets [B, K]; `progress`, a float64 scalar on the device, runs from 0 to 1 over all epochs.

        A step may be recorded and replayed, so nothing here may depend on the host or make it wait.
        """

    def selects(self, confidence: Tensor, label: Tensor) -> Tensor | None:
        """Which rows a loss counts, bool [N], by their targets' largest entry [N] and its class, int64 [N].

        `pseudo/mask_rate` and `pseudo/selected` are of these rows. None: of those whose confidence reaches --tau.
        """
        return None

    def metrics(self) -> dict[str, float]:
        """What the method says of itself at the end of an epoch, logged as `method/<name>`; equal on all processes.

        A name is letters, digits and `_`, with `/<class>` after it for a number of each class.
        """
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The tensors that a step changes, themselves and not copies: a recorded step is compared by them."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 (a method without state has nothing to do)
        """Go on from `state`, which may lie on another device."""
