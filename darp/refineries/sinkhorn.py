"""Entropic transport of predictions to classes: DARP's problem without its weights.

    minimise    sum_i KL(x_i || a_i)
    subject to  X >= 0,   X 1 = 1 (rows),   X^T 1 = c (columns)

whose solution is x_ik = a_ik v_k / sum_j a_ij v_j (Cuturi 2013, with the predictions as the kernel; Asano et al. 2020
and Caron et al. 2020 balance pseudo-labels so). DARP weights row i by 1 / H(a_i), which makes a sure row dearer to
move than an unsure one; here all rows cost the same. Sinkhorn and Knopp's alternation scales rows and columns in turn.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from darp.engine.table import total
from darp.refineries.align import scaled
from darp.solver import Solution


@torch.no_grad()
def solve_sinkhorn(
    probs: Tensor,
    target_counts: Tensor | Sequence[float],
    *,
    warm_start: Tensor | None = None,
    tol: float = 1e-6,
    max_iter: int = 1000,
    group: dist.ProcessGroup | None = None,
) -> Solution:
    """Scale the columns of `probs` until, with its rows renormalised, they sum to `target_counts`.

    Args:
        probs: [N, K] float32 or float64, rows on the simplex.
        target_counts: [K], at least 0, sums to N.
        warm_start: [K] duals of an earlier solution.
        tol: largest `max_k |column sum - c_k| / max(1, c_k)` that counts as converged.
        max_iter: rounds, each one reading of the table, that may be spent.
        group: processes that hold the rows between them; each gives its own and gets them back. K numbers are reduced
            a round.

    Returns:
        A solution with `duals` = -log v, the smallest 0, inf for a class of target 0. The rate of convergence is
        linear: on skewed tables some hundred rounds; where zeros put the target out of reach it ends at `max_iter`.
    """
    table = probs.double()
    counts = torch.as_tensor(target_counts, dtype=torch.float64).to(probs.device)
    scale = (counts > 0).double()
    if warm_start is not None:
        scale *= torch.exp(-warm_start.double().nan_to_num(posinf=0.0)).to(probs.device)
    for rounds in range(1, max_iter + 1):  # noqa: B007 (told below)
        rows = (table @ scale).clamp(min=1e-300)
        sums = total(scale * (table.T @ (1 / rows)), group)  # column sums of the table at this scale
        residual = ((sums - counts).abs() / counts.clamp(min=1)).max()
        if float(residual) <= tol / 2:  # waits for the device; half, so that rounding to float32 has room
            break
        scale = torch.where(sums > 0, scale * counts / sums.clamp(min=1e-300), scale)
        scale /= scale.max()
    return scaled(probs, counts, scale, iterations=rounds, tol=tol, group=group)
