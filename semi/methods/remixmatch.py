"""ReMixMatch (Berthelot et al. 2020): the weak view's aligned, sharpened guess for all views, mixup, rotation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data import Batch, rotate90
from models import Classifier
from models.classifier import ROTATIONS
from semi.config import Config
from semi.losses import soft_cross_entropy
from semi.methods.base import Losses, View
from semi.mixing import mixup, sharpen

MEMORY = 128  # steps in the running mean of the guesses
ONE_MORE = 1e-6  # of an image, for each class, so that none divides by zero


class ReMixMatch:
    """Mixed cross-entropy on all views, a rotation loss and a loss on the first strong view.

    Args:
        lambda_u, w_rot, w_ent: weights of the unlabeled, the rotation and the first-strong-view loss; the first and
            the last ramp linearly over all epochs.
        temperature: of the sharpening.
        alpha: parameters of mixup's Beta distribution.
        align_to: images of each class [K] that the running mean of the guesses is moved to, or None. They sum to the
            unlabeled images.
    """

    views_x: tuple[View, ...] = ("strong",)
    views_u: tuple[View, ...] = ("weak", "strong", "strong")
    unlabeled_includes_labeled = False
    weights_follow_epochs = True

    def __init__(
        self,
        lambda_u: float,
        w_rot: float,
        w_ent: float,
        temperature: float,
        alpha: float,
        align_to: Tensor | None,
    ) -> None:
        self.lambda_u, self.w_rot, self.w_ent = lambda_u, w_rot, w_ent
        self.temperature = temperature
        self.alpha = alpha
        self.align_to = align_to
        self._recent: Tensor | None = None  # [<= MEMORY, K], mean guess of each recent step

    @classmethod
    def from_config(cls, config: Config, target_counts: Tensor) -> ReMixMatch:
        return ReMixMatch(
            config.unlabeled_weight,
            config.w_rot,
            config.w_ent,
            config.T,
            config.mix_alpha,
            target_counts if config.align else None,
        )

    @torch.no_grad()
    def guess(self, model: Classifier, batch: Batch) -> Tensor:
        probs = model(batch.views_u[0]).softmax(dim=1)
        if self.align_to is not None:
            mean = probs.mean(dim=0, keepdim=True)
            self._recent = mean if self._recent is None else torch.cat([self._recent, mean])[-MEMORY:]
            wanted = self.align_to.to(probs)
            guessed = self._recent.mean(dim=0) * wanted.sum()  # the running mean as images of each class
            probs = probs * (wanted + ONE_MORE) / (guessed + ONE_MORE)
            probs = probs / probs.sum(dim=1, keepdim=True)
        return sharpen(probs, self.temperature)

    def losses(self, model: Classifier, batch: Batch, targets: Tensor, progress: float) -> Losses:
        num_x = len(batch.labels_x)
        labels = F.one_hot(batch.labels_x, targets.shape[1]).to(targets.dtype)
        weak, strong, strong2 = batch.views_u
        mixed, mixed_targets = mixup(
            torch.cat([*batch.views_x, strong, strong2, weak]),
            torch.cat([labels, targets, targets, targets]),
            self.alpha,
        )
        turns = torch.randint(ROTATIONS, (len(strong),), device=strong.device)
        logits = model(mixed)
        loss_x = soft_cross_entropy(logits[:num_x], mixed_targets[:num_x])
        loss_u = soft_cross_entropy(logits[num_x:], mixed_targets[num_x:])
        loss_r = F.cross_entropy(model.rotation(rotate90(strong, turns)), turns)
        loss_e = soft_cross_entropy(model(strong), targets)
        total = loss_x + progress * (self.lambda_u * loss_u + self.w_ent * loss_e) + self.w_rot * loss_r
        return Losses(total, x=loss_x, u=loss_u, r=loss_r, e=loss_e)

    def state_dict(self) -> dict[str, Any]:
        return {} if self._recent is None else {"recent": self._recent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._recent = state.get("recent")
