"""The fused pass on a CPU: one read of the table gives column sums and curvature, and writes the result.

A tile of rows is transposed into a small array whose inner axis is the row, so that every loop over rows is a
vector loop; everything inside a tile is float64, whatever the table's type. `exp` and `log` are polynomials written
here because the ones of the C library do not vectorise. Nothing is shared between calls: the caller gives each
chunk of rows its own accumulators and may run chunks on several threads (the functions release the GIL).

Importing this module imports Numba and loads the cached machine code; the solver does so on first use.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import extending, types

njit: Any = numba.njit  # their annotations describe the decorators, not what they make of a function
intrinsic: Any = extending.intrinsic

BLOCK = 4  # classes per register block of the curvature; arrays are padded to it

TINY = 1e-240  # a row whose sum falls below is computed again around its own largest term
TINY_32 = 1e-30  # the same for arithmetic in float32

RELAXED = {"contract", "reassoc", "nsz"}  # lets sums over a tile be vectorised; NaN keeps its meaning
CONTRACT = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract"}}

# Of float64, and below of float32: log2(e); ln 2 in two parts, so that t - n ln 2 is exact; 1.5 * 2**52, which leaves
# the nearest integer in the low bits when added; the bits of sqrt(1/2); the sign and exponent bits as an integer.
LOG2_E = 1.4426950408889634
LN2_HIGH = 6.93147180369123816490e-01
LN2_LOW = 1.90821492927058770002e-10
ROUND = 6755399441055744.0
HALF_SQRT2_BITS = 0x3FE6A09E667F3BCD
EXPONENT_MASK = -0x10000000000000

F = np.float32  # a bare constant is float64 to Numba, and would make the loop around it so
ZERO, ONE, TWO = F(0), F(1), F(2)
LOG2_E_32 = F(LOG2_E)
LN2_HIGH_32, LN2_LOW_32, LN2_32 = F(0.693359375), F(-2.12194440e-4), F(0.6931471805599453)
ROUND_32 = F(12582912.0)
LEAST_32 = F(-87.0)
HALF_SQRT2_BITS_32 = np.int32(0x3F3504F3)
EXPONENT_MASK_32 = np.int32(-0x800000)
BIAS_32, MANTISSA_32 = np.int32(127), np.int32(23)
TAYLOR_32 = tuple(F(1 / math.factorial(n)) for n in range(8))
ATANH_32 = tuple(F(2 / n) for n in (1, 3, 5, 7, 9))


def tile_rows(num_classes: int) -> int:
    """Rows of a tile: of few classes it fits the first-level cache, of many the second-level one."""
    return 128 if num_classes <= 48 else 64 if num_classes <= 128 else 32


def _reinterpret(name: str, source: Any, target: Any, of: Callable[[], Any]) -> Any:
    """An intrinsic that reads the bits of one type as another."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], of())

    def typed(typing_context: Any, value: Any) -> Any:
        return target(source), generate

    typed.__name__ = typed.__qualname__ = name
    return intrinsic(typed)


_as_float = _reinterpret("_as_float", types.int64, types.float64, ir.DoubleType)
_as_bits = _reinterpret("_as_bits", types.float64, types.int64, lambda: ir.IntType(64))
_as_float_32 = _reinterpret("_as_float_32", types.int32, types.float32, ir.FloatType)
_as_bits_32 = _reinterpret("_as_bits_32", types.float32, types.int32, lambda: ir.IntType(32))


@njit(**CONTRACT)
def _exp_64(t: Any) -> Any:
    t = max(t, -600.0)
    shifted = t * LOG2_E + ROUND
    n = shifted - ROUND
    r = (t - n * LN2_HIGH) - n * LN2_LOW
    p = 1 / 39916800.0
    p = p * r + 1 / 3628800.0
    p = p * r + 1 / 362880.0
    p = p * r + 1 / 40320.0
    p = p * r + 1 / 5040.0
    p = p * r + 1 / 720.0
    p = p * r + 1 / 120.0
    p = p * r + 1 / 24.0
    p = p * r + 1 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    return p * _as_float((_as_bits(shifted) + 1023) << 52)


