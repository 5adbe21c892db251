"""FixMatch (Sohn et al. 2020): the weak view's guess, where it is sure enough, is the label of two strong views."""

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


class FixMatch(Method):
    """Cross-entropy on labeled images plus, with weight 1, on the strong views of confident unlabeled ones.

    Args:
        tau: least confidence of the *target* (refined, where there is refinement) for an image to count.
    """

    label = "FixMatch"
    views_x: ClassVar[tuple[View, ...]] = ("weak",)
    views_u: ClassVar[tuple[View, ...]] = ("weak", "strong", "strong")
    unlabeled_includes_labeled = True
    weights_follow_epochs = False
    thresholded = True
    shifts = True

    def __init__(self, tau: float) -> None:
        self.tau = tau

    @classmethod
    def from_config(cls, config: Config, target_counts: Tensor, ranks: Ranks) -> FixMatch:
        return FixMatch(config.tau)

    @torch.no_grad()
    def guess(self, model: Classifier, batch: Batch) -> Tensor:
        return model(batch.views_u[0]).softmax(dim=1)

    def selects(self, confidence: Tensor, label: Tensor) -> Tensor:
        own = self.shift.threshold
        return confidence >= (self.tau if own is None else own)

    def losses(self, model: Classifier, batch: Batch, targets: Tensor, progress: Tensor) -> Losses:
        strong = batch.views_u[1:]
        logits = model(torch.cat([batch.views_x[0], *strong]))  # one pass, so batch norm sees all views
        num_x = len(batch.labels_x)
        confidence, label = targets.max(dim=1)
        mask = self.selects(confidence, label)
        loss_x = labeled_loss(logits[:num_x], batch.labels_x, self.shift)
        loss_u = pseudo_label_loss(logits[num_x:], targets, mask, self.shift)
        return Losses(self.shift.labeled_weight * loss_x + loss_u, x=loss_x, u=loss_u)
