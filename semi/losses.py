"""Losses against soft targets."""

from torch import Tensor


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch of -sum_k targets_k log softmax(logits)_k; both [B, K]."""
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()


def brier(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over batch and classes of the squared error of softmax(logits) against targets, both [B, K]."""
    return (logits.softmax(dim=1) - targets).square().mean()
