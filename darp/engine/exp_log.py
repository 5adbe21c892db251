"""exp and log for Numba's compiled loops, as polynomials, because the ones of the C library do not vectorise.

In compiled code `exp_` and `log_` take the arithmetic of their argument, float64 or float32; in plain Python (Numba
switched off, to debug a kernel) they are the ones of the C library.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import extending, types

from darp.engine.first_use import announce

njit: Any = numba.njit  # their annotations describe the decorators, not what they make of a function
intrinsic: Any = extending.intrinsic
announce()

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


def exp_(t: float) -> float:
    """exp(t) for t <= 0, relative error below 1e-14; below -600 it is exp(-600). For float32 1e-7 and -87."""
    return math.exp(max(t, -600.0))


def log_(a: float) -> float:
    """log(a) for normal a > 0, relative error below 1e-14 (1e-6 for float32); finite for a = 0, so a log a is 0."""
    return math.log(max(float(a), 5e-324))


extending.overload(exp_)(lambda t: (lambda t: _exp_32(t)) if t is types.float32 else (lambda t: _exp_64(t)))
extending.overload(log_)(lambda a: (lambda a: _log_32(a)) if a is types.float32 else (lambda a: _log_64(a)))
