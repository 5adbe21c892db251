"""Sharpening and mixup, as MixMatch (Berthelot et al. 2019, sections 3.2 and 3.3) uses them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Beta


def sharpen(probs: Tensor, temperature: float) -> Tensor:
    """Rows of probs [B, K] to the power 1 / temperature, renormalised: lower temperatures are surer."""
    powered = probs ** (1 / temperature)
    return powered / powered.sum(dim=1, keepdim=True)


def mixup(images: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Each image [M, ...] and its target [M, K] mixed with those of another, the own share at least a half.

    One share l ~ Beta(alpha, alpha), max(l, 1 - l), for the whole batch, drawn on the host: the device need not wait.
    """
    own = float(Beta(alpha, alpha).sample())
    own = max(own, 1 - own)
    other = torch.randperm(len(images), device=images.device)
    return own * images + (1 - own) * images[other], own * targets + (1 - own) * targets[other]
