"""The baseline that learns from the labeled images alone. Its guesses are still logged, to compare."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from data import Batch
from models import Classifier
from semi.config import Config
from semi.distributed import Ranks
from semi.losses import labeled_loss
from semi.methods.base import Losses, Method, View


class Supervised(Method):
    label = "Supervised"
    views_x: ClassVar[tuple[View, ...]] = ("weak",)
    views_u: ClassVar[tuple[View, ...]] = ("weak",)
    unlabeled_includes_labeled = False
    weights_follow_epochs = False
    thresholded = False
    shifts = True

    @classmethod
    def from_config(cls, config: Config, target_counts: Tensor, ranks: Ranks) -> Supervised:
        return Supervised()

    @torch.no_grad()
    def guess(self, model: Classifier, batch: Batch) -> Tensor:
        """In evaluation mode, so that unlabeled images leave no trace, not even in batch norm."""
        model.eval()
        probs = model(batch.views_u[0]).softmax(dim=1)
        model.train()
        return probs

    def losses(self, model: Classifier, batch: Batch, targets: Tensor, progress: Tensor) -> Losses:
        loss_x = labeled_loss(model(batch.views_x[0]), batch.labels_x, self.shift)
        return Losses(loss_x, x=loss_x)
