"""Damped Newton steps on the K-dimensional dual of the refinement problem; `solver.py` states the problem."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist

from darp.engine.curvature import EPSILON, UNDERFLOW, Curvature
from darp.engine.table import Table

# Half and twice of each: python -m benchmarks.constants, whose table is in docs/solver.md. Lost: does not converge.
# Factor by which one step may widen the spread of the duals. Half: saturated + 11 %, 1 lost; twice: random + 3 %.
GROWTH = 10.0
# The spread that the first step may reach, in units of 1 / mean entropy. Half: 1,000 classes + 12 %; twice: + 3 %
FIRST_EXPONENT = 6.0
PATIENCE = 60  # passes without a better residual, far from the solution; half, twice: no change
# The same below NEAR, where only rounding can be in the way. Half: 1 lost; twice: no change, nor of NEAR.
PATIENCE_NEAR = 6
NEAR = 1e-4
LAST_STEP = 4.0  # margin with which a pass is expected to be the last; half, twice: no change
FIRST_DAMPING = 2.0  # of the diagonal, once a step has failed; half: 100 classes - 16 %; twice: no change
FAIL_DAMPING = 8.0  # half: 100 classes - 8 %; twice: no change
SUCCEED_DAMPING = 4.0  # half: random + 10 %; twice: 100 classes + 11 %
AS_PROMISED = 1.6  # bend of f, in units of the promised one, up to which a step was good; half: 76 lost
LEAST_DAMPING = 1e-3  # below it, none; half, twice: within 3 %
# Largest exponent in float32: exp(-69) is TINY_32 of the passes, below which a row is computed again.
ROUGH_EXPONENT = 69.0
MOST_DAMPING = 1 / EPSILON  # no step moves the duals any more
CG_TOL = 0.03  # of conjugate gradients, times the error that is left; half: random + 11 %; twice: - 7 %
FALL = 1e-4  # or if f falls by this share of what the slope promises (Nocedal and Wright 2006, section 3.1)
# How far a class may pass the one of the smallest dual in a step, in units of 1 / mean entropy, and at least 1.
# Half: collapsed + 12 %; twice: cold - 2 %.
PASSING = 0.1
TRUST = 3.0  # a step for the logarithms may bend f by this multiple of its slope times the error; half, twice: the same


class NotADistributionError(Exception):
    """A row of the table has a NaN, a negative entry or a sum other than 1."""


@dataclass
class Point:
    """The dual at one nu."""

    duals: np.ndarray
    sums: np.ndarray
    value: float
    log_ratio: np.ndarray  # log(S / c) [K], 0 where the target is 0
    error: float  # the largest of it
    residual: float
    curvature: Curvature | None


@dataclass
class Step:
    """A move of the duals, with the slope of f along it (negative) and the bend that the curvature promises."""

    duals: np.ndarray
    move: np.ndarray
    slope: float
    bend: float


@dataclass
class Dual:
    """The dual of one table (of all processes of its group together) and the passes spent on it."""

    table: Table
    counts: np.ndarray
    num_rows: int
    rough: bool = False  # float32 where it is safe: half the time, and digits enough for 1e-6
    passes: int = 0
    on: np.ndarray = field(init=False)  # [K] 1 for classes with a target above 0, else 0

    def __post_init__(self) -> None:
        self.on = (self.counts > 0).astype(np.float64)
        self._all_on = bool(self.on.all())

    def measure(self, duals: np.ndarray) -> Point:
        """Sums, value and curvature at `duals`: one pass, one reduction and one transfer to the host."""
        duals, given = self._as_used(duals)
        sums, curvature = self.table.measure(given, self.on)
        self.passes += 1
        if sums[-1] > 0:
            raise NotADistributionError
        return self._point(duals, sums, curvature)

    def _as_used(self, duals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The duals of the next pass as float64, and in the type of its arithmetic."""
        if not self.rough or float(duals.max()) * math.log(len(duals)) > ROUGH_EXPONENT:
            return duals, duals
        single = duals.astype(np.float32)
        return single.astype(np.float64), single

    def write(self, duals: np.ndarray) -> Point:
        """Fill the output at `duals`; the point describes what was written, rounding included."""
        duals, given = self._as_used(duals)
        self.passes += 1
        return self._point(duals, self.table.write(given, self.on), None)

    def _point(self, duals: np.ndarray, sums: np.ndarray, curvature: Curvature | None) -> Point:
        from darp.engine.passes import compare

        value, sums = float(sums[-2] + self.counts @ duals), sums[:-2]
        log_ratio = np.empty_like(self.counts)
        error, residual = compare(sums, self.counts, UNDERFLOW, log_ratio)
        return Point(duals, sums, value, log_ratio, error, residual, curvature)

    def shifted(self, duals: np.ndarray) -> np.ndarray:
        """The duals with their smallest at 0, and 0 for classes of target 0."""
        if self._all_on:
            return duals - duals.min()
        return self.on * (duals - np.where(self.on > 0, duals, np.inf).min())

    def _of_first_process(self, move: np.ndarray) -> np.ndarray:
        """The same bits on all processes, even where their processors differ."""
        group = self.table.group
        if group is None:
            return move
        shared = torch.from_numpy(move).to(self.table.device)
        dist.broadcast(shared, dist.get_global_rank(group, 0), group=group)
        return shared.cpu().numpy()

    def step(self, point: Point, damping: float) -> Step:
        """The damped step at `point`, shortened so that the spread of the duals grows at most GROWTH-fold.

        Sums of the right-hand sides must vanish (H 1 = 0). Three ways of shifting them are tried in turn until one
        gives a descent: log S = log c up to a common factor, up to a common shift of nu, and plain S = c.
        """
        assert point.curvature is not None
        curvature, sums = point.curvature, self.on * point.sums
        unit = self.num_rows / max(curvature.total_entropy, UNDERFLOW)  # 1 / mean entropy
        gap, excess = sums * point.log_ratio, sums - self.counts
        for right_side, shift in ((gap, sums), (gap, curvature.degree * self.on), (excess, sums)):
            rhs = right_side - shift * (right_side.sum() / max(shift.sum(), UNDERFLOW))
            move = curvature.solve(rhs, damping, CG_TOL * min(1.0, point.error))
            bend = float(move @ rhs) - damping * float(curvature.degree @ (move * move))
            slope = -float(excess @ move)
            if slope < 0 and bend < -TRUST * max(1.0, point.error) * slope:
                break
        if not math.isfinite(slope):
            move, slope, bend = np.zeros_like(move), 0.0, 0.0
        if slope < 0:
            move = curvature.within_reach(move, point.sums, point.log_ratio)
            bent = self._without_passing(point, move, unit)
            move = bent if excess @ bent > 0 else move
        move = self._of_first_process(move)
        slope = -float(excess @ move)
        allowed = GROWTH * max(float(point.duals.max()), FIRST_EXPONENT * unit)
        duals = self.shifted(point.duals + move)
        share = min(1.0, allowed / max(float(duals.max()), UNDERFLOW))
        if share < 1:
            duals = self.shifted(point.duals + share * move)
        return Step(duals, share * move, share * slope, share * share * bend)

    def _without_passing(self, point: Point, move: np.ndarray, unit: float) -> np.ndarray:
        """The move [K] seen from the class of the smallest dual, which no other class passes by more than a little.

        The duals of a table with sure and unsure rows lie on scales from 1 to 1e9, and a class that comes down meets
        rows that it did not see from above, where their terms underflow: its sum is a function of log nu rather than
        of nu. So the way down is that of Newton's method in log(nu + scale).
        """
        lowest = int(np.lexsort((move, np.where(self.on > 0, point.duals, np.inf)))[0])
        away = self.on * (move - move[lowest])
        scale = point.duals + max(1.0, PASSING * unit)
        return np.where(away < 0, scale * np.expm1(np.minimum(away / scale, 0.0)), away)


