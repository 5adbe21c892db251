"""CDMAD: the network's answer to an image of nothing is its bias, and is taken off guesses and test logits.

Lee and Kim 2024, *CDMAD: Class-Distribution-Mismatch-Aware Debiasing for Class-Imbalanced Semi-Supervised Learning*,
sections 3.2 and 3.3, and its public code: with z the logits and I one constant image, forwarded anew in each step in
training mode and without gradient,

    targets       softmax(z(x) - z(I)) = norm(p(x) / p(I)),   norm(v) = v / sum v
                  learned as distributions, all of them: there is no threshold
    test logits   z(x) - z(I), of the averaged weights

Targets are corrected once a share `start` of the training is done, 100 of 500 epochs as published; before, they are the
guesses. The test logits are shifted from the first epoch on, as in the code. I is 1 everywhere *after* normalisation,
as in the code; the paper calls it white. In training mode batch norm takes a constant image's brightness away, in
evaluation mode it does not: where brightness means something, the test shift needs an I without content (`value`). On
Fashion-MNIST, whose ground is black, the averaged network sees pullovers and bags in the published I: the shift takes
the balanced accuracy of two trainings (labels with imbalance 100; unlabeled ones alike, reversed; 60 epochs) from 0.710
to 0.573 and from 0.731 to 0.642; a black I takes it to 0.746 and 0.762.

Departures: the published code lets I into the running statistics of batch norm, one image a step beside the batches.
Here they are kept out of it, so the network is that of the guesses' method. The code corrects from the epoch after the
100th. The published ReMixMatch + CDMAD is missing: methods that sharpen their guesses do so before they get here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from darp.refineries.base import Batchwise, LossShift, Setting, per_class
from darp.store import PseudoLabelStore


class CDMAD(Batchwise):
    """Args: start: share of the training, 0 to 1, from which on targets are corrected; value: of I, normalised."""

    follows_epochs = True
    apart_from_mixtures = (
        "it divides the network's guesses by its answer to a constant image, and mix and remix sharpen "
        "them before"
    )

    label = "CDMAD"

    def __init__(
        self, store: PseudoLabelStore, setting: Setting, *, start: float = 0.2, value: float = 1.0
    ) -> None:
        super().__init__(store, setting)
        self.start = start
        self.state["log p(I)"] = self.uniform().log()
        # Twice the same: alone, an image that is down to one pixel leaves batch norm nothing to take a variance of.
        self._constant = store.orig.new_full((2, 3, setting.image_size, setting.image_size), value)
        self._shift = LossShift(soft=True, threshold=0.0)

    @torch.no_grad()
    def look(self, network: nn.Module) -> None:
        copies = {name: buffer.clone() for name, buffer in network.named_buffers()}
        logits: Tensor = functional_call(network, copies, (self._constant,))
        self.state["log p(I)"].copy_(logits[0].log_softmax(dim=0))

    def rule(self, probs: Tensor, epoch: int, step: int) -> Tensor:
        if self.setting.done(epoch, step) < self.start:
            return probs
        # In logarithms: an answer to I that is very sure has entries whose inverse float32 does not hold.
        return (probs.log() - self.state["log p(I)"]).softmax(dim=1)

    def loss_shift(self) -> LossShift:
        return self._shift

    @torch.no_grad()
    def test_shift(self, network: nn.Module) -> Tensor:
        logits: Tensor = network(self._constant)
        return -logits[0]

    def health(self) -> dict[str, float]:
        return super().health() | per_class("constant", self.state["log p(I)"].exp())
