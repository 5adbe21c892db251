"""Refinement of pseudo-labels as a convex problem, solved exactly.

Given N predictions a_i on the simplex of K classes (`probs`), class counts c with sum N (`target_counts`) and the
entropies h_i = H(a_i), find the closest table with those column sums, where a sure prediction is dear to move
(Kim et al., NeurIPS 2020, section 3.1, with w_i = 1 / h_i):

    minimise    sum_i (1 / h_i) KL(x_i || a_i)
    subject to  X >= 0,   X 1 = 1 (rows),   X^T 1 = c (columns)

At the optimum x_ik = a_ik exp(-h_i nu_k) / Z_i with Z_i = sum_j a_ij exp(-h_i nu_j): the rows' multipliers are known
and the K duals nu remain. They minimise

    f(nu) = sum_i (1 / h_i) log Z_i + c . nu,    gradient c - S with S = X^T 1,    Hessian diag(X^T h) - X^T diag(h) X

which is convex, and flat along nu + t 1. Each pass over the table gives S, f and the Hessian for one nu.

The step is Newton's for log S = log c rather than S = c: (H + damping diag(H)) d = S log(S / c), shifted to sum to
zero. The two agree near the solution; far from it S depends on nu through exponentials, and the logarithm undoes
them (a collapsed table takes 2 passes, where S = c needs more than 60). A step that neither lowers f nor leaves the
slope along it small is tried again with more damping, so that f decreases.

A row of zero entropy (exact one-hot) has infinite weight and stays. A zero entry stays zero. A class of target 0
gets nothing; a row that knows only such classes stays too. Where that makes the target unreachable the solution says
so in `converged` and `reason`.

On a CPU, passes over a float32 table are computed in float32 as long as the exponents h nu are small and `tol` allows
it, with float64 sums; where that does not reach `tol`, the rest is float64. The residual is always that of the rounded
table that is returned.

Memory beyond `probs` and `refined`: O(chunk x K), and K x K per chunk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from darp.engine.cpu import CpuTable
from darp.engine.device import DeviceTable
from darp.engine.newton import Dual, NotADistributionError, Point, descend
from darp.engine.table import Table, total

# Half and twice of each: python -m benchmarks.constants, whose table is in docs/solver.md.
# A cold solve starts from samples of the rows, each COARSE_STRIDE times as large as the one before it.
COARSE_STRIDE = 4  # half: imbalance 100 + 12 %; twice: balanced - 11 %
COARSE_ROWS = 400  # a sample has at least so many rows (half: no change; twice: balanced - 11 %),
COARSE_SHARE = 40  # and so many for each class (the same)
COARSE_TOL = (
    0.1  # the error that a count of 100 rows has by chance; half: saturated + 11 %; twice: collapsed + 12 %
)
COARSE_PASSES = 16  # over one sample; half: saturated 100 - 8 %; twice: no change
ASTRAY = 1.0  # of log(sum / target); half, twice: no change
ROUGH_TOL = 5e-7  # where float32 passes (8 roundings of 6e-8) end; below it they are of no use. Half, twice: no change
ROUGH_PASSES = 30  # what takes longer may need the digits; half: 300 classes + 7 %; twice: random + 1 %
SUM_ROUNDING = 1e-6  # relative error of sum(target_counts) that float32 counts explain: 16 roundings of 6e-8


@dataclass(frozen=True)
class Solution:
    """What a solve found; a hard instance is told by `converged` and `reason`, never by an exception."""

    refined: Tensor  # [N, K], type and device of `probs`; rows sum to 1
    duals: Tensor  # [K] float64 on the CPU, the smallest 0, inf for a class of target 0; the next solve's warm start
    residual: float  # max over classes of |column sum of refined - c_k| / max(1, c_k)
    iterations: int  # passes over the table; those over a sample count by its share of the rows, rounded up
    converged: bool  # residual <= tol
    reason: str = ""  # why not, and what to do about it; "" when converged
    products: int = 0  # readings of the table for conjugate gradients (many classes only), beside the passes


def solve(
    probs: Tensor,
    target_counts: Tensor | Sequence[float],
    *,
    warm_start: Tensor | None = None,
    tol: float = 1e-6,
    max_iter: int = 100,
    group: dist.ProcessGroup | None = None,
) -> Solution:
    """Refine `probs` so that its columns sum to `target_counts`.

    Args:
        probs: [N, K] float32 or float64, rows on the simplex (sums within 1e-3 of 1). With `group`, this process's
            rows of one table; N may then be 0 on some.
        target_counts: [K] expected number of rows in each class; sums to N (the N of all processes). A sum within
            1e-6 of N is scaled to it; any other is refused, because it is more often a mistake than a wish.
        warm_start: [K] duals of an earlier solution. Entries that are not finite count as 0.
        tol: largest residual that counts as converged.
        max_iter: passes over the table that may be spent.
        group: processes that hold the rows between them; each gets its own rows of the result, and all the same
            duals. K + K^2 numbers and two scalars are reduced per pass, in float64: of a float64 table the result is
            that of one process to 1e-9, of a float32 table to its rounding.

    Raises:
        ValueError: shapes, types, a row that is no distribution, negative or non-finite counts, or a wrong sum.
    """
    num_rows, offset = _rows_of_all(probs, group)
    counts = _checked_counts(probs, target_counts, num_rows)
    if not tol > 0 or max_iter < 1:
        raise ValueError(f"tol {tol}, max_iter {max_iter}: use a positive tolerance and at least one pass")
    probs = probs.detach().contiguous()
    refined = torch.empty_like(probs)
    rough = probs.device.type == "cpu" and probs.dtype == torch.float32 and group is None and tol >= ROUGH_TOL
    dual = Dual(_table(probs, refined, group), counts, num_rows, rough)
    try:
        coarse_passes, point = 0.0, None
        if warm_start is not None:
            point = dual.measure(_checked_start(warm_start, counts))
        if point is None or _astray(point):
            start, coarse_passes = _coarse_start(probs, refined, counts, num_rows, offset, group, rough)
            dual.table = _table(probs, refined, group)  # what it kept in `refined` is gone
            point = _first_point(dual, start)
        point, unrounded = _solved(dual, point, tol, min(max_iter, ROUGH_PASSES) if rough else max_iter)
        if dual.rough and point.residual > tol and dual.passes < max_iter:
            dual.rough = False
            point, unrounded = _solved(dual, dual.measure(point.duals), tol, max_iter)
    except NotADistributionError:
        raise ValueError(_bad_row(probs)) from None
    converged = point.residual <= tol
    reason = "" if converged else _reason(probs, dual, point, unrounded, tol, max_iter)
    duals = torch.from_numpy(np.where(dual.on > 0, point.duals, np.inf))
    passes = math.ceil(dual.passes + coarse_passes)
    return Solution(refined, duals, point.residual, passes, converged, reason, dual.table.products)


def _table(probs: Tensor, refined: Tensor, group: dist.ProcessGroup | None) -> Table:
    return (CpuTable if probs.device.type == "cpu" else DeviceTable)(probs, refined, group)


def _rows_of_all(probs: Tensor, group: dist.ProcessGroup | None) -> tuple[int, int]:
    """Rows of the whole table, and how many of them processes before this one hold."""
    if probs.ndim != 2 or probs.shape[1] < 1:
        raise ValueError(f"probs has shape {tuple(probs.shape)}: give a table of rows x classes")
    if probs.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"probs is {probs.dtype}: convert it to torch.float32 or torch.float64")
    if group is None:
        if len(probs) == 0:
            raise ValueError("probs has no rows: give at least one prediction")
        return len(probs), 0
    rows = torch.zeros(dist.get_world_size(group), dtype=torch.int64, device=probs.device)
    rows[dist.get_rank(group)] = len(probs)
    dist.all_reduce(rows, group=group)
    return int(rows.sum()), int(rows[: dist.get_rank(group)].sum())


def _checked_counts(probs: Tensor, target_counts: Tensor | Sequence[float], num_rows: int) -> np.ndarray:
    counts = torch.as_tensor(target_counts, dtype=torch.float64).detach().cpu().numpy()
    if counts.shape != (probs.shape[1],):
        raise ValueError(
            f"target_counts has shape {counts.shape} and probs {probs.shape[1]} classes: give one number per class"
        )
    if not (np.isfinite(counts).all() and (counts >= 0).all()):
        worst = int(np.argmin(np.where(np.isfinite(counts), counts, -np.inf)))
        raise ValueError(f"target_counts[{worst}] is {counts[worst]}: counts must be finite and at least 0")
    total = float(counts.sum())
    if abs(total - num_rows) > SUM_ROUNDING * num_rows:
        raise ValueError(
            f"target_counts sum to {total:g} and probs has {num_rows} rows: "
            f"multiply the counts by {num_rows} / {total:g}"
        )
    return counts * (num_rows / total)


def _checked_start(warm_start: Tensor, counts: np.ndarray) -> np.ndarray:
    start = torch.as_tensor(warm_start, dtype=torch.float64).detach().cpu().numpy()
    if start.shape != counts.shape:
        raise ValueError(
            f"warm_start has shape {start.shape}: give the duals of a solve with {len(counts)} classes"
        )
    on = counts > 0
    start = np.where(on & np.isfinite(start), start, 0.0)
    return np.where(on, start - start[on].min(), 0.0)


def _astray(point: Point) -> bool:
    """Whether zero, where f is 0, is a better start: f is above, and some sum is not even near its target."""
    return point.value > 0 and point.error > ASTRAY


def _first_point(dual: Dual, start: np.ndarray) -> Point:
    """The point at `start`, or at zero, if `start` turns out to be worse."""
    point = dual.measure(start)
    return dual.measure(np.zeros_like(start)) if start.any() and _astray(point) else point


def _solved(dual: Dual, point: Point, tol: float, max_iter: int) -> tuple[Point, float]:
    """Newton steps from `point`, and the output; the point describes it, the number is its residual if not rounded."""
    point, written = descend(dual, point, tol, max_iter - 1, write=True)
    return (point if written else dual.write(point.duals)), point.residual


def _coarse_start(
    probs: Tensor,
    scratch: Tensor,
    counts: np.ndarray,
    num_rows: int,
    offset: int,
    group: dist.ProcessGroup | None,
    rough: bool,
) -> tuple[np.ndarray, float]:
    """Duals of a sample, and the passes that it cost.

    The smallest sample is solved from zero, and each larger one from the duals of the one before, so that the many
    steps of a hard instance are over a few rows. The samples are every s-th row of the whole table, with s a power of
    COARSE_STRIDE; they and their solver's room lie in `scratch` [N, K].
    """
    duals, passes, stride = np.zeros_like(counts), 0.0, COARSE_STRIDE
    while num_rows >= stride * COARSE_STRIDE * max(COARSE_ROWS, COARSE_SHARE * len(counts)):
        stride *= COARSE_STRIDE
    if num_rows < stride * max(COARSE_ROWS, COARSE_SHARE * len(counts)):
        return duals, passes
    while stride > 1:
        sample = probs[-offset % stride :: stride]
        rows, _ = _rows_of_all(sample, group)
        if 2 * len(sample) > len(scratch):  # a single row
            scratch = scratch.new_empty(2, len(counts))
        sample, room = scratch[: len(sample)].copy_(sample), scratch[len(sample) : 2 * len(sample)]
        dual = Dual(_table(sample, room, group), counts * (rows / num_rows), rows, rough)
        point, _ = descend(dual, _first_point(dual, duals), COARSE_TOL, COARSE_PASSES, write=False)
        duals, passes, stride = point.duals, passes + dual.passes * rows / num_rows, stride // COARSE_STRIDE
    return duals, passes


def _bad_row(probs: Tensor) -> str:
    """The first row of this process that is no distribution, and the remedy."""
    total = probs.sum(1, dtype=torch.float64)
    fine = (probs >= 0).all(1) & ((total - 1).abs() <= 1e-3)
    if bool(fine.all()):
        return "probs: a row of another process has a NaN, a negative entry or a sum other than 1: look there"
    row = int((~fine).int().argmax())
    lowest = float(probs[row].min())
    if math.isnan(float(total[row])) or math.isinf(float(total[row])):
        return (
            f"probs[{row}] has a value that is not finite: look for a diverged model, or mend the row first"
        )
    if lowest < 0:
        return f"probs[{row}] has the negative entry {lowest:g}: give probabilities, such as a softmax"
    return f"probs[{row}] sums to {float(total[row]):g}: give probabilities that sum to 1, such as a softmax"


def _reason(probs: Tensor, dual: Dual, point: Point, unrounded: float, tol: float, max_iter: int) -> str:
    """Why the residual is above `tol`, as one sentence with what to do."""
    support = torch.stack([(probs > 0).sum(0), (probs == 1).sum(0)]).double()
    reachable, fixed = total(support, dual.table.group).cpu().numpy()
    short = dual.counts - reachable
    if short.max() > tol:
        k = int(short.argmax())
        return (
            f"class {k} is to have {dual.counts[k]:g} and only {reachable[k]:g} rows give it any probability: "
            "mix a little of every class into the table (remove_noise adds 1e-6)"
        )
    excess = fixed - dual.counts
    if excess.max() > tol:
        k = int(excess.argmax())
        return (
            f"class {k} is to have {dual.counts[k]:g} and {fixed[k]:g} rows give it probability 1, which cannot move: "
            "mix a little of every class into the table (remove_noise adds 1e-6)"
        )
    if unrounded <= tol < point.residual:
        return (
            f"rounding to {str(probs.dtype).removeprefix('torch.')} leaves a residual of {point.residual:.1e}: "
            "use a larger tol or a float64 table"
        )
    if dual.passes >= max_iter:
        return f"{dual.passes} passes left a residual of {point.residual:.1e}: raise max_iter"
    k = int(np.argmax(np.abs(point.sums - dual.counts) / np.maximum(dual.counts, 1)))
    zeros = int(dual.num_rows - reachable[k])
    return (
        f"no progress below a residual of {point.residual:.1e} after {dual.passes} passes: class {k} has "
        f"{point.sums[k]:g} and is to have {dual.counts[k]:g}"
        + (f", and {zeros} zeros stand in its column" if zeros else "")
        + " (mix 1e-4 of every class into the table, or raise tol if it is below what rounding allows)"
    )
