"""Distribution alignment of a table of predictions: one rescaling of its columns, no optimisation.

Berthelot et al. 2020 (ReMixMatch), section 3.1, align a batch's guesses with a running mean; here the whole table is
aligned with its own mean, so that it can stand where DARP stands and be compared with it:

    x_ik = a_ik (c_k / s_k) / sum_j a_ij (c_j / s_j)    with s = the column sums of A

The rows are renormalised after the columns were scaled, so the columns meet the target only roughly. It is the first
round of `darp.refineries.sinkhorn`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from darp.engine.table import total
from darp.solver import Solution

REMEDY = (
    "raise max_iter, or mix a little of every class into the table if its zeros put the target out of reach"
)


@torch.no_grad()
def align(
    probs: Tensor,
    target_counts: Tensor | Sequence[float],
    *,
    warm_start: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> Solution:
    """Scale the columns of `probs` by target over current share, renormalise the rows, once.

    Args:
        probs: [N, K] float32 or float64, rows on the simplex.
        target_counts: [K], at least 0, sums to N.
        warm_start: taken for the sake of the common signature; there is nothing to start from.
        group: processes that hold the rows between them; each gives its own and gets them back.

    Returns:
        A solution whose `residual` tells how far the columns still are from the target. It counts as converged,
        because alignment promises no more. `duals` are -log of the columns' scales.
    """
    table = probs.double()
    counts = torch.as_tensor(target_counts, dtype=torch.float64).to(probs.device)
    sums = total(table.sum(dim=0), group)
    scale = torch.where(sums > 0, counts / sums.clamp(min=1e-300), 0.0)
    return scaled(probs, counts, scale, iterations=1, tol=None, group=group)


def scaled(
    probs: Tensor,
    counts: Tensor,
    scale: Tensor,
    *,
    iterations: int,
    tol: float | None,
    group: dist.ProcessGroup | None,
) -> Solution:
    """The table with its columns times `scale` [K] float64 and its rows renormalised, measured as it is written.

    A row that is zero everywhere after scaling stays as it was. Without `tol` nothing was to be reached.
    """
    table = probs.double() * scale
    sums = table.sum(dim=1, keepdim=True)
    refined = torch.where(sums > 0, table / sums.clamp(min=1e-300), probs.double()).to(probs.dtype)
    column_sums = total(refined.sum(dim=0, dtype=torch.float64), group)
    residual = float(((column_sums - counts).abs() / counts.clamp(min=1)).max())  # waits for the device
    duals = -scale.log().cpu()
    converged = tol is None or residual <= tol
    reason = "" if converged else f"{iterations} rounds left a residual of {residual:.1e}: {REMEDY}"
    return Solution(refined, duals - duals.min(), residual, iterations, converged, reason)
