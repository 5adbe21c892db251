"""MixMatch (Berthelot et al. 2019): sharpened mean guesses of two weak views, mixed with the labeled images."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from data import Batch
from models import Classifier
from semi.config import Config
from semi.distributed import Ranks
from semi.losses import brier, soft_cross_entropy
from semi.methods.base import Losses, Method, View
from semi.mixing import mixup, sharpen


class MixMatch(Method):
    """Cross-entropy on mixed labeled images plus a ramped squared error on mixed unlabeled ones.

    All views go through the network in one pass: batch norm sees labeled and unlabeled images together, which is
    what the published interleaving of batches is for.

    Args:
        lambda_u: weight of the unlabeled loss at the end of its linear ramp over all epochs.
        temperature: of the sharpening.
        alpha: parameters of mixup's Beta distribution.
    """

    label = "MixMatch"
    views_x: ClassVar[tuple[View, ...]] = ("weak",)
    views_u: ClassVar[tuple[View, ...]] = ("weak", "weak")
    unlabeled_includes_labeled = False
    weights_follow_epochs = True
    thresholded = False

    def __init__(self, lambda_u: float, temperature: float, alpha: float) -> None:
        self.lambda_u = lambda_u
        self.temperature = temperature
        self.alpha = alpha

    @classmethod
    def from_config(cls, config: Config, target_counts: Tensor, ranks: Ranks) -> MixMatch:
        return MixMatch(config.unlabeled_weight, config.T, config.mix_alpha)

    @torch.no_grad()
    def guess(self, model: Classifier, batch: Batch) -> Tensor:
        mean = torch.stack([model(view).softmax(dim=1) for view in batch.views_u]).mean(dim=0)
        return sharpen(mean, self.temperature)

    def losses(self, model: Classifier, batch: Batch, targets: Tensor, progress: Tensor) -> Losses:
        num_x = len(batch.labels_x)
        labels = F.one_hot(batch.labels_x, targets.shape[1]).to(targets.dtype)
        views = [*batch.views_x, *batch.views_u]
        mixed, mixed_targets = mixup(torch.cat(views), torch.cat([labels, targets, targets]), self.alpha)
        logits = model(mixed)
        loss_x = soft_cross_entropy(logits[:num_x], mixed_targets[:num_x])
        loss_u = brier(logits[num_x:], mixed_targets[num_x:])
        return Losses(loss_x + (self.lambda_u * progress).to(loss_u.dtype) * loss_u, x=loss_x, u=loss_u)
