"""When refinement happens: the schedule of Kim et al. 2020, section 3.2, around what refines a table."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from darp.engine.table import total
from darp.online_estimate import OnlineEstimate
from darp.refineries.base import NO_SHIFT, LossShift, Refinery
from darp.solver import Solution
from darp.store import PseudoLabelStore

Solver = Callable[..., Solution]


class NoRefiner(Refinery):
    """The guesses are the targets."""


class Refiner(Refinery):
    """From epoch `warm` + 1 on (epochs count from 0) every `num_iter`-th step refines the whole table.

    A refresh refines the table as it then is and saves the result; between refreshes the saved rows serve, although
    the model has moved on. The table `store.orig` is never changed by it.

    Args:
        store: the tables; shared with the training loop.
        target_counts: [K], sums to the number of rows (those of all processes).
        warm: number of the last epoch without refinement.
        num_iter: steps from one refresh to the next, counted from 0 in each epoch.
        solver: what refines: `denoised(solve, alpha)` is DARP, `align` and `solve_sinkhorn` are its neighbours.
        group: processes that hold the rows between them; `solver` knows them by itself.
        estimate: what the target follows from the first epoch on, in place of `target_counts`, and what shifts the
            losses for it; None: the target stays.
    """

    target_counts: Tensor

    def __init__(
        self,
        store: PseudoLabelStore,
        target_counts: Tensor | Sequence[float],
        *,
        warm: int,
        num_iter: int,
        solver: Solver,
        group: dist.ProcessGroup | None = None,
        estimate: OnlineEstimate | None = None,
    ) -> None:
        self.store = store
        self.target_counts = torch.as_tensor(target_counts, dtype=torch.float64)
        self._given_counts = self.target_counts  # their sum, the rows of all processes, is that of any target
        self.warm = warm
        self.num_iter = num_iter
        self.solver = solver
        self.group = group
        self.estimate = estimate
        self._duals: Tensor | None = None
        self._solved: list[tuple[float, int, bool]] = []  # residual, passes and convergence of each solve
        self._seconds = 0.0

    def targets(self, index: Tensor, probs: Tensor, epoch: int, step: int) -> Tensor:
        due = step % self.num_iter == 0
        if due and self.estimate:
            self.estimate.update()
            self._aim()
        if epoch <= self.warm:
            return self.estimate.posterior(probs) if self.estimate else probs
        if due:
            self.refresh()
        return self.store.refined[index]

    def _aim(self) -> None:
        if self.estimate:
            self.target_counts = self.estimate.counts(float(self._given_counts.sum()))

    def refresh(self) -> Solution:
        """Refine the whole table now; the last duals are the starting point."""
        start = time.perf_counter()
        orig = self.store.orig
        if not bool(total(torch.isfinite(orig).logical_not().any().long(), self.group)):
            solution = self.solver(orig, self.target_counts, warm_start=self._duals)
        else:  # the model has diverged; the row's loss and residual say so, and there is nothing to refine
            nothing = torch.full_like(self.target_counts, math.nan)
            solution = Solution(
                orig, nothing, math.inf, 0, False, "the table holds values that are not finite"
            )
        self.store.refined = solution.refined
        self._duals = solution.duals if solution.converged else None
        self._solved.append((solution.residual, solution.iterations, solution.converged))
        self._seconds += time.perf_counter() - start
        return solution

    def loss_shift(self) -> LossShift:
        return self.estimate.shift if self.estimate else NO_SHIFT

    def health(self) -> dict[str, float]:
        """Worst residual, mean passes and failures of the solves since the last call, their wall time in seconds."""
        solved, self._solved = self._solved, []
        seconds, self._seconds = self._seconds, 0.0
        row = {"darp/solves": float(len(solved)), "darp/seconds": seconds}
        if solved:
            row["darp/residual"] = max(residual for residual, _, _ in solved)
            row["darp/iterations"] = sum(passes for _, passes, _ in solved) / len(solved)
            row["darp/unconverged"] = float(sum(not converged for _, _, converged in solved))
        return row | (self.estimate.health() if self.estimate else {})

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {} if self._duals is None else {"duals": self._duals}
        if self._solved:  # in the middle of an epoch
            state |= {"solved": [list(solve) for solve in self._solved], "seconds": self._seconds}
        return state | ({"estimate": self.estimate.state_dict()} if self.estimate else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._duals = state.get("duals")
        self._solved = [
            (residual, passes, converged) for residual, passes, converged in state.get("solved", [])
        ]
        self._seconds = state.get("seconds", 0.0)
        if self.estimate:
            self.estimate.load_state_dict(state["estimate"])
            self._aim()
