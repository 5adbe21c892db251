"""Order statistics of the columns of a table by histograms of the bits of its entries, without sorting.

Floats that are not negative are ordered as their bits are. Each level counts, per column, the next few bits of the
entries whose higher bits are those of the entry that is looked for; after the last level its bits are known, and
how often it occurs. Counts add up over chunks and over processes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from darp.kernels_numba import njit

NOISE = 1e-6  # added to every entry, and to both sides of the rescaling, as published


@njit(nogil=True, cache=True, error_model="numpy")
def count_top(bits: Any, shift: Any, last: Any, histogram: Any) -> None:
    """histogram [K, > last] += counts of bits >> shift over a chunk bits [n, K] of unsigned integers.

    Whatever is above bin `last` counts there: numbers that are no probabilities, negative ones among them.
    """
    rows, num_classes = bits.shape
    for i in range(rows):
        for k in range(num_classes):
            histogram[k, min(bits[i, k] >> shift, last)] += 1


@njit(nogil=True, cache=True, error_model="numpy")
def count_below(bits: Any, prefix: Any, above: Any, shift: Any, mask: Any, histogram: Any) -> None:
    """histogram [K, > mask] += counts of (bits >> shift) & mask where bits >> above is prefix [K]."""
    rows, num_classes = bits.shape
    for i in range(rows):
        for k in range(num_classes):
            b = bits[i, k]
            if (b >> above) == prefix[k]:
                histogram[k, (b >> shift) & mask] += 1


@njit(nogil=True, cache=True, error_model="numpy")
def find_bins(histogram: Any, missing: Any, bins: Any) -> None:
    """bins [K]: where the missing-th largest entry of each column lies; `missing` becomes its place in that bin."""
    num_classes, size = histogram.shape
    for k in range(num_classes):
        b = size - 1
        while b > 0 and missing[k] > histogram[k, b]:
            missing[k] -= histogram[k, b]
            b -= 1
        bins[k] = b


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def sum_above(bits: Any, probs: Any, threshold: Any, sums: Any) -> None:
    """sums [K] += the entries of a chunk whose bits are above threshold [K]."""
    rows, num_classes = bits.shape
    for i in range(rows):
        for k in range(num_classes):
            sums[k] += probs[i, k] if bits[i, k] > threshold[k] else 0.0


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def keep_entries(bits: Any, probs: Any, threshold: Any, ties: Any, scale: Any, out: Any) -> None:
    """out [n, K] = the chunk with its kept entries times scale [K], the others 0, plus NOISE, rows normalised.

    Kept are entries above the threshold and the first ties [K] of those that equal it.
    """
    rows, num_classes = bits.shape
    left = ties.copy()
    row = np.empty(num_classes)
    for i in range(rows):
        total = 0.0
        equal = 0
        for k in range(num_classes):
            value = probs[i, k] * scale[k] if bits[i, k] > threshold[k] else 0.0
            equal += 1 if bits[i, k] == threshold[k] else 0
            row[k] = value + NOISE
            total += value + NOISE
        if equal > 0:
            for k in range(num_classes):
                if bits[i, k] == threshold[k] and left[k] > 0:
                    left[k] -= 1
                    row[k] += probs[i, k] * scale[k]
                    total += probs[i, k] * scale[k]
        inverse = 1.0 / total
        for k in range(num_classes):
            out[i, k] = row[k] * inverse
