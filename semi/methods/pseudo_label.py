"""Pseudo-labelling (Lee 2013), with a confidence threshold (Oliver et al. 2018, appendix B)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from data import Batch
from models import Classifier
from semi.config import Config
from semi.distributed import Ranks
from semi.losses import labeled_loss, pseudo_label_loss
from semi.methods.base import Losses, Method, View

RAMP = 0.4  # share of the training over which the unlabeled weight rises to 1


class PseudoLabel(Method):
    """The network's own confident guess is the label of the same weak view.

    Args:
        tau: least confidence of the target for an image to count.
    """

    label = "Pseudo-Label"
    views_x: ClassVar[tuple[View, ...]] = ("weak",)
    views_u: ClassVar[tuple[View, ...]] = ("weak",)
    unlabeled_includes_labeled = False
    weights_follow_epochs = True
    thresholded = True
    shifts = True

    def __init__(self, tau: float) -> None:
        self.tau = tau

    @classmethod
    def from_config(cls, config: Config, target_counts: Tensor, ranks: Ranks) -> PseudoLabel:
        return PseudoLabel(config.tau)

    @torch.no_grad()
    def guess(self, model: Classifier, batch: Batch) -> Tensor:
        return model(batch.views_u[0]).softmax(dim=1)

    def selects(self, confidence: Tensor, label: Tensor) -> Tensor:
        own = self.shift.threshold
        return confidence >= (self.tau if own is None else own)

    def losses(self, model: Classifier, batch: Batch, targets: Tensor, progress: Tensor) -> Losses:
        num_x = len(batch.labels_x)
        logits = model(torch.cat([batch.views_x[0], batch.views_u[0]]))
        confidence, label = targets.max(dim=1)
        mask = self.selects(confidence, label)
        loss_x = labeled_loss(logits[:num_x], batch.labels_x, self.shift)
        loss_u = pseudo_label_loss(logits[num_x:], targets, mask, self.shift)
        ramped = (progress / RAMP).clamp(max=1).to(loss_u.dtype) * loss_u
        return Losses(self.shift.labeled_weight * loss_x + ramped, x=loss_x, u=loss_u)
