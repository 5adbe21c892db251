"""Logit adjustment: a classifier that is right on balanced classes, by a constant shift of logits.

Menon et al. 2021, *Long-tail learning via logit adjustment*, section 4.2: with pi_l the labeled class distribution,

    labeled loss   cross-entropy of z + tau log pi_l
    targets        norm(p / pi_l^tau),   norm(v) = v / sum v

The second line is the same shift where the network guesses: the loss lets z stand for a balanced prior, so a network
that is still biased towards pi_l is corrected by it.

Departures: the paper has no unlabeled images. A class without a labeled image counts as if it had one.
"""

from __future__ import annotations

from torch import Tensor

from darp.refineries.base import Batchwise, LossShift, Setting, normalized
from darp.store import PseudoLabelStore


class LogitAdjustment(Batchwise):
    """Args: tau: strength of the shift."""

    label = "logit adjustment"

    def __init__(self, store: PseudoLabelStore, setting: Setting, *, tau: float = 1.0) -> None:
        super().__init__(store, setting)
        prior = self.shares(setting.labeled_counts) ** tau
        self._inverse = 1 / prior
        self._shift = LossShift(labeled=prior.log())

    def rule(self, probs: Tensor, epoch: int, step: int) -> Tensor:
        return normalized(probs * self._inverse)

    def loss_shift(self) -> LossShift:
        return self._shift
