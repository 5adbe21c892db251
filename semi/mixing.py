"""Sharpening and mixup, as MixMatch (Berthelot et al. 2019, sections 3.2 and 3.3) uses them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Gamma


def sharpen(probs: Tensor, temperature: float) -> Tensor:
    """Rows of probs [B, K] to the power 1 / temperature, renormalised: lower temperatures are surer."""
    powered = probs ** (1 / temperature)
    return powered / powered.sum(dim=1, keepdim=True)


def mixup(images: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Each image [M, ...] and its target [M, K] mixed with those of another, the own share at least a half.

    One share for the whole batch, drawn on the device: neither it nor the host waits for the other.
    """
    own = own_share(alpha, images.device).to(images.dtype)
    other = torch.randperm(len(images), device=images.device)
    return own * images + (1 - own) * images[other], own * targets + (1 - own) * targets[other]


def own_share(alpha: float, device: torch.device) -> Tensor:
    """max(l, 1 - l) of one l ~ Beta(alpha, alpha): a float32 scalar in [0.5, 1] on `device`.

    l is g1 / (g1 + g2) of two draws of Gamma(alpha), each of which is a draw of Gamma(alpha + 1) times u ** (1 / alpha)
    (Marsaglia and Tsang 2000, section 6). Their logarithms keep small alphas from vanishing: the larger share is the
    logistic function of the distance between them.
    """
    rate = torch.ones(2, device=device)
    gamma = Gamma(torch.full((2,), alpha + 1, device=device), rate, validate_args=False).sample()
    uniform = 1 - torch.rand(2, device=device)  # (0, 1]
    logs = gamma.log() + uniform.log() / alpha
    return (logs[0] - logs[1]).abs().sigmoid()
