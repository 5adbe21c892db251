"""The published coordinate scheme: early version (row normalisation and scipy's Newton per class)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import newton
from torch import Tensor

from darp.solver import Solution


def solve_reference(
    probs: Tensor,
    target_counts: Tensor | Sequence[float],
    *,
    rounds: int = 10,
    tol: float = 0.1,
    newton_steps: int = 30,
    warm_start: Tensor | None = None,
) -> Solution:
    """Early version."""
    a = np.ascontiguousarray(probs.detach().cpu().double().numpy().T)  # [K, N]: a class is a contiguous row
    counts = torch.as_tensor(target_counts, dtype=torch.float64).cpu().numpy()
    num_classes = a.shape[0]
    h = -(a * np.log(a + 1e-6)).sum(0)
    nu = np.zeros(num_classes) if warm_start is None else warm_start.detach().cpu().double().numpy().copy()
    moved = a * np.exp(-h * nu[:, None])
    reason = ""
    for _ in range(rounds):
        alpha = 1.0 / moved.sum(0)
        try:
            for k in range(num_classes):
                base = a[k] * alpha

                def excess(v: float, base: np.ndarray = base, k: int = k) -> float:
                    return float(base @ np.exp(-h * v) - counts[k])

                def slope(v: float, base: np.ndarray = base) -> float:
                    return float(-(base * h) @ np.exp(-h * v))

                nu[k] = newton(excess, nu[k], fprime=slope, tol=tol, maxiter=newton_steps)
                moved[k] = a[k] * np.exp(-h * nu[k])
        except RuntimeError as error:
            reason = str(error)
            break
    x = moved / moved.sum(0)
    residual = float((np.abs(x.sum(1) - counts) / np.maximum(counts, 1)).max())
    refined = torch.from_numpy(np.ascontiguousarray(x.T)).to(probs)
    return Solution(refined, torch.from_numpy(nu), residual, rounds, residual <= 1e-6, reason or "coordinate scheme")
