"""One reading of a table [N, K] on the CPU for what an epoch's row says of it: column sums, argmax, largest entries."""

from __future__ import annotations

from typing import Any

import numpy as np

from darp.engine.exp_log import njit


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def read_rows(rows: Any, bits: Any, block_rows: Any, sums: Any, label: Any, confidence: Any) -> None:
    """sums [K] float64 += the columns, `block_rows` rows at a time in float32; label [n] = the first of the largest
    entries of each row; confidence [n] = that entry.

    rows [n, K] float32, no entry below 0. `bits` are the same as int32: they have the order of the entries, and their
    comparisons become vectors where those of floats do not.
    """
    count, num_classes = rows.shape
    block = np.zeros(num_classes, np.float32)
    places = np.arange(num_classes).astype(np.int32)
    none = np.int32(num_classes)
    for i in range(count):
        top = bits[i, 0]
        for k in range(num_classes):
            block[k] += rows[i, k]
            top = max(top, bits[i, k])
        place = none
        for k in range(num_classes):
            place = min(place, places[k] if bits[i, k] == top else none)
        label[i] = place
        confidence[i] = rows[i, place]
        if i % block_rows == block_rows - 1 or i == count - 1:
            for k in range(num_classes):
                sums[k] += block[k]
                block[k] = 0.0
