"""Distribution aligning refinery of pseudo-labels (Kim et al., NeurIPS 2020), and a monitor for any training loop.

>>> from darp import PseudoLabelMonitor, refine
>>> solution = refine(probs, target_counts)  # probs [N, K] on the simplex, counts [K] that sum to N
>>> solution.refined, solution.residual, solution.converged
"""

from darp.monitor import PseudoLabelMonitor
from darp.noise import remove_noise
from darp.reference import solve_reference
from darp.refiner import NoRefiner, Refiner
from darp.refineries.align import align
from darp.refineries.darp import denoised, refine
from darp.refineries.sinkhorn import solve_sinkhorn
from darp.solver import Solution, solve
from darp.store import PseudoLabelStore

__all__ = [
    "NoRefiner",
    "PseudoLabelMonitor",
    "PseudoLabelStore",
    "Refiner",
    "Solution",
    "align",
    "denoised",
    "refine",
    "remove_noise",
    "solve",
    "solve_reference",
    "solve_sinkhorn",
]
