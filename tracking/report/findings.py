"""What the runs show, in sentences computed from them: nothing is claimed that the figures do not say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tracking.alerts import COLLAPSED_SHARE, effective_classes
from tracking.report.figures import Statistic, distance, statistic, write_statistic
from tracking.report.runs import Group, Regime, Run

NEAR, AT = 0.1, 0.03  # total variation: below the first the labels are near the truth, below the second at it


def verdict(members: Sequence[Group]) -> tuple[str, str]:
    """One or two words on the raw pseudo-labels of a regime, and one sentence with the figures behind them.

    It is about the first configuration without refinement and its counterpart with DARP, at the last epoch.
    """
    raw, darp = first_pair(members)
    shown = raw or darp or members[0]
    truth = _reference(shown)
    orig = _mean(shown, lambda run: distance(run, "orig"))
    if orig is None:
        return "unknown", f"{shown.label} logs no distance of its raw pseudo-labels from the {truth}."
    spread, classes = _mean(shown, effective), _mean(shown, target_classes)
    sentence = f"Raw pseudo-labels of {shown.label} end {_write(orig)} from the {truth}"
    if spread is not None:
        sentence += f", spread over {spread.mean:.1f} of {len(shown.runs[0].class_names)} classes"
    if raw is not None and darp is not None:
        sentence += _with_darp(raw, darp)
    elif shown.refined:
        name = shown.runs[0].refinement.removeprefix(" + ") or "refinement"
        sentence += f"; no run without {name} to compare it with"
    word = _word(orig.mean, spread, classes, truth)
    return word, f"{sentence}{_means([raw, darp] if raw else [shown])}."


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


def first_pair(members: Sequence[Group]) -> tuple[Group | None, Group | None]:
    """A configuration without refinement and its counterpart with DARP, preferring one that has a counterpart."""
    with_darp = {
        group.counterpart_key(): group for group in reversed(members) if group.darp
    }  # the first of each
    without = [(group, with_darp.get(group.counterpart_key())) for group in members if not group.refined]
    without.sort(key=lambda pair: pair[1] is None)
    return without[0] if without else (None, next((group for group in members if group.darp), None))


def effective(run: Run) -> float | None:
    """Over how many classes the raw pseudo-labels of the last epoch spread: exp of their entropy."""
    return _effective(run.shares("orig"))


def target_classes(run: Run) -> float | None:
    """The same of the truth; of the target where no truth is logged."""
    return _effective(run.shares("true") or run.shares("target"))


def _effective(shares: Sequence[float | None] | None) -> float | None:
    return None if shares is None else effective_classes(share for share in shares if share is not None)


def _word(distance: float, spread: Statistic | None, classes: Statistic | None, truth: str) -> str:
    if spread is not None and classes is not None and spread.mean < COLLAPSED_SHARE * classes.mean:
        return "collapsed"
    return (
        f"at the {truth}"
        if distance < AT
        else f"near the {truth}"
        if distance < NEAR
        else f"far from the {truth}"
    )


def _with_darp(raw: Group, darp: Group) -> str:
    text = ""
    if (orig := _mean(darp, lambda run: distance(run, "orig"))) is not None:
        text = f"; with DARP {_write(orig)}"
    before, after = (_mean(group, lambda run: run.last("test/acc")) for group in (raw, darp))
    if before is not None and after is not None:
        text += f", and accuracy goes from {_write(before)} to {_write(after)}"
    return text


def _reference(group: Group) -> str:
    """What distances are measured from: the target where no truth is logged."""
    known = any(run.last("pseudo/orig/tv_true") is not None for run in group.runs)
    return "truth" if known else "target"


def _mean(group: Group, take: Callable[[Run], float | None]) -> Statistic | None:
    return statistic(take(run) for run in group.runs)


def _write(figure: Statistic) -> str:
    if figure.mean < 0.0005:
        return "under 0.001"
    return write_statistic(Statistic(figure.mean, None, figure.n), ".3f")


def _means(groups: Sequence[Group | None]) -> str:
    counts = sorted({len(group.runs) for group in groups if group is not None})
    if counts == [1]:
        return ""
    return (
        f" (means of {counts[0]} seeds)"
        if len(counts) == 1
        else f" (means of {counts[0]} to {counts[-1]} seeds)"
    )
