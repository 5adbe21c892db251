"""Early termination: W&B's hyperband, which looks at the value of the metric at a few row counts, the brackets.

A trial that has reached a bracket and is worse there than the best 1/eta of those that reached it is behind. Li et al.,
"Hyperband", JMLR 2018; the rule here is that of W&B's package `sweeps` 0.3.0 (`hyperband_stopping.py`), for smaller is
better. It counts rows that carry the metric: here one an epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_BRACKETS = 100
KEYS = ("type", "min_iter", "max_iter", "s", "eta", "strict")


@dataclass(frozen=True)
class Hyperband:
    """Attributes:
    brackets: row counts at which trials are compared, ascending.
    eta: the best 1/eta of the trials go on.
    strict: compare the value at the bracket; else the trial's best value so far.
    """

    brackets: tuple[int, ...]
    eta: float
    strict: bool

    def bracket(self, rows: int) -> int | None:
        """The largest bracket that a trial with so many rows has reached."""
        return max((bracket for bracket in self.brackets if bracket <= rows), default=None)

    def is_behind(self, own: Sequence[float], others: Sequence[float]) -> bool:
        """Whether the trial with the values `own`, smaller is better, is to end.

        others: what the trials that have reached its bracket had there.
        """
        bracket = self.bracket(len(own))
        if bracket is None:
            return False
        at = own[bracket - 1]
        there = sorted([at, *others])
        threshold = there[int(len(there) * (1 / self.eta))]
        return (at if self.strict else min(own)) > threshold


def read_hyperband(given: Mapping[str, Any]) -> Hyperband:
    """The section `early_terminate` of a sweep file. Raises ValueError, one line that names key, value and remedy."""
    kind = given.get("type")
    if kind != "hyperband":
        raise ValueError(f"type {kind}: use hyperband")
    for key in given:
        if key not in KEYS:
            raise ValueError(f"{key} is no key of hyperband; use {', '.join(KEYS)}")
    eta, strict = given.get("eta", 3), given.get("strict", True)
    if isinstance(eta, bool) or not isinstance(eta, (int, float)) or not 1 < eta < float("inf"):
        raise ValueError(f"eta {eta}: use a number above 1")
    if not isinstance(strict, bool):
        raise ValueError(f"strict {strict}: use true or false")
    if "max_iter" in given and "s" in given:
        brackets = _down_from(_whole(given, "max_iter"), _whole(given, "s"), eta)
        if not brackets:
            raise ValueError(f"max_iter {given['max_iter']} leaves no bracket; use a larger one, or min_iter")
    elif "min_iter" in given:
        brackets = _up_from(_whole(given, "min_iter"), eta)
    else:
        raise ValueError("hyperband needs min_iter, or max_iter with s")
    return Hyperband(brackets, float(eta), strict)


def _down_from(largest: int, count: int, eta: float) -> tuple[int, ...]:
    found, bracket = [], float(largest)
    for _ in range(min(count, MOST_BRACKETS)):
        bracket /= eta
        if bracket < 1:
            break
        found.append(int(bracket))
    return tuple(sorted(found))


def _up_from(smallest: int, eta: float) -> tuple[int, ...]:
    found, bracket = [], float(smallest)
    for _ in range(MOST_BRACKETS):
        if bracket > 1e18:
            break
        found.append(int(bracket))
        bracket *= eta
    return tuple(found)


def _whole(given: Mapping[str, Any], key: str) -> int:
    value = given[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{key} {value}: use a whole number of at least 1")
    return value
