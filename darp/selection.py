"""Removal of noisy entries: early version."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


@torch.no_grad()
def remove_noise(
    probs: Tensor, target_counts: Tensor | Sequence[float], alpha: float, *, group: dist.ProcessGroup | None = None
) -> Tensor:
    """Keep the int(alpha c_k) most confident entries of each class (early version)."""
    counts = torch.as_tensor(target_counts, dtype=torch.float64, device=probs.device)
    keep = (alpha * counts).long().clamp_max(probs.shape[0])
    order = torch.argsort(probs, dim=0, descending=True, stable=True)
    rank = torch.empty_like(order)
    rank.scatter_(0, order, torch.arange(probs.shape[0], device=probs.device)[:, None].expand_as(order))
    kept = torch.where(rank < keep, probs, 0.0)
    scale = (counts + 1e-6) / (kept.sum(0, dtype=torch.float64) + 1e-6)
    kept = kept * scale.to(probs.dtype) + 1e-6
    return kept / kept.sum(1, keepdim=True)
