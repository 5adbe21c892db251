"""Which epochs are kept and named where there is no room for all."""

from __future__ import annotations

import math
from collections.abc import Sequence


def thinned(count: int, most: int) -> list[int]:
    """About `most` evenly spread positions of `range(count)`, the first and the last always among them."""
    step = max(1, math.ceil(count / most))
    kept = list(range(0, count, step))
    return kept if not kept or kept[-1] == count - 1 else [*kept, count - 1]


def epoch_ticks(epochs: Sequence[int]) -> list[int]:
    """About ten of the epochs to name on an axis: round numbers, or the last where none is round."""
    spread = (epochs[-1] - epochs[0]) / 10 if epochs else 0
    step = next((step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500) if step >= spread), 1000)
    return [epoch for epoch in epochs if epoch % step == 0] or list(epochs[-1:])
