"""The part of the run filters and orders that `wandb.Api().runs` uses: a Mongo-like filter, one order key."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.wandb_server.records import USER, Run

_FIELDS: dict[str, Callable[[Run], Any]] = {
    "name": lambda run: run.name,
    "displayName": lambda run: run.display_name,
    "state": lambda run: run.state,
    "group": lambda run: run.group,
    "jobType": lambda run: run.job_type,
    "tags": lambda run: run.tags,
    "sweep": lambda run: run.sweep,
    "username": lambda run: USER,
    "createdAt": lambda run: run.created_at,
    "heartbeatAt": lambda run: run.heartbeat_at,
}
_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda found, want: found == want or (isinstance(found, list) and want in found),
    "$ne": lambda found, want: not _TESTS["$eq"](found, want),
    "$gt": lambda found, want: found is not None and found > want,
    "$gte": lambda found, want: found is not None and found >= want,
    "$lt": lambda found, want: found is not None and found < want,
    "$lte": lambda found, want: found is not None and found <= want,
    "$in": lambda found, want: any(_TESTS["$eq"](found, item) for item in want),
    "$nin": lambda found, want: not _TESTS["$in"](found, want),
    "$exists": lambda found, want: (found is not None) == bool(want),
    "$regex": lambda found, want: found is not None and re.search(want, str(found)) is not None,
}


def _inside(values: Mapping[str, Any], path: str) -> Any:
    """A value by its whole key, else by dotted path."""
    if path in values:
        return values[path]
    head, _, rest = path.partition(".")
    inner = values.get(head)
    return _inside(inner, rest) if rest and isinstance(inner, Mapping) else None


def look_up(run: Run, key: str) -> Any:
    """The value that a filter or an order names, e.g. `state`, `config.lr.value`, `summary_metrics.loss`.

    Raises KeyError for a key that is not served.
    """
    head, _, rest = key.partition(".")
    head = re.sub(r"_(\w)", lambda match: match.group(1).upper(), head)
    if head == "config" and rest:
        return _inside(run.config, rest.removesuffix(".value"))
    if head in ("summaryMetrics", "summary") and rest:
        return _inside(run.summary, rest)
    return _FIELDS[head](run)


def matches(run: Run, wanted: Mapping[str, Any]) -> bool:
    """Whether a run passes a filter."""
    for key, condition in wanted.items():
        if key == "$and":
            passed = all(matches(run, part) for part in condition)
        elif key == "$or":
            passed = any(matches(run, part) for part in condition)
        elif key in ("$nor", "$not"):
            parts = condition if isinstance(condition, list) else [condition]
            passed = not any(matches(run, part) for part in parts)
        else:
            found = look_up(run, key)
            tests = condition if isinstance(condition, Mapping) else {"$eq": condition}
            passed = all(_TESTS[name](found, want) for name, want in tests.items())
        if not passed:
            return False
    return True


def ordered(runs: list[Run], order: str) -> list[Run]:
    """Runs by one key, `+` ascending or `-` descending; runs that lack the value come last."""
    key = (order or "+created_at").lstrip("+-")
    have = [run for run in runs if look_up(run, key) is not None]
    lack = [run for run in runs if look_up(run, key) is None]
    have.sort(key=lambda run: look_up(run, key))
    if order.startswith("-"):
        have.reverse()
    return have + lack