@njit(**CONTRACT)
def _exp_32(t: Any) -> Any:
    t = max(t, LEAST_32)
    shifted = t * LOG2_E_32 + ROUND_32
    n = shifted - ROUND_32
    r = (t - n * LN2_HIGH_32) - n * LN2_LOW_32
    p = TAYLOR_32[7]
    p = p * r + TAYLOR_32[6]
    p = p * r + TAYLOR_32[5]
    p = p * r + TAYLOR_32[4]
    p = p * r + TAYLOR_32[3]
    p = p * r + TAYLOR_32[2]
    p = p * r + ONE
    p = p * r + ONE
    return p * _as_float_32((_as_bits_32(shifted) + BIAS_32) << MANTISSA_32)


@njit(**CONTRACT)
def _log_64(a: Any) -> Any:
    bits = _as_bits(a)
    offset = bits - HALF_SQRT2_BITS
    exponent = offset >> 52
    mantissa = _as_float(bits - (offset & EXPONENT_MASK)) - 1.0
    s = mantissa / (2.0 + mantissa)
    q = s * s
    p = 2 / 19.0
    p = p * q + 2 / 17.0
    p = p * q + 2 / 15.0
    p = p * q + 2 / 13.0
    p = p * q + 2 / 11.0
    p = p * q + 2 / 9.0
    p = p * q + 2 / 7.0
    p = p * q + 2 / 5.0
    p = p * q + 2 / 3.0
    p = p * q + 2.0
    return p * s + exponent * LN2_HIGH + exponent * LN2_LOW


@njit(**CONTRACT)
def _log_32(a: Any) -> Any:
    bits = _as_bits_32(a)
    offset = bits - HALF_SQRT2_BITS_32
    exponent = F(offset >> MANTISSA_32)
    mantissa = _as_float_32(bits - (offset & EXPONENT_MASK_32)) - ONE
    s = mantissa / (TWO + mantissa)
    q = s * s
    p = ATANH_32[4]
    p = p * q + ATANH_32[3]
    p = p * q + ATANH_32[2]
    p = p * q + ATANH_32[1]
    p = p * q + ATANH_32[0]
    return p * s + exponent * LN2_32


def _exp(t: float) -> float:
    """exp(t) for t <= 0, relative error below 1e-14; below -600 it is exp(-600). For float32 1e-7 and -87."""
    raise NotImplementedError("for compiled functions only")


def _log(a: float) -> float:
    """log(a) for normal a > 0, relative error below 1e-14 (1e-6 for float32); finite for a = 0, so a log a is 0."""
    raise NotImplementedError("for compiled functions only")


extending.overload(_exp)(lambda t: (lambda t: _exp_32(t)) if t is types.float32 else (lambda t: _exp_64(t)))
extending.overload(_log)(lambda a: (lambda a: _log_32(a)) if a is types.float32 else (lambda a: _log_64(a)))


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
            h[r] -= a * _log(a)
    faults = 0.0
    for r in range(n):
        faults += 0.0 if negative[r] == 0.0 and abs(total[r] - 1.0) <= 1e-3 else 1.0
        h[r] = max(h[r] / total[r] + _log(total[r]), 0.0)
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
def _tile_coupling(s: Any, h: Any, y: Any, coupling: Any) -> None:
    """coupling += (h * s) s^T on the lower triangle, in register blocks of 2 x 4 classes."""
    padded, tile = s.shape
    zero = s.dtype.type(0)
    for j in range(0, padded, 2):
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
    zero, tiny = duals.dtype.type(0), TINY if duals.itemsize == 8 else TINY_32
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
                e = weight * s[k, r] * _exp(h[r] * minus)
                s[k, r] = e
                z[r] += e
        special = value = 0.0
        for r in range(n):
            special += 1.0 if z[r] < tiny or h[r] <= zero else 0.0
            value += _log(float(z[r])) / (h[r] if h[r] > zero else 1.0)
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
            _tile_coupling(s, h, y, coupling)
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


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def exp_rate_loop(values: Any, repeats: int) -> float:
    """Sum of exp over `values` (none above 0), `repeats` times: what the benchmark takes as the speed of exp."""
    total = np.zeros_like(values)
    for i in range(repeats):
        shift = values.dtype.type(-1e-9 * i)
        for j in range(values.size):
            total[j] += _exp(values[j] + shift)
    return total.sum()
