"""Damped Newton steps on the K-dimensional dual of the refinement problem; `solver.py` states the problem."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from darp.kernels_cpu import CpuTable
from darp.kernels_curvature import DenseCurvature, ProductCurvature
from darp.kernels_torch import TorchTable

GROWTH = 10.0  # factor by which one step may widen the spread of the duals
FIRST_EXPONENT = 3.0  # the spread that the first step may reach, in units of 1 / mean entropy
PATIENCE = 30  # passes without a better residual, far from the solution
PATIENCE_NEAR = 6  # the same below NEAR, where only rounding can be in the way
NEAR = 1e-4
FIRST_DAMPING = 2.0  # of the diagonal, once a step has failed
LEAST_DAMPING = 1e-3  # below it, none
FLAT_SLOPE = 0.5  # a step is good if the slope along it ends below this share of the first one
CG_TOL = 1e-2  # of conjugate gradients, times the error that is left
FALL = 1e-3  # or if f falls by this share of what the slope promises
UNDERFLOW = 1e-290


class NotADistributionError(Exception):
    """A row of the table has a NaN, a negative entry or a sum other than 1."""


@dataclass
class Point:
    """The dual at one nu."""

    duals: np.ndarray
    sums: np.ndarray
    value: float
    error: float  # max over active classes of |log(S / c)|
    residual: float
    curvature: DenseCurvature | ProductCurvature | None


@dataclass
class Step:
    """A move of the duals, with the slope of f along it (negative) and the bend that the curvature promises."""

    duals: np.ndarray
    move: np.ndarray
    slope: float
    bend: float


@dataclass
class Dual:
    """The dual of one table (of all processes of `group` together) and the passes spent on it."""

    table: CpuTable | TorchTable
    counts: np.ndarray
    num_rows: int
    group: dist.ProcessGroup | None = None
    passes: int = 0
    on: np.ndarray = field(init=False)  # classes with a target above 0

    def __post_init__(self) -> None:
        self.on = self.counts > 0

    def measure(self, duals: np.ndarray) -> Point:
        """Sums, value and curvature at `duals`: one pass, one reduction and one transfer to the host."""
        sums, curvature = self.table.measure(duals, self.on.astype(np.float64))
        self.passes += 1
        if isinstance(curvature, Tensor):
            k = len(self.counts)
            packed = torch.cat([torch.as_tensor(sums), curvature.reshape(-1)])
            if self.group is not None:
                dist.all_reduce(packed, group=self.group)
            if k <= DenseCurvature.host_classes:
                packed = packed.cpu()
            sums = packed[: k + 2].cpu().numpy()
            curvature = DenseCurvature(packed[k + 2 :].reshape(k, k))
        host_sums = np.asarray(sums)
        if host_sums[-1] > 0:
            raise NotADistributionError
        return self._point(duals, host_sums, curvature)

    def write(self, duals: np.ndarray) -> Point:
        """Fill the output at `duals`; the point describes what was written, rounding included."""
        sums = torch.as_tensor(self.table.write(duals, self.on.astype(np.float64)))
        self.passes += 1
        if self.group is not None:
            dist.all_reduce(sums, group=self.group)
        return self._point(duals, sums.cpu().numpy(), None)

    def _point(
        self, duals: np.ndarray, sums: np.ndarray, curvature: DenseCurvature | ProductCurvature | None
    ) -> Point:
        value, sums = float(sums[-2] + self.counts @ duals), sums[:-2]
        error = float(np.abs(self._log_ratio(sums)).max())
        residual = float((np.abs(sums - self.counts) / np.maximum(self.counts, 1)).max())
        return Point(duals, sums, value, error, residual, curvature)

    def _log_ratio(self, sums: np.ndarray) -> np.ndarray:
        """log(S / c) [K], 0 where the target is 0."""
        ratio = np.zeros_like(sums)
        ratio[self.on] = np.log(np.maximum(sums[self.on], UNDERFLOW) / self.counts[self.on])
        return ratio

    def step(self, point: Point, damping: float) -> Step:
        """The damped step at `point`, shortened so that the spread of the duals grows at most GROWTH-fold.

        Sums of the right-hand sides must vanish (H 1 = 0). Three ways of shifting them are tried in turn until one
        gives a descent: log S = log c up to a common factor, up to a common shift of nu, and plain S = c.
        """
        assert point.curvature is not None
        curvature, sums = point.curvature, point.sums * self.on
        gap = sums * self._log_ratio(sums)
        degree = curvature.degree * self.on
        candidates = [gap - sums * (gap.sum() / sums.sum())]
        if degree.sum() > 0:
            candidates.append(gap - degree * (gap.sum() / degree.sum()))
        plain = (point.sums - self.counts) * self.on
        candidates.append(plain - sums * (plain.sum() / sums.sum()))
        for rhs in candidates:
            move = curvature.solve(rhs, damping, CG_TOL * min(1.0, point.error))
            if (self.counts - point.sums) @ move < 0:
                break
        if self.group is not None:  # the same bits everywhere, even where processors differ
            shared = torch.from_numpy(move).to(self.table.device)
            dist.broadcast(shared, dist.get_global_rank(self.group, 0), group=self.group)
            move = shared.cpu().numpy()
        bend = float(move @ rhs) - damping * float(curvature.degree @ (move * move))
        share = self._share(point, move)
        duals = np.where(self.on, point.duals + share * move, 0.0)
        duals = np.where(self.on, duals - duals[self.on].min(), 0.0)
        slope = share * float((self.counts - point.sums) @ move)
        return Step(duals, share * move, slope, share * share * bend)

    def _share(self, point: Point, move: np.ndarray) -> float:
        assert point.curvature is not None
        unit = FIRST_EXPONENT * self.num_rows / max(point.curvature.total_entropy, UNDERFLOW)
        allowed = GROWTH * max(float(np.ptp(point.duals[self.on])), unit)
        return min(1.0, allowed / max(float(np.ptp((point.duals + move)[self.on])), UNDERFLOW))


@dataclass
class Progress:
    """Watches for a stall: the best residual so far and the pass that found it."""

    best: float = np.inf
    found_at: int = 0

    def stalled(self, residual: float, passes: int) -> bool:
        """Whether nothing has improved for longer than a hard instance needs."""
        if residual < 0.9 * self.best:
            self.best, self.found_at = residual, passes
        return passes - self.found_at > (PATIENCE_NEAR if self.best < NEAR else PATIENCE)


def descend(dual: Dual, point: Point, tol: float, max_passes: int, *, write: bool) -> tuple[Point, bool]:
    """Newton steps from `point` until its residual is at most `tol`, progress ends or the passes are spent.

    Returns the best point and whether the output holds the table at it. With `write` a pass that is expected to be
    the last one writes the output instead of summing the curvature.
    """
    damping, rate = 0.0, 1.0
    best, progress = point, Progress()
    while point.residual > tol and dual.passes < max_passes:
        if progress.stalled(point.residual, dual.passes):
            break
        step = dual.step(point, damping)
        if not step.slope < 0:
            if damping > 1e6:
                break
            damping = max(4 * damping, FIRST_DAMPING)
            continue
        last = write and damping == 0 and 4 * rate * point.error**2 < tol
        trial = dual.write(step.duals) if last else dual.measure(step.duals)
        if last and trial.residual <= tol:
            return trial, True
        if last:
            if dual.passes >= max_passes:
                return trial, True
            trial = dual.measure(step.duals)
            if trial.residual <= tol:  # only rounding to the table's type keeps the residual above tol
                return trial, False
        slope = float((dual.counts - trial.sums) @ step.move)
        flat = slope <= FLAT_SLOPE * -step.slope
        if not (flat or trial.value < point.value + FALL * step.slope):
            damping = max((4 if slope < -5 * step.slope else 16) * damping, FIRST_DAMPING)
            if damping > 1e12 or dual.passes >= max_passes:
                break
            if isinstance(point.curvature, ProductCurvature):  # its Y is gone: the trial has left its own
                point = dual.measure(point.duals)
            continue
        damping = _relaxed(damping, slope / -step.slope, (slope - step.slope) / max(step.bend, UNDERFLOW))
        rate = trial.error / point.error**2 if damping == 0 else 1.0
        point = trial
        if point.residual < best.residual:
            best = point
    return (point if point.residual <= best.residual else best), False


def _relaxed(damping: float, slope: float, bend: float) -> float:
    """Less damping after a good step: much less where the step was short of the minimum or bent as promised."""
    if bend < 1.3 or slope < -0.5:
        damping /= 5
    elif slope < -0.15:
        damping /= 4
    elif slope < FLAT_SLOPE:
        damping /= 2
    return damping if damping >= LEAST_DAMPING else 0.0
