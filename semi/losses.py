"""Losses against soft targets, and those that a refinery may shift."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from darp.refineries.base import LossShift


def soft_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over the batch of -sum_k weights_k targets_k log softmax(logits)_k; logits and targets [B, K], weights [K].

    Without weights each class counts 1.
    """
    targets = targets if weights is None else targets * weights
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()


def brier(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over batch and classes of the squared error of softmax(logits) against targets, both [B, K]."""
    return (logits.softmax(dim=1) - targets).square().mean()


def labeled_loss(logits: Tensor, labels: Tensor, shift: LossShift) -> Tensor:
    """Mean cross-entropy of logits [B, K] against classes [B]."""
    return F.cross_entropy(shifted(logits, shift.labeled), labels)


def pseudo_label_loss(logits: Tensor, targets: Tensor, mask: Tensor, shift: LossShift) -> Tensor:
    """Mean cross-entropy of logits [V B, K], V views of B images one after the other, against targets [B, K].

    Images that are not in `mask`, bool [B], count as zero. The label is the target's largest entry, unless `shift`
    wants the target whole.
    """
    views = len(logits) // len(targets)
    wanted = targets.repeat(views, 1) if shift.soft else targets.argmax(dim=1).repeat(views)
    losses = F.cross_entropy(shifted(logits, shift.unlabeled), wanted, reduction="none")
    return (losses * mask.to(logits.dtype).repeat(views)).mean()


def shifted(logits: Tensor, shift: Tensor | None) -> Tensor:
    """Logits [B, K] with `shift` [K] added to each row; None: as they are."""
    return logits if shift is None else logits + shift
