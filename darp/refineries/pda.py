"""Progressive distribution alignment: guesses are moved to a target that turns flatter from stage to stage.

Wei et al. 2021, *CReST: A Class-Rebalancing Self-Training Framework for Imbalanced Semi-Supervised Learning*, section
3.3 (the + of CReST+): with c the target class distribution and p_hat the running mean of the guesses p,

    targets   norm(p norm(c^a) / p_hat),   norm(v) = v / sum v
    a         1 - (1 - last) g / (G - 1) in stage g = 0 ... G - 1 of G = 6 equal stages, last 0.5
    p_hat  <- momentum p_hat + (1 - momentum) mean of the batch's p; the first batch sets it

Departures: there is no self-training: CReST starts each stage anew with pseudo-labeled images among the labeled ones,
and here stages are parts of one training. c is the target in use, the estimate under --est, where the paper has the
labeled distribution. MixMatch and ReMixMatch sharpen their guesses before they get here.
"""

from __future__ import annotations

from torch import Tensor

from darp.refineries.base import SMALLEST, Batchwise, Setting, normalized, per_class
from darp.store import PseudoLabelStore


class ProgressiveAlignment(Batchwise):
    """Args: stages: G; last: the power of the last stage; momentum: of the running mean."""

    follows_epochs = True

    label = "progressive alignment"

    def __init__(
        self,
        store: PseudoLabelStore,
        setting: Setting,
        *,
        stages: int = 6,
        last: float = 0.5,
        momentum: float = 0.999,
    ) -> None:
        super().__init__(store, setting)
        self.stages, self.last, self.momentum = stages, last, momentum
        self.target = self.shares(setting.target_counts)
        self.state["p_hat"] = self.uniform()

    def rule(self, probs: Tensor, epoch: int, step: int) -> Tensor:
        p_hat = self.state["p_hat"]
        self.follow(p_hat, probs, self.momentum if self.steps_done else 0.0)
        wanted = normalized(self.target ** self.power(self.setting.done(epoch, step)))
        return normalized(probs * wanted / p_hat.clamp(min=SMALLEST))

    def power(self, done: float) -> float:
        """a at the share `done` of the training."""
        stage = min(int(done * self.stages), self.stages - 1)
        return 1 - (1 - self.last) * stage / max(1, self.stages - 1)

    def health(self) -> dict[str, float]:
        return super().health() | per_class("shares", self.state["p_hat"])