@dataclass
class Progress:
    """Watches for a stall: the best residual so far and the pass that found it."""

    best: float = np.inf
    found_at: int = 0

    def stalled(self, residual: float, passes: int) -> bool:
        """Whether nothing has improved for longer than a hard instance needs."""
        if residual < self.best:
            self.best, self.found_at = residual, passes
        return passes - self.found_at > (PATIENCE_NEAR if self.best < NEAR else PATIENCE)


def descend(dual: Dual, point: Point, tol: float, max_passes: int, *, write: bool) -> tuple[Point, bool]:
    """Newton steps from `point` until its residual is at most `tol`, progress ends or the passes are spent.

    Returns the best point and whether the output holds the table at it. With `write` a pass that is expected to be
    the last one writes the output instead of summing the curvature.
    """
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # where the target is out of reach the duals have no bound
        return _descend(dual, point, tol, max_passes, write)


def _descend(dual: Dual, point: Point, tol: float, max_passes: int, write: bool) -> tuple[Point, bool]:
    damping, best, progress = Damping(), point, Progress()
    rate = 1.0  # the error that a step leaves, over the square of the error before it
    while point.residual > tol and dual.passes < max_passes:
        step = dual.step(point, damping.value)
        if progress.stalled(point.residual, dual.passes) or damping.value > MOST_DAMPING:
            break
        if not step.slope < 0:
            damping.fail()
            continue
        last = write and damping.value == 0 and LAST_STEP * rate * point.error**2 < tol
        if last:
            written = dual.write(step.duals)
            if written.residual <= tol or dual.passes >= max_passes:
                return written, True
        trial = dual.measure(step.duals)
        if last and trial.residual <= tol:  # only rounding to the table's type keeps the residual above tol
            return trial, False
        slope = float((dual.counts - trial.sums) @ step.move) / -step.slope
        if slope <= 0 or trial.value < point.value + FALL * step.slope:
            rate = trial.error / point.error**2 if damping.value == 0 else 1.0
            damping.succeed(bend=-step.slope * (slope + 1) / max(step.bend, UNDERFLOW))
            point = trial
        else:
            damping.fail()
            assert point.curvature is not None
            if not point.curvature.lasting and dual.passes < max_passes:
                point = dual.measure(point.duals)
        if point.residual < best.residual:
            best = point
    return best, False


@dataclass
class Damping:
    """How much of its diagonal is added to the Hessian (Marquardt 1963, section III)."""

    value: float = 0.0

    def fail(self) -> None:
        """More damping after a step that was too long."""
        self.value = max(FAIL_DAMPING * self.value, FIRST_DAMPING)

    def succeed(self, bend: float) -> None:
        """Less damping after a step along which f bent as promised; `bend` is in units of that."""
        if bend < AS_PROMISED:
            self.value /= SUCCEED_DAMPING
        if self.value < LEAST_DAMPING:
            self.value = 0.0
