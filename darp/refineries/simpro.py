"""SimPro: the unlabeled class distribution is estimated while the network learns, none is assumed.

Du et al. 2024, *SimPro: A Simple Probabilistic Framework Towards Realistic Long-Tailed Semi-Supervised Learning*, and
its public code: an EM algorithm with pi_u, the unlabeled class distribution, and phi, that of all images learned from.

    targets        q = norm(p pi_u^tau), learned as distributions where max q >= threshold
    both losses    cross-entropy of z + tau log phi; the labeled one weighs L / U
    every 500 steps, with m = sum of the q that count and n_l the labels seen, both since the last time
                   pi_u <- 0.9 pi_u + 0.1 m / (sum m + 1)
                   phi  <- 0.9 phi  + 0.1 norm(n_l + m)

pi_u starts uniform, phi at the labeled distribution. Published: tau 2 and threshold 0.95 on CIFAR-10 and STL-10, tau 1
and threshold 0.2 on CIFAR-100. Where nothing was, tau is 1, the power that the paper derives, and the threshold 0.95.
L and U are the numbers of labeled and unlabeled images. m / (sum m + 1) sums to a little less than 1; softmax(z + b)
does not care.

Departures: n_l is what it is on average, the labeled distribution times the labeled images drawn, where the code counts
the labels. The code shows two views of a labeled image, the methods here show theirs.
"""

from __future__ import annotations

from torch import Tensor

from darp.refineries.base import SMALLEST, Batchwise, LossShift, Setting, normalized, per_class
from darp.store import PseudoLabelStore

PUBLISHED = {"cifar10": (2.0, 0.95), "stl10": (2.0, 0.95), "cifar100": (1.0, 0.2)}  # tau and threshold
ELSEWHERE = (1.0, 0.95)  # tau 2 ends 11 to 19 points lower on Fashion-MNIST: docs/choosing.md


class SimPro(Batchwise):
    """Args: tau: power of both priors; threshold: least confidence of a target that counts; every: steps from one
    estimate to the next; momentum: of the estimates. None: as published for the data set, if it was.
    """

    label = "SimPro"

    def __init__(
        self,
        store: PseudoLabelStore,
        setting: Setting,
        *,
        tau: float | None = None,
        threshold: float | None = None,
        every: int = 500,
        momentum: float = 0.9,
    ) -> None:
        super().__init__(store, setting)
        published = PUBLISHED.get(setting.dataset, ELSEWHERE)
        self.tau = published[0] if tau is None else tau
        self.threshold = published[1] if threshold is None else threshold
        self.every, self.momentum = every, momentum
        self.labeled = self.shares(setting.labeled_counts)
        phi = self.labeled.clone()
        self.state |= {"pi_u": self.uniform(), "phi": phi, "shift": self.tau * phi.log()}
        self.state |= {"m": phi.new_zeros(len(phi)), "n_l": phi.new_zeros(len(phi))}
        shift = self.state["shift"]
        weight = sum(setting.labeled_counts) / sum(setting.target_counts)
        self._shift = LossShift(shift, shift, labeled_weight=weight, soft=True, threshold=self.threshold)

    def rule(self, probs: Tensor, epoch: int, step: int) -> Tensor:
        if self.steps_done and self.steps_done % self.every == 0:
            self._estimate()
        targets = normalized(probs * self.state["pi_u"].clamp(min=SMALLEST) ** self.tau)
        counting = (targets.amax(dim=1, keepdim=True) >= self.threshold).to(targets.dtype)
        found, rows = self.batch_sum(targets * counting)
        self.state["m"] += found
        self.state["n_l"] += rows * self.labeled  # a batch has as many labeled images
        return targets

    def _estimate(self) -> None:
        m, n_l = self.state["m"], self.state["n_l"]
        self.state["pi_u"].lerp_(m / (m.sum() + 1), 1 - self.momentum)
        self.state["phi"].lerp_(normalized(n_l + m), 1 - self.momentum)
        self.state["shift"].copy_(self.tau * self.state["phi"].clamp(min=SMALLEST).log())
        m.zero_()
        n_l.zero_()

    def loss_shift(self) -> LossShift:
        return self._shift

    def health(self) -> dict[str, float]:
        return super().health() | per_class("shares", normalized(self.state["pi_u"]))
