"""The fused pass for many classes, row by row, and the product with the curvature that conjugate gradients need.

With a thousand classes the K x K curvature costs a hundred times what the exponentials cost, so it is never formed.
A pass leaves Y = diag(sqrt(h)) X in the output table, which is scratch until the result is written, and
X^T diag(h) X v = Y^T (Y v) reads it once a product. The entropies, one number a row, are kept beside it: less than a
chunk of rows holds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from darp.engine.exp_log import exp_, log_, njit
from darp.engine.passes import RELAXED, TINY, TINY_32, _row_again

# Half and twice of each: python -m benchmarks.constants.
FLUSH = 64  # rows summed in the table's own type before they join the float64 sums; half, twice: random - 1 %
# Smaller entries of Y are zero: they carry no curvature, and products of denormal numbers (below 1e-38) are slow.
NEGLIGIBLE = 1e-30  # half, twice: no change


@njit(nogil=True, cache=True, error_model="numpy", fastmath=RELAXED)
def _row_entropy(row: Any, entropy: Any, i: int) -> bool:
    """entropy[i] of a row [K]; False where the row is not a distribution."""
    total = surprise = negative = 0.0
    for k in range(row.size):
        a = float(row[k])
        total += a
        surprise -= a * log_(a)
        negative += 1.0 if a < 0.0 else 0.0
    entropy[i] = max(surprise / total + math.log(total), 0.0) if total > 0.0 else 0.0
    return abs(total - 1.0) <= 1e-3 and negative == 0.0


@njit(nogil=True, cache=True, error_model="numpy", fastmath=RELAXED)
def chunk_rows(
    probs: Any,
    entropy: Any,
    fresh: bool,
    duals: Any,
    active: Any,
    sums: Any,
    degree: Any,
    write: bool,
    out: Any,
) -> bool:
    """One pass over a chunk of rows with the class as the inner axis, in the arithmetic of `duals`.

    probs, out [n, K]; entropy [n], filled when `fresh`; duals [K] >= 0 and active [K] 1.0 or 0.0, both of one type.
    sums [K + 2] += the column sums of X, then the rows' part of the dual (the last is the caller's).
    degree [K] += the diagonal of the Hessian, X^T h - diag(X^T diag(h) X).
    `out` becomes X when `write` (and the sums are those of the rounded values), else Y.
    Returns False when a row of `probs` is not a distribution (looked at only when `fresh`).
    """
    rows, num_classes = probs.shape
    zero, one, tiny = duals.dtype.type(0), duals.dtype.type(1), TINY if duals.itemsize == 8 else TINY_32
    e = np.empty((num_classes, 1), duals.dtype)
    negligible = duals.dtype.type(NEGLIGIBLE)
    fine = True
    for i in range(rows):
        if fresh:
            fine = _row_entropy(probs[i], entropy, i) and fine
        h = duals.dtype.type(entropy[i])
        z = zero
        for k in range(num_classes):
            term = active[k] * probs[i, k] * exp_(-h * duals[k])
            e[k, 0] = term
            z += term
        log_z = math.log(float(z)) if z >= tiny else _row_again(probs[i], h, duals, active, e, 0)
        inverse, root = one / z if z >= tiny else one, math.sqrt(h)
        if h > zero:
            sums[num_classes] += log_z / h
        else:
            for k in range(num_classes):
                sums[num_classes] -= e[k, 0] * inverse * duals[k]
        if write:
            for k in range(num_classes):
                out[i, k] = e[k, 0] * inverse
                sums[k] += out[i, k]
        else:
            for k in range(num_classes):
                x = e[k, 0] * inverse
                sums[k] += x
                degree[k] += h * x * (one - x)
                y = root * x
                out[i, k] = y if y > negligible else zero
    return fine


@njit(nogil=True, cache=True, error_model="numpy", fastmath=RELAXED)
def chunk_product(scaled: Any, vector: Any, partial: Any, product: Any) -> None:
    """product [K] += Y^T (Y v) for a chunk Y [n, K]; vector and partial [K] have the table's type."""
    rows, num_classes = scaled.shape
    for first in range(0, rows, FLUSH):
        partial[:] = 0
        for i in range(first, min(first + FLUSH, rows)):
            dot = partial[0] * 0
            for k in range(num_classes):
                dot += scaled[i, k] * vector[k]
            for k in range(num_classes):
                partial[k] += dot * scaled[i, k]
        for k in range(num_classes):
            product[k] += partial[k]
