"""early version"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from darp.kernels_torch import TorchTable


@dataclass(frozen=True)
class Solution:
    refined: Tensor
    duals: Tensor
    residual: float
    iterations: int
    converged: bool
    reason: str = ""


def _direction(sums: Tensor, coupling: Tensor, counts: Tensor, active: Tensor) -> Tensor:
    ratio = torch.log(torch.where(active & (sums > 0), sums / counts, 1.0))
    r = torch.where(active, sums * (ratio - (sums * ratio).sum() / sums.sum()), 0.0)
    degree = coupling.sum(1)
    scale = torch.where(degree > 0, degree.clamp_min(1e-300).rsqrt(), 0.0)
    root = degree.sqrt()
    root = root / root.norm().clamp_min(1e-300)
    a = torch.diag((degree > 0).double()) - scale[:, None] * coupling * scale + torch.outer(root, root)
    values, vectors = torch.linalg.eigh(a)
    return scale * (vectors @ ((vectors.T @ (scale * r)) / values.clamp_min(1e-12)))


@torch.no_grad()
def solve(
    probs: Tensor,
    target_counts: Tensor | Sequence[float],
    *,
    warm_start: Tensor | None = None,
    tol: float = 1e-6,
    max_iter: int = 100,
    group: dist.ProcessGroup | None = None,
) -> Solution:
    """Early version."""
    counts = torch.as_tensor(target_counts, dtype=torch.float64, device=probs.device)
    if counts.shape != (probs.shape[1],):
        raise ValueError(f"target_counts has shape {tuple(counts.shape)}: give {probs.shape[1]} numbers")
    counts = counts * (probs.shape[0] / counts.sum())
    active = counts > 0
    refined = torch.empty_like(probs)
    table = TorchTable(probs.contiguous(), refined)
    table.start()
    duals = torch.zeros_like(counts) if warm_start is None else warm_start.to(counts)
    passes = 1
    sums, coupling = table.measure(duals, active)
    scale = counts.clamp_min(1)
    residual = float(((sums - counts).abs() / scale).max())
    while residual > tol and passes < max_iter:
        d = _direction(sums, coupling, counts, active)
        slope, t = float((counts - sums) @ d), 1.0
        while passes < max_iter:
            new_sums, coupling = table.measure(duals + t * d, active)
            passes += 1
            new_slope = float((counts - new_sums) @ d)
            if new_slope <= 0.5 * abs(slope) or t < 1e-6:
                break
            t *= max(0.1, min(0.5, abs(slope) / (abs(slope) + new_slope)))
        duals, sums = duals + t * d, new_sums
        duals = duals - duals.min()
        residual = float(((sums - counts).abs() / scale).max())
    sums = table.write(duals, active)
    residual = float(((sums - counts).abs() / scale).max())
    converged = residual <= tol
    return Solution(refined, duals, residual, passes, converged, "" if converged else "no progress")
