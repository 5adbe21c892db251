"""The class distribution of the unlabeled data, followed while the network learns (`--est online`).

Problem (Saerens, Latinne and Decaestecker 2002, section 2): images of one class look alike in both sets, only the
classes' shares differ. With p(x) the posteriors where all classes have equal shares, expectation-maximisation climbs
the likelihood of the unlabeled images over their shares pi,

    pi <- mean over the unlabeled x of norm(p(x) pi),   norm(v) = v / sum v

SimPro (Du et al. 2024) takes such steps while it trains, and lets the network give p itself: both losses see z + log
phi, so z stands for equal shares, with phi the shares of what is learned from. So it is here. Each refresh of the table
takes one step with momentum,

    pi  <- 0.9 pi + 0.1 (0.8 mean over the rows guessed so far of norm(p pi) + 0.2 / K)
    phi <- 0.9 phi + 0.1 norm(labeled shares + selected pseudo-labels of each class / rows)

and the table is then refined to the column sums N pi. Until that begins, the targets are norm(p pi). A step has as many
labeled images as unlabeled ones, of which the selected ones count. pi starts uniform, phi at the labeled shares. The
0.2 / K (the mode under a Dirichlet prior) is against the step's own bent: a network in training is not calibrated, so
easy classes take from hard ones, and learn to. Without it the estimate ran from 0.09 to 0.25 away from a balanced truth
in 24 epochs; on the same guesses it went to 0.15 with it, and on a reversed tail to 0.10 in place of 0.17.

Departures from SimPro: all rows of the table count and not the sure ones of the last batches, because the sure ones are
of the easiest classes first; the 0.2 / K; the labeled loss keeps its weight.

The textbook's own correction, p / phi after a loss without a shift, was tried and left: on Fashion-MNIST (labels with
imbalance 100, unlabeled ones balanced) it stays 0.44 to 0.49 from the truth in total variation over 30 epochs, where
the labeled shares are 0.44 away, because a network in training is not calibrated and phi of a tail class is 0.003.
docs/estimation.md has the figures of this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from darp.engine.table import total
from darp.refineries.base import SMALLEST, LossShift, normalized, per_class
from darp.store import PseudoLabelStore


class OnlineEstimate:
    """Args:
        store: of this process's rows.
        labeled_counts: [K], labeled images of each class; one without any counts as one.
        selects: which rows of targets are learned from, bool [N], by their largest entry [N] and its class [N].
        momentum: of both estimates, from one refresh to the next.
        shrink: how far pi is drawn to equal shares, 0 to 1.
        group: processes that hold the rows between them.

    Attributes:
        pi: [K], the estimate.
        phi: [K], shares of what the network learns from.
        shift: what the losses see beside the logits: log phi, in one place.
    """

    def __init__(
        self,
        store: PseudoLabelStore,
        labeled_counts: Sequence[float],
        *,
        selects: Callable[[Tensor, Tensor], Tensor],
        momentum: float = 0.9,
        shrink: float = 0.2,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.store, self.selects, self.group = store, selects, group
        self.momentum, self.shrink = momentum, shrink
        labeled = torch.as_tensor(labeled_counts, dtype=torch.float64).clamp(min=1)
        self.labeled = (labeled / labeled.sum()).to(store.orig)
        self.pi = torch.full_like(self.labeled, 1 / len(labeled))
        self.phi = self.labeled.clone()
        self._log_phi = self.phi.log()
        self.shift = LossShift(labeled=self._log_phi, unlabeled=self._log_phi)

    def posterior(self, probs: Tensor) -> Tensor:
        """What guesses [B, K] are where the classes have the shares pi."""
        return normalized(probs * self.pi)

    @torch.no_grad()
    def update(self) -> None:
        """One step of both, on this process's rows and those of the others. Nothing in it waits for the device."""
        table, visited = self.store.orig, self.store.visited.to(self.pi)
        learned_from = self.store.refined
        if learned_from is table:  # nothing was refined yet
            learned_from = self.posterior(table)
        confidence, label = learned_from.max(dim=1)
        counted = self.selects(confidence, label).to(self.pi)
        learned = torch.zeros_like(self.pi).index_add_(0, label, counted)
        # The sum over the rows of norm(p pi), by two products: nothing as large as the table is made.
        found = self.pi * ((visited / (table @ self.pi)) @ table)
        rows = visited.new_tensor(len(table))
        found, learned, seen, rows = total(
            torch.cat([found, learned, visited.sum()[None], rows[None]]), self.group
        ).split([len(found), len(learned), 1, 1])
        wanted = (1 - self.shrink) * found / seen + self.shrink / len(self.pi)
        self.pi.lerp_(wanted, 1 - self.momentum).clamp_(min=SMALLEST)  # a class at 0 would stay there
        self.phi.lerp_(normalized(self.labeled + learned / rows), 1 - self.momentum)
        self._log_phi.copy_(self.phi.log())

    def counts(self, rows: float) -> Tensor:
        """What the table is refined to: [K] float64 on the CPU, sums to `rows`. Waits for the device."""
        return normalized(self.pi.double().cpu()) * rows

    def health(self) -> dict[str, float]:
        """`refine/prior/K`: phi. pi is the target, which the row has. Waits for the device."""
        return per_class("prior", self.phi)

    def state_dict(self) -> dict[str, Tensor]:
        return {"pi": self.pi, "phi": self.phi}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.pi.copy_(state["pi"])
        self.phi.copy_(state["phi"])
        self._log_phi.copy_(self.phi.log())
