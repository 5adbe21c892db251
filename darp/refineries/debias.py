"""DebiasPL: guesses and margins are corrected by the running mean of the guesses themselves.

Wang et al. 2022, *Debiased Learning from Naturally Imbalanced Pseudo-Labels*, sections 3.2 and 3.3: with p_hat the
running mean of p, which starts uniform,

    targets        norm(p / p_hat^tau),   norm(v) = v / sum v
    p_hat       <- momentum p_hat + (1 - momentum) mean of the batch's p
    unlabeled loss cross-entropy of z + tau log p_hat

The mean is over the images of the batch, one number a class. (A mean over the classes is 1 / K for every image, and
the rule then changes nothing.)

In this order, as in its public code. Departures: none known in the rule; the method around it is this project's.
"""

from __future__ import annotations

from torch import Tensor

from darp.refineries.base import SMALLEST, Batchwise, LossShift, Setting, normalized, per_class
from darp.store import PseudoLabelStore


class DebiasPL(Batchwise):
    """Args: tau: strength of the correction; momentum: of the running mean."""

    label = "DebiasPL"

    def __init__(
        self, store: PseudoLabelStore, setting: Setting, *, tau: float = 0.4, momentum: float = 0.999
    ) -> None:
        super().__init__(store, setting)
        self.tau, self.momentum = tau, momentum
        self.state["p_hat"] = self.uniform()
        self.state["shift"] = tau * self.uniform().log()
        self._shift = LossShift(unlabeled=self.state["shift"])

    def rule(self, probs: Tensor, epoch: int, step: int) -> Tensor:
        p_hat, shift = self.state["p_hat"], self.state["shift"]
        targets = normalized(probs * (-shift).exp())
        self.follow(p_hat, probs, self.momentum)
        shift.copy_(self.tau * p_hat.clamp(min=SMALLEST).log())
        return targets

    def loss_shift(self) -> LossShift:
        return self._shift

    def health(self) -> dict[str, float]:
        return super().health() | per_class("shares", self.state["p_hat"])
