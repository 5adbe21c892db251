"""What a refinement gained over the same runs without one: pairs of equal seeds, by regime and all together."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tracking.report.figures import Column, heading_of
from tracking.report.runs import Group, Regime

FEWEST = 6  # pairs: with fewer of them no result of Wilcoxon's test has a p under 0.05


class Pair(NamedTuple):
    """A configuration without refinement, and the same with one."""

    regime: Regime
    plain: Group
    refined: Group

    @property
    def label(self) -> str:
        return f"{self.refined.label} minus {self.plain.label}"

    def differences(self, column: Column) -> list[float]:
        """The refined run's figure minus the other's, for each seed that has both."""
        without = {run.seed: column.take(run) for run in self.plain.runs}
        return [
            after - before
            for run in self.refined.runs
            if (after := column.take(run)) is not None and (before := without.get(run.seed)) is not None
        ]


def pairs(groups: Mapping[Regime, Sequence[Group]]) -> Iterator[Pair]:
    """Every refined configuration with its counterpart."""
    for regime, members in groups.items():
        refined: dict[str, list[Group]] = {}
        for group in members:
            if group.refined:
                refined.setdefault(group.counterpart_key(), []).append(group)
        for plain in members:
            if not plain.refined:
                yield from (Pair(regime, plain, other) for other in refined.get(plain.counterpart_key(), []))


def by_regime(groups: Mapping[Regime, Sequence[Group]], columns: Sequence[Column]) -> dict[str, list[str]]:
    """For each regime's heading a line for each pair: what the refinement changed, seed by seed."""
    lines: dict[str, list[str]] = {}
    for pair in pairs(groups):
        changes = [
            f"{column.heading} {_written(differences, column)}"
            for column in columns
            if (differences := pair.differences(column))
        ]
        if changes:
            line = f"{pair.label}, seed by seed: {', '.join(changes)}"
            lines.setdefault(heading_of(pair.regime), []).append(line)
    return lines


def over_all(groups: Mapping[Regime, Sequence[Group]], columns: Sequence[Column]) -> list[list[str]]:
    """Lines of a table: each refinement's gains with the pairs of all regimes together, n, and Wilcoxon's p.

    Empty where no refinement ran in two regimes, or none has enough pairs for the test.
    """
    together: dict[str, list[Pair]] = {}
    for pair in pairs(groups):
        together.setdefault(pair.label, []).append(pair)
    lines = []
    for label, members in together.items():
        found = [[d for pair in members for d in pair.differences(column)] for column in columns]
        if len(members) > 1 and min(map(len, found)) >= FEWEST:
            cells = [
                f"{_written(differences, column)}, {_written_p(wilcoxon(differences))}"
                for differences, column in zip(found, columns, strict=True)
            ]
            lines.append([label, str(len(found[0])), *cells])
    return lines


def _written_p(p: float) -> str:
    return f"p = {p:.3f}" if p >= 0.0005 else "p < 0.001"


def wilcoxon(differences: Sequence[float]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test, exact: how often signs by chance give ranks as one-sided as these.

    Wilcoxon 1945, *Individual comparisons by ranking methods*. Zeros are left out, equal sizes share their mean rank.
    SciPy has it; those who only read results (`requirements-report.txt`) do not have SciPy.
    """
    there = [d for d in differences if d]
    sizes = sorted(map(abs, there))
    rank = {size: 2 * sizes.index(size) + sizes.count(size) + 1 for size in sizes}  # twice, so whole
    sums = Counter({0: 1})  # twice the sum of the positive ranks -> number of ways to get it
    for size in sizes:
        with_it = Counter({s + rank[size]: ways for s, ways in sums.items()})
        sums = sums + with_it
    positive = sum(rank[abs(d)] for d in there if d > 0)
    extreme = min(positive, sum(rank[size] for size in sizes) - positive)
    return min(1.0, 2 * sum(ways for s, ways in sums.items() if s <= extreme) / 2 ** len(there))


def _written(differences: Sequence[float], column: Column) -> str:
    """`+1.2 ± 0.3 (higher on 3 of 3)`, with a remark where the refinement does not help."""
    higher = sum(difference > 0 for difference in differences)
    spread = f" ± {statistics.stdev(differences):{column.form}}" if len(differences) > 1 else ""
    verdict = (
        "" if higher == len(differences) else "; **not a gain on every seed**" if higher else "; **no gain**"
    )
    mean = statistics.fmean(differences)
    return f"{mean:+{column.form}}{spread} (higher on {higher} of {len(differences)}{verdict})"
