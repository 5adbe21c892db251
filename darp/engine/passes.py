"""The fused pass on a CPU: one read of the table gives column sums and curvature, and writes the result.

A tile of rows is transposed into a small array whose inner axis is the row, so that every loop over rows is a
vector loop; the arithmetic inside a tile is that of the duals, float64 or float32, whatever the table's type, and sums
over tiles are float64. Nothing is shared between calls: the caller gives each chunk of rows its own accumulators and
may run chunks on several threads (the functions release the GIL).

Importing this module imports Numba and loads the cached machine code; the solver does so on first use.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from darp.engine.exp_log import exp_, log_, njit

BLOCK = 4  # classes per register block of the curvature, by the shape of its loop; arrays are padded to it

# A row whose sum falls below is computed again around its own largest term. exp_ ends at exp(-600) = 3e-261, and in
# float32 at exp(-87) = 2e-38: of a sum above the bound these ends are at most 3e-21 and 2e-8.
TINY = 1e-240
TINY_32 = 1e-30

RELAXED = {"contract", "reassoc", "nsz"}  # lets sums over a tile be vectorised; NaN keeps its meaning


def tile_rows(num_classes: int) -> int:
    """Rows of a tile: of few classes it fits a first-level cache of 32 KiB or 48 KiB, of many the second-level one.

    Half as many: 2 % more time; twice as many: 7 % less, over the instances of `python -m benchmarks.constants`.
    """
    return 128 if num_classes <= 48 else 64 if num_classes <= 128 else 32


@njit(nogil=True, cache=True, error_model="numpy", fastmath=RELAXED)
def _tile_entropy(s: Any, num_classes: int, n: int, h: Any, total: Any, negative: Any) -> bool:
    """Entropy of each row of the tile into `h`; False where a row is not a distribution (NaN, negative, sum)."""
    tile = h.size
    for r in range(tile):
        total[r] = 0.0
        negative[r] = h[r] = 0.0
    for k in range(num_classes):
        for r in range(tile):
            a = s[k, r]
            negative[r] = min(negative[r], a)
            total[r] += a
            h[r] -= a * log_(a)
    faults = 0.0
    for r in range(n):
        faults += 0.0 if negative[r] == 0.0 and abs(total[r] - 1.0) <= 1e-3 else 1.0
        h[r] = max(h[r] / total[r] + log_(total[r]), 0.0)
    return faults == 0.0


@njit(nogil=True, cache=True, error_model="numpy")
def _row_again(a: Any, h: float, duals: Any, active: Any, s: Any, r: int) -> float:
    """One row of the tile in logarithms, for rows whose terms all underflow; a row that cannot move stays.

    The row is left normalised; returns the logarithm of what it was divided by.
    """
    num_classes = a.size
    top = -math.inf
    for k in range(num_classes):
        if active[k] and a[k] > 0:
            top = max(top, math.log(a[k]) - h * duals[k])
    total = 0.0
    for k in range(num_classes):
        if top == -math.inf:
            x = float(a[k])
        elif active[k] and a[k] > 0:
            x = math.exp(math.log(a[k]) - h * duals[k] - top)
        else:
            x = 0.0
        s[k, r] = x
        total += x
    for k in range(num_classes):
        s[k, r] /= total
    return math.log(total) + (top if top > -math.inf else 0.0)


@njit(nogil=True, cache=True, error_model="numpy")
def _special_rows(a: Any, h: Any, duals: Any, active: Any, s: Any, z: Any, tiny: float) -> float:
    """The rows' part of the dual for a tile a [n, K] with rows that underflow, which it mends, or of zero entropy."""
    value = 0.0
    for r in range(len(a)):
        log_z = math.log(z[r]) if z[r] >= tiny else _row_again(a[r], h[r], duals, active, s, r)
        if z[r] < tiny:
            z[r] = 1.0
        if h[r] > 0.0:
            value += log_z / h[r]
        else:
            for k in range(a.shape[1]):
                value -= s[k, r] / z[r] * duals[k]
    return value


@njit(nogil=True, cache=True, error_model="numpy", fastmath=RELAXED)
def _tile_coupling(s: Any, num_classes: int, h: Any, y: Any, coupling: Any) -> None:
    """coupling += (h * s) s^T on the lower triangle, in register blocks of 2 x 4 classes."""
    tile = h.size
    zero = s.dtype.type(0)
    for j in range(0, num_classes, 2):
        for r in range(tile):
            y[0, r] = s[j, r] * h[r]
            y[1, r] = s[j + 1, r] * h[r]
        for k in range(0, j + 1, BLOCK):
            c00 = c01 = c02 = c03 = c10 = c11 = c12 = c13 = zero
            for r in range(tile):
                y0, y1 = y[0, r], y[1, r]
                x0, x1, x2, x3 = s[k, r], s[k + 1, r], s[k + 2, r], s[k + 3, r]
                c00 += y0 * x0
                c01 += y0 * x1
                c02 += y0 * x2
                c03 += y0 * x3
                c10 += y1 * x0
                c11 += y1 * x1
                c12 += y1 * x2
                c13 += y1 * x3
            coupling[j, k] += c00
            coupling[j, k + 1] += c01
            coupling[j, k + 2] += c02
            coupling[j, k + 3] += c03
            coupling[j + 1, k] += c10
            coupling[j + 1, k + 1] += c11
            coupling[j + 1, k + 2] += c12
            coupling[j + 1, k + 3] += c13


