"""The paper's coordinate scheme, kept as an oracle for tests and as the peer in benchmarks.

It solves the problem that `solver.py` states by alternating (Kim et al., NeurIPS 2020, Algorithm 1): the rows'
multipliers in closed form, then for each class k the root nu_k of

    sum_i a_ik exp(-h_i nu_k) / Z_i = c_k        (Z_i fixed)

by `scipy.optimize.newton` without a derivative, which is the secant method: from the last round's nu_k (0 at first), at
most 30 steps, to an absolute tolerance of 0.1 in nu_k (0.3 for CIFAR-100 and STL-10). T rounds of this, and the rows
normalised once more at the end. The rows then sum to 1 and the columns to the target only as well as they happen to.

Departures from the published code:
- A root search that fails (scipy raises RuntimeError) ends the scheme, which then returns its last complete round with
  `converged` False, where the published code takes the training down with it.
- The arithmetic is float64.
- The table is held by classes, so that one class is read in one stride.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from darp.solver import Solution

ENTROPY_FLOOR = 1e-6  # added inside the logarithm of the entropy, as published
ACCEPTED = 1e-6  # residual that counts as converged, the default of `solve`


@torch.no_grad()
def solve_reference(
    probs: Tensor,
    target_counts: Tensor | Sequence[float],
    *,
    rounds: int = 10,
    tol: float = 0.1,
    newton_steps: int = 30,
    warm_start: Tensor | None = None,
) -> Solution:
    """Refine `probs` [N, K] towards columns that sum to `target_counts` [K] by the published scheme.

    Args:
        probs: rows on the simplex, any floating type, any device (the work is done on the CPU).
        target_counts: sum to N.
        rounds: T of the paper.
        tol: absolute tolerance of a root search; published 0.1, and 0.3 for CIFAR-100 and STL-10.
        newton_steps: most steps of a root search (scipy's name for it; the steps are the secant's).
        warm_start: taken so that the call looks like that of `solve`; the published scheme starts afresh each time,
            and so does this one.

    Returns:
        Solution. `iterations` counts readings of the whole table, K root-search steps being one; `converged` means
        a residual of at most 1e-6.

    Raises:
        ValueError: the shapes do not fit.
    """
    counts = torch.as_tensor(target_counts, dtype=torch.float64).detach().cpu().numpy()
    if probs.ndim != 2 or counts.shape != (probs.shape[1],):
        raise ValueError(
            f"probs has shape {tuple(probs.shape)} and target_counts {counts.shape}: give [N, K] and [K]"
        )
    table = np.ascontiguousarray(probs.detach().cpu().numpy().T, dtype=np.float64)  # [K, N]
    entropy = -(table * np.log(table + ENTROPY_FLOOR)).sum(0)
    duals = np.zeros(len(counts))
    grown = table.copy()  # a_ik exp(-h_i nu_k)
    readings, reason = 0.0, ""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for _ in range(rounds):
            try:
                duals, grown, steps = _round(table, entropy, counts, duals, grown, tol, newton_steps)
            except RuntimeError as error:
                reason = f"a root search failed ({str(error).rstrip('.')}): use solve"
                break
            readings += 1 + steps / len(counts)
        refined = grown / grown.sum(0)
    residual = float((np.abs(refined.sum(1) - counts) / np.maximum(counts, 1)).max())
    if not reason and not residual <= ACCEPTED:
        reason = (
            f"{rounds} rounds left a residual of {residual:.1e}: raise rounds and lower tol, or use solve"
        )
    return Solution(
        torch.from_numpy(np.ascontiguousarray(refined.T)).to(probs),
        torch.from_numpy(duals),
        residual,
        math.ceil(readings),
        residual <= ACCEPTED,
        reason,
    )


def _round(
    table: np.ndarray,
    entropy: np.ndarray,
    counts: np.ndarray,
    duals: np.ndarray,
    grown: np.ndarray,
    tol: float,
    newton_steps: int,
) -> tuple[np.ndarray, np.ndarray, int]:
    """One round: rows, then every class; new duals [K], a_ik exp(-h_i nu_k) [K, N], and the steps taken."""
    from scipy.optimize import newton  # here, because importing it takes half a second

    inverse = 1.0 / grown.sum(0)
    duals, grown = duals.copy(), np.empty_like(grown)
    steps = 0
    for k, count in enumerate(counts):
        search = _Search(table[k] * inverse, entropy, float(count))
        duals[k] = newton(search.excess, duals[k], tol=tol, maxiter=newton_steps)
        grown[k] = table[k] * np.exp(-duals[k] * entropy)
        steps += search.steps
    return duals, grown, steps


class _Search:
    """Column sum minus target of one class as a function of its dual, counting how often it is asked."""

    def __init__(self, base: np.ndarray, entropy: np.ndarray, count: float) -> None:
        self.base, self.entropy, self.count = base, entropy, count
        self.steps = 0

    def excess(self, nu: float) -> float:
        self.steps += 1
        return float((self.base * np.exp(-nu * self.entropy)).sum()) - self.count
