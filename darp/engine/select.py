"""Order statistics of the columns of a table by histograms of the bits of its entries, without sorting.

Floats that are not negative are ordered as their bits are. Each level counts, per column, the next few bits of the
entries whose higher bits are those of the entry that is looked for; after the last level its bits are known, and
how often it occurs. Counts add up over chunks and over processes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from darp.engine.exp_log import njit

# Rows that are looked at as one vector, so that a loop over few classes still is one of vectors.
BLOCK_ROWS = 8  # half: 4 % less time, twice: no change, which is noise (python -m benchmarks.constants)


@njit(nogil=True, cache=True, error_model="numpy")
def _repeated(values: Any) -> Any:
    """values [K] once for each row of a block."""
    out = np.empty(BLOCK_ROWS * values.size, values.dtype)
    for j in range(out.size):
        out[j] = values[j % values.size]
    return out


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
def collect_bin(bits: Any, probs: Any, shift: Any, bins: Any, sums: Any, found: Any, place: Any) -> None:
    """found[place [K]...] = the entries of a chunk whose bits >> shift is bins [K], in the order of their rows.

    `place` moves on; sums [K] += the entries above their bin.
    """
    num_classes = bins.size
    bin_of, totals = _repeated(bins), np.zeros(BLOCK_ROWS * num_classes)
    all_bits, all_probs = bits.reshape(-1), probs.reshape(-1)
    for first in range(0, bits.size, totals.size):
        size = min(totals.size, bits.size - first)
        b, p = all_bits[first : first + size], all_probs[first : first + size]
        inside = 0
        for j in range(size):
            top = b[j] >> shift
            totals[j] += p[j] if top > bin_of[j] else 0.0
            inside += 1 if top == bin_of[j] else 0
        if inside > 0:
            for j in range(size):
                if b[j] >> shift == bin_of[j]:
                    found[place[j % num_classes]] = b[j]
                    place[j % num_classes] += 1
    for j in range(totals.size):
        sums[j % num_classes] += totals[j]


@njit(nogil=True, cache=True, error_model="numpy")
def kth_smallest(values: Any, place: int) -> Any:
    """The entry that sorting `values` [n] would put at `place`; reorders them (Hoare 1961, Algorithm 65, FIND).

    Pivots are drawn, so that no order of the rows is a slow one. Numba's own partition would take longer to compile
    than all the solver's passes together.
    """
    low, high, draw = 0, values.size - 1, 1
    while low < high:
        draw = (1103515245 * draw + 12345) & 0x7FFFFFFF  # the C standard's example of a generator
        pivot = values[low + draw % (high - low + 1)]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while pivot < values[j]:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if place <= j:
            high = j
        elif place >= i:
            low = i
        else:
            break
    return values[place]


@njit(nogil=True, cache=True, error_model="numpy")
def select_found(
    found: Any, values: Any, start: Any, missing: Any, threshold: Any, ties: Any, sums: Any
) -> None:
    """The missing-th [K] largest entry of each class in `found`, class k's being start[:, k] of each chunk onwards.

    start [chunks + 1, K]; threshold [K] its bits; sums [K] += the entries above it and, of those that equal it, the
    first that are still missing, counted into ties [chunks, K]. `values` are the entries that `found` has the bits of.
    """
    chunks, num_classes = ties.shape
    for k in range(num_classes):
        first, last = start[0, k], start[chunks, k]
        left = missing[k]
        if left == 0:
            continue
        place = last - first - left
        threshold[k] = kth_smallest(found[first:last].copy(), place)
        for j in range(first, last):
            if found[j] > threshold[k]:
                sums[k] += values[j]
                left -= 1
        for i in range(chunks):
            for j in range(start[i, k], start[i + 1, k]):
                if found[j] == threshold[k] and left > 0:
                    sums[k] += values[j]
                    ties[i, k] += 1
                    left -= 1


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def keep_entries(
    bits: Any, probs: Any, threshold: Any, ties: Any, scale: Any, noise: float, out: Any
) -> None:
    """out [n, K] = the chunk with its kept entries times scale [K], the others 0, plus `noise`, rows normalised.

    Kept are entries above the threshold and the first ties [K] of those that equal it.
    """
    num_classes = threshold.size
    threshold_of, scale_of = _repeated(threshold), _repeated(scale)
    kept, left = np.empty(BLOCK_ROWS * num_classes), ties.copy()
    all_bits, all_probs, all_out = bits.reshape(-1), probs.reshape(-1), out.reshape(-1)
    for first in range(0, bits.size, kept.size):
        size = min(kept.size, bits.size - first)
        b, p, o = (
            all_bits[first : first + size],
            all_probs[first : first + size],
            all_out[first : first + size],
        )
        equal = 0
        for j in range(size):
            kept[j] = noise + (p[j] * scale_of[j] if b[j] > threshold_of[j] else 0.0)
            equal += 1 if b[j] == threshold_of[j] else 0
        if equal > 0:
            for j in range(size):
                if b[j] == threshold_of[j] and left[j % num_classes] > 0:
                    left[j % num_classes] -= 1
                    kept[j] += p[j] * scale_of[j]
        for r in range(size // num_classes):
            total = 0.0
            for k in range(num_classes):
                total += kept[r * num_classes + k]
            inverse = 1.0 / total
            for k in range(num_classes):
                o[r * num_classes + k] = kept[r * num_classes + k] * inverse
