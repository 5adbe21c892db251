"""Losses against soft targets."""

from torch import Tensor


def soft_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over the batch of -sum_k weights_k targets_k log softmax(logits)_k; logits and targets [B, K], weights [K].

    Without weights each class counts 1.
    """
    targets = targets if weights is None else targets * weights
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()


def brier(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over batch and classes of the squared error of softmax(logits) against targets, both [B, K]."""
    return (logits.softmax(dim=1) - targets).square().mean()
