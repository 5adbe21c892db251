"""Distribution aligning refinery of pseudo-labels (Kim et al., NeurIPS 2020): the mathematics alone.

>>> from darp import solve
>>> solution = solve(probs, target_counts)  # probs [N, K] on the simplex, counts [K] that sum to N
"""

from darp.noise import remove_noise
from darp.reference import solve_reference
from darp.refiner import NoRefiner, Refiner
from darp.refineries.align import align
from darp.refineries.darp import denoised
from darp.refineries.sinkhorn import solve_sinkhorn
from darp.solver import Solution, solve
from darp.store import PseudoLabelStore

__all__ = [
    "NoRefiner",
    "PseudoLabelStore",
    "Refiner",
    "Solution",
    "align",
    "denoised",
    "remove_noise",
    "solve",
    "solve_reference",
    "solve_sinkhorn",
]
