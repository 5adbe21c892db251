"""FlexDA: the losses, not the guesses, are shifted towards a prior that turns flat while the network learns.

Sanchez Aimar et al. 2024, *Flexible Distribution Alignment: Towards Long-tailed Semi-supervised Learning with Proper
Calibration* (ADELLO), and its public code: with t in 0..1 the share of training done, pi_l the labeled class
distribution and p_hat the running mean of the guesses p, which starts uniform,

    a              1 - (1 - alpha_min) t^exponent
    Q              norm(p_hat^a),   norm(v) = v / sum v
    labeled loss   cross-entropy of z + log(pi_l / Q)
    unlabeled loss cross-entropy of z + log(p_hat / Q)
    p_hat       <- momentum p_hat + (1 - momentum) mean of the batch's p, after the step, as in the code

The targets are the guesses.

Departures: there is no distillation (ADELLO's complementary consistency). The code adds 1e-9 to both distributions,
here shares are at least 1e-8. FixMatch's unlabeled set holds the labeled images, which p_hat then counts too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from darp.refineries.base import SMALLEST, Batchwise, LossShift, Setting, normalized, per_class
from darp.store import PseudoLabelStore


class FlexDA(Batchwise):
    """Args: alpha_min: the power that is reached at the end; exponent: of t; momentum: of the running mean."""

    follows_epochs = True

    label = "FlexDA"

    def __init__(
        self,
        store: PseudoLabelStore,
        setting: Setting,
        *,
        alpha_min: float = 0.1,
        exponent: float = 2.0,
        momentum: float = 0.999,
    ) -> None:
        super().__init__(store, setting)
        self.alpha_min, self.exponent, self.momentum = alpha_min, exponent, momentum
        self.labeled = self.shares(setting.labeled_counts)
        self.state |= {
            "p_hat": self.uniform(),
            "labeled shift": self.uniform(),
            "unlabeled shift": self.uniform(),
        }
        self._shift = LossShift(self.state["labeled shift"], self.state["unlabeled shift"])

    def rule(self, probs: Tensor, epoch: int, step: int) -> Tensor:
        p_hat = self.state["p_hat"]
        power = 1 - (1 - self.alpha_min) * self.setting.done(epoch, step) ** self.exponent
        known = p_hat.clamp(min=SMALLEST)
        prior = normalized(known**power)
        torch.log(self.labeled / prior, out=self.state["labeled shift"])
        torch.log(known / prior, out=self.state["unlabeled shift"])
        self.follow(p_hat, probs, self.momentum)
        return probs

    def loss_shift(self) -> LossShift:
        return self._shift

    def health(self) -> dict[str, float]:
        return super().health() | per_class("shares", self.state["p_hat"])