@njit(nogil=True, cache=True, error_model="numpy", fastmath=RELAXED)
def chunk_pass(
    probs: Any,
    entropy: Any,
    fresh: bool,
    duals: Any,
    active: Any,
    tile: int,
    sums: Any,
    couple: bool,
    coupling: Any,
    write: bool,
    refined: Any,
) -> bool:
    """One pass over a chunk of rows, in the arithmetic of `duals`.

    probs [n, K]; entropy [n], filled when `fresh`; duals [K] >= 0 and active [K] 1.0 or 0.0, float64 or float32.
    sums [K + 2] += the column sums, then the rows' part of the dual (the last is the caller's).
    coupling [P, P] (P is K padded to a multiple of BLOCK) += the lower triangle of X^T diag(h) X, when `couple`.
    refined [n, K] is written when `write`, and the sums are then those of the rounded values.
    Returns False when a row of `probs` is not a distribution (looked at only when `fresh`).
    """
    rows, num_classes = probs.shape
    padded = -(-num_classes // BLOCK) * BLOCK
    zero, one, tiny = duals.dtype.type(0), duals.dtype.type(1), TINY if duals.itemsize == 8 else TINY_32
    s = np.zeros((padded, tile), duals.dtype)
    rounded = np.empty((num_classes, tile), probs.dtype)
    y = np.empty((2, tile), duals.dtype)
    h, z = np.empty(tile, duals.dtype), np.empty(tile, duals.dtype)
    row_sums = np.empty(tile)
    fine = True
    for first in range(0, rows, tile):
        n = min(tile, rows - first)
        if n < tile:
            s[:, n:] = zero
            h[n:] = zero
        for r in range(n):
            for k in range(num_classes):
                s[k, r] = probs[first + r, k]
        if fresh:
            fine = _tile_entropy(s, num_classes, n, h, row_sums, z) and fine
            for r in range(n):
                entropy[first + r] = h[r]
        for r in range(n):
            h[r] = entropy[first + r]
        for r in range(tile):
            z[r] = zero
        for k in range(num_classes):
            minus, weight = -duals[k], active[k]
            for r in range(tile):
                e = weight * s[k, r] * exp_(h[r] * minus)
                s[k, r] = e
                z[r] += e
        special = value = 0.0
        for r in range(n):
            special += 1.0 if z[r] < tiny or h[r] <= zero else 0.0
            value += log_(z[r]) / (h[r] if h[r] > zero else one)
        if special > 0.0:
            value = _special_rows(probs[first : first + n], h, duals, active, s, z, tiny)
        for r in range(n):
            z[r] = 1.0 / z[r]
        sums[num_classes] += value
        for k in range(num_classes):
            if write:
                exact = 0.0
                for r in range(tile):
                    rounded[k, r] = s[k, r] * z[r]
                    exact += rounded[k, r]
                sums[k] += exact
            else:
                total = zero
                for r in range(tile):
                    x = s[k, r] * z[r]
                    s[k, r] = x
                    total += x
                sums[k] += total
        if couple:
            _tile_coupling(s, num_classes, h, y, coupling)
        if write:
            for r in range(n):
                for k in range(num_classes):
                    refined[first + r, k] = rounded[k, r]
    return fine


@njit(nogil=True, cache=True, error_model="numpy")
def add_couplings(parts: Any, full: Any) -> None:
    """full [K, K] = the sum of parts [chunks, P, P], in order, whose lower triangles alone count."""
    for j in range(len(full)):
        for k in range(j + 1):
            total = 0.0
            for i in range(len(parts)):
                total += parts[i, j, k]
            full[j, k] = total
            full[k, j] = total


@njit(nogil=True, cache=True, error_model="numpy")
def compare(sums: Any, counts: Any, least: float, log_ratio: Any) -> tuple[float, float]:
    """log_ratio [K] = log(sums / counts), 0 where the count is 0; its largest size, and the residual of all classes.

    Both are infinite where a sum is not finite.
    """
    error = residual = 0.0
    for k in range(counts.size):
        if not abs(sums[k]) < math.inf:
            log_ratio[k:] = 0.0
            return math.inf, math.inf
        log_ratio[k] = math.log(max(sums[k], least) / counts[k]) if counts[k] > 0.0 else 0.0
        error = max(error, abs(log_ratio[k]))
        residual = max(residual, abs(sums[k] - counts[k]) / max(counts[k], 1.0))
    return error, residual


@njit(nogil=True, cache=True, error_model="numpy")
def scaled_laplacian(coupling: Any, least: float, degree: Any, scale: Any, matrix: Any) -> None:
    """degree [K] = the sums of coupling [K, K] off its diagonal, scale = 1 / sqrt(degree), 0 where that is infinite,
    matrix [K, K] = scale (diag(degree) - coupling) scale + u u^T, u being the unit vector along sqrt(degree).
    """
    total = 0.0
    for j in range(degree.size):
        degree[j] = 0.0
        for k in range(degree.size):
            degree[j] += coupling[j, k] if k != j else 0.0
        scale[j] = 1.0 / math.sqrt(degree[j]) if degree[j] > 0.0 else 0.0
        total += degree[j]
    total = max(total, least)
    for j in range(degree.size):
        for k in range(degree.size):
            root = math.sqrt(degree[j] * degree[k]) / total
            matrix[j, k] = root - scale[j] * coupling[j, k] * scale[k] if k != j else root
