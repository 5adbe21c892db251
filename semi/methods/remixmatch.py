"""ReMixMatch (Berthelot et al. 2020): the weak view's aligned, sharpened guess for all views, mixup, rotation."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from data import Batch, rotate90
from models import Classifier
from models.classifier import ROTATIONS
from semi.config import Config
from semi.distributed import Ranks
from semi.losses import soft_cross_entropy
from semi.methods.base import Losses, Method, View
from semi.mixing import mixup, sharpen

MEMORY = 128  # steps in the running mean of the guesses
ONE_MORE = 1e-6  # of an image, for each class, so that none divides by zero


class ReMixMatch(Method):
    """Mixed cross-entropy on all views, a rotation loss and a loss on the first strong view.

    Args:
        lambda_u, w_rot, w_ent: weights of the unlabeled, the rotation and the first-strong-view loss; the first and
            the last ramp linearly over all epochs.
        temperature: of the sharpening.
        alpha: parameters of mixup's Beta distribution.
        align_to: images of each class [K] that the running mean of the guesses is moved to, or None. They sum to the
            unlabeled images.
        ranks: processes whose guesses the running mean is of.
    """

    label = "ReMixMatch"
    views_x: ClassVar[tuple[View, ...]] = ("strong",)
    views_u: ClassVar[tuple[View, ...]] = ("weak", "strong", "strong")
    unlabeled_includes_labeled = False
    weights_follow_epochs = True
    thresholded = False

    def __init__(
        self,
        lambda_u: float,
        w_rot: float,
        w_ent: float,
        temperature: float,
        alpha: float,
        align_to: Tensor | None,
        ranks: Ranks,
    ) -> None:
        self.lambda_u, self.w_rot, self.w_ent = lambda_u, w_rot, w_ent
        self.temperature = temperature
        self.alpha = alpha
        self.align_to = align_to
        self.ranks = ranks
        # The mean guess of each recent step [MEMORY, K], newest last, zeros before there were any; and how many there
        # were. Both stay where the guesses are, and in their places: a step may be recorded once and replayed.
        self._recent: Tensor | None = None
        self._seen = torch.zeros(())

    @classmethod
    def from_config(cls, config: Config, target_counts: Tensor, ranks: Ranks) -> ReMixMatch:
        return ReMixMatch(
            config.unlabeled_weight,
            config.w_rot,
            config.w_ent,
            config.T,
            config.mix_alpha,
            target_counts if config.align else None,
            ranks,
        )

    @torch.no_grad()
    def guess(self, model: Classifier, batch: Batch) -> Tensor:
        probs = model(batch.views_u[0]).softmax(dim=1)
        if self.align_to is not None:
            wanted = self.align_to = self.align_to.to(probs)  # moved by the first step, there from then on
            # The running mean as images of each class.
            mean = self.ranks.sum_(probs.mean(dim=0, keepdim=True)) / self.ranks.size
            guessed = self._remembered(mean) * wanted.sum()
            probs = probs * (wanted + ONE_MORE) / (guessed + ONE_MORE)
            probs = probs / probs.sum(dim=1, keepdim=True)
        return sharpen(probs, self.temperature)

    def _remembered(self, mean: Tensor) -> Tensor:
        """The mean [K] of the guesses' means of the last MEMORY steps, `mean` [1, K] being the newest."""
        if self._recent is None:
            self._recent = mean.new_zeros(MEMORY, mean.shape[1])
            self._seen = mean.new_zeros(())
        self._recent, self._seen = self._recent.to(mean), self._seen.to(mean)  # a checkpoint's are on the CPU
        self._recent.copy_(torch.cat([self._recent[1:], mean]))
        self._seen += 1
        return self._recent.sum(dim=0) / self._seen.clamp(max=MEMORY)

    def losses(self, model: Classifier, batch: Batch, targets: Tensor, progress: Tensor) -> Losses:
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
        ramped = progress.to(loss_u.dtype) * (self.lambda_u * loss_u + self.w_ent * loss_e)
        total = loss_x + ramped + self.w_rot * loss_r
        return Losses(total, x=loss_x, u=loss_u, r=loss_r, e=loss_e)

    def state_dict(self) -> dict[str, Any]:
        return {} if self._recent is None else {"recent": self._recent, "seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        recent: Tensor | None = state.get("recent")
        if recent is None:
            return
        self._recent = recent.new_zeros(MEMORY, recent.shape[1])
        self._recent[MEMORY - len(recent) :] = (
            recent  # earlier checkpoints hold only the steps that were seen
        )
        self._seen = state.get("seen", recent.new_tensor(float(len(recent))))
