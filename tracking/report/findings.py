"""What the runs show, in sentences computed from them: nothing is claimed that the figures do not say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tracking.report.figures import Statistic, distance, statistic, write_statistic
from tracking.report.runs import Group, Regime, Run


def findings(groups: Mapping[Regime, Sequence[Group]]) -> list[str]:
    """Two or three sentences a data set: where pseudo_orig ends without DARP, and what DARP changes there."""
    datasets = dict.fromkeys(regime.dataset for regime in groups)
    return [
        " ".join(_of_dataset(name, {regime: groups[regime] for regime in groups if regime.dataset == name}))
        for name in datasets
    ]


def cautions(groups: Mapping[Regime, Sequence[Group]]) -> list[str]:
    """What a reader must know before trusting the figures: unfinished runs, few seeds, rows not yet visited."""
    runs = [run for members in groups.values() for group in members for run in group.runs]
    lines = []
    unfinished = sum(not run.finished for run in runs)
    if unfinished:
        verb = "is" if unfinished == 1 else "are"
        lines.append(
            f"{unfinished} of {len(runs)} runs {verb} unfinished; figures are of the last epoch so far."
        )
    short = [
        coverage for run in runs if (coverage := run.last("pseudo/coverage")) is not None and coverage < 0.99
    ]
    if short:
        lines.append(
            f"{len(short)} of {len(runs)} runs had not yet visited every unlabeled image (lowest coverage "
            f"{min(short):.2f}): unvisited rows are still uniform and flatter pseudo_orig."
        )
    repeats = {len(group.runs) for members in groups.values() for group in members}
    if repeats == {1}:
        lines.append(
            "Each configuration was run once, so nothing here tells how much a figure varies by seed."
        )
    return lines


def _of_dataset(name: str, groups: Mapping[Regime, Sequence[Group]]) -> list[str]:
    plain = {regime: pair for regime, members in groups.items() if (pair := _pair(members)) is not None}
    measured = {
        regime: figure
        for regime, (without, _) in plain.items()
        if (figure := _mean(without, _orig)) is not None
    }
    truth, brackets = _reference(groups)
    if not measured:
        return [_darp_alone(name, groups, truth, brackets)]
    near, far = min(measured, key=lambda r: measured[r].mean), max(measured, key=lambda r: measured[r].mean)
    opening = f"On {name} without DARP, pseudo_orig ends {_write(measured[near])} from the {truth} with {near.label}"
    if near != far:
        opening += f" and {_write(measured[far])} with {far.label}"
    sentences = [f"{opening} {brackets}."]
    with_darp = plain[far][1]
    if with_darp is not None and (orig := _mean(with_darp, _orig)) is not None:
        verb = _verb(measured[far].mean, orig.mean)
        sentence = f"With {far.label}, DARP {verb} {_write(orig)}"
        if (refined := _mean(with_darp, _refined)) is not None:
            sentence += f"; the refined table, which training learns from, ends {_write(refined)} away"
        sentences.append(sentence + ".")
    changes = [_accuracy_change(*plain[regime]) for regime in dict.fromkeys((far, near))]
    told = [
        f"{change} with {regime.label}"
        for change, regime in zip(changes, (far, near), strict=False)
        if change
    ]
    if told:
        seeds = _means([group for regime in (far, near) for group in plain[regime]])
        sentences.append(f"Test accuracy goes {' and '.join(told)}{seeds}.")
    return sentences


def _pair(members: Sequence[Group]) -> tuple[Group, Group | None] | None:
    """A configuration without DARP and its counterpart with it, preferring one that has a counterpart."""
    with_darp = {group.counterpart_key(): group for group in members if group.darp}
    without = [(group, with_darp.get(group.counterpart_key())) for group in members if not group.darp]
    without.sort(key=lambda pair: pair[1] is None)
    return without[0] if without else None


def _reference(groups: Mapping[Regime, Sequence[Group]]) -> tuple[str, str]:
    """What distances are measured from, and the words in brackets: the target where no truth is logged."""
    runs = (run for members in groups.values() for group in members for run in group.runs)
    if any(run.last("pseudo/orig/tv_true") is not None for run in runs):
        return "true class distribution", "(total variation)"
    return "target distribution", "(total variation; no true labels are logged)"


def _darp_alone(name: str, groups: Mapping[Regime, Sequence[Group]], truth: str, brackets: str) -> str:
    for regime, members in groups.items():
        for group in members:
            if (orig := _mean(group, _orig)) is not None:
                return (
                    f"On {name} with {regime.label}, pseudo_orig of {group.label} ends {_write(orig)} from the "
                    f"{truth} {brackets}; there is no run without DARP to compare it with."
                )
    return f"The runs on {name} log no distance of pseudo_orig from the {truth}."


def _accuracy_change(without: Group, with_darp: Group | None) -> str:
    before = _mean(without, lambda run: run.last("test/acc"))
    after = _mean(with_darp, lambda run: run.last("test/acc")) if with_darp is not None else None
    return f"from {_write(before)} to {_write(after)}" if before is not None and after is not None else ""


def _verb(before: float, after: float) -> str:
    if abs(before - after) < 0.005:
        return "leaves it at"
    return "brings it down to" if after < before else "raises it to"


def _mean(group: Group, take: Callable[[Run], float | None]) -> Statistic | None:
    return statistic(take(run) for run in group.runs)


def _orig(run: Run) -> float | None:
    return distance(run, "orig")


def _refined(run: Run) -> float | None:
    return distance(run, "refined")


def _write(figure: Statistic) -> str:
    if figure.mean < 0.0005:
        return "under 0.001"
    return write_statistic(Statistic(figure.mean, None, figure.n), ".3f" if figure.mean < 0.01 else ".2f")


def _means(groups: Sequence[Group | None]) -> str:
    counts = sorted({len(group.runs) for group in groups if group is not None})
    if counts == [1]:
        return ""
    return (
        f" (means of {counts[0]} seeds)"
        if len(counts) == 1
        else f" (means of {counts[0]} to {counts[-1]} seeds)"
    )
