"""Class shares of a configuration at its last epoch, and which of its runs stands for it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tracking.report.figures import Statistic, distance, statistic, write_statistic
from tracking.report.runs import Group, Run

Shares = Sequence[float | None]  # share of each class [K]; None where it is unknown


@dataclass(frozen=True)
class ShareTables:
    """Class shares of one configuration at one epoch: [K] for each seed; `refined` is empty without DARP."""

    class_names: Sequence[str]
    orig: Sequence[Shares]
    refined: Sequence[Shares]
    target: Shares | None
    true: Shares | None


def mean_shares(seeds: Sequence[Shares]) -> list[float | None]:
    """Mean share of each class [K] over the seeds that know it."""
    columns = ([share for share in column if share is not None] for column in zip(*seeds, strict=True))
    return [statistics.fmean(column) if column else None for column in columns]


def share_tables(group: Group) -> ShareTables:
    """Class shares of a configuration at the last epoch of each of its runs."""
    names = group.runs[0].class_names
    alike = [run for run in group.runs if len(run.class_names) == len(names)]
    tables = {
        table: [shares for run in alike if (shares := run.shares(table)) is not None]
        for table in ("orig", "refined", "target", "true")
    }
    return ShareTables(
        class_names=names,
        orig=tables["orig"],
        refined=tables["refined"] if group.refined else [],
        target=tables["target"][0] if tables["target"] else None,
        true=tables["true"][0] if tables["true"] else None,
    )


def share_summary(group: Group) -> str:
    """One line on a configuration's last epoch: distances, imbalance, seeds."""
    tables = [("orig", "TV orig"), ("refined", "refined")][: 2 if group.refined else 1]
    parts = [
        f"{words} {write_statistic(figure, '.3f')}"
        for table, words in tables
        if (figure := statistic(distance(run, table) for run in group.runs)) is not None
    ]
    if (ratio := statistic(run.last("pseudo/orig/imbalance") for run in group.runs)) is not None:
        parts.append(f"max/min {write_statistic(Statistic(ratio.mean, None, ratio.n), '.1f')}")
    return " · ".join(parts)


def shown_run(group: Group, members: Sequence[Group]) -> Run:
    """The run of a group to show where only one can be: of the seed whose pseudo_orig ends at the median distance
    in the first configuration of the regime, neither the best seed nor the worst, and the same for all of them.
    """
    ordered = sorted(members[0].runs, key=lambda run: distance(run, "orig") or 0.0)
    seed = ordered[(len(ordered) - 1) // 2].seed
    return next((run for run in group.runs if run.seed == seed), group.runs[0])
