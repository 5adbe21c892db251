"""DARP as one refinement: noisy entries are removed, then the convex problem is solved (Kim et al. 2020, section 3).

`darp.noise` and `darp.solver` state the two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from darp.noise import remove_noise
from darp.solver import Solution


def denoised(solver: Callable[..., Solution], alpha: float) -> Callable[..., Solution]:
    """DARP as one refinement: noisy entries are removed (see `remove_noise`), then `solver` does the rest."""

    def refine(
        probs: Tensor, target_counts: Tensor | Sequence[float], *, warm_start: Tensor | None = None
    ) -> Solution:
        return solver(remove_noise(probs, target_counts, alpha), target_counts, warm_start=warm_start)

    return refine
