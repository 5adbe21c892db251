"""DARP as one refinement: noisy entries are removed, then the convex problem is solved (Kim et al. 2020, section 3).

`darp.noise` and `darp.solver` state the two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.distributed as dist
from torch import Tensor

from darp.noise import remove_noise
from darp.solver import Solution, solve


def denoised(
    solver: Callable[..., Solution], alpha: float, group: dist.ProcessGroup | None = None
) -> Callable[..., Solution]:
    """DARP as one refinement: noisy entries are removed (see `remove_noise`), then `solver` does the rest.

    group: processes that hold the rows between them; `solver` knows them by itself.
    """

    def refine(
        probs: Tensor, target_counts: Tensor | Sequence[float], *, warm_start: Tensor | None = None
    ) -> Solution:
        cleaned = remove_noise(probs, target_counts, alpha, group=group)
        return solver(cleaned, target_counts, warm_start=warm_start)

    return refine


def refine(probs: Tensor, target_counts: Tensor | Sequence[float], alpha: float = 2.0) -> Solution:
    """DARP in one call: the pseudo-labels `probs`, moved as little as possible until they meet the target.

    Args:
        probs: [N, K], rows sum to 1, none of the entries negative; float32 or float64, on any device. Not changed.
        target_counts: [K], sums to N.
        alpha: the published threshold of noise removal: class k keeps its alpha * target_counts[k] largest entries.

    Returns the refined table with its certificate (`darp.solver.Solution`). Raises ValueError for what is no table of
    probabilities, or counts that do not fit it.
    """
    return solve(remove_noise(probs, target_counts, alpha), target_counts)
