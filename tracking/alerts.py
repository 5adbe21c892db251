"""Problems of a run, reported while it can still be stopped: each alert has a reason and a remedy.

`alerts(rows)` is a pure function of the rows so far. `AlertTracker` applies it after each epoch and reports each kind
once in a run, also across a resume.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tracking.base import Row
from tracking.local import read_rows

GRACE = 3  # epochs at the start in which few classes, or no confident row, are nothing unusual
STREAK = 3  # epochs in a row that make a state of it
MASK_STREAK = 10
COLLAPSED_SHARE = 0.5  # of the target's effective number of classes
DEAD_SHARE = 0.05  # of the class's target share
UNCONVERGED_SHARE = 0.1  # of an epoch's solves
LOSSES = tuple(f"loss/{part}" for part in ("total", "x", "u", "r", "e"))
HOPELESS = frozenset({"collapse", "loss"})
HOPELESS_EXIT = 3


@dataclass(frozen=True)
class Alert:
    """Each `kind` is reported once in a run. The row of `epoch` triggered it."""

    kind: str
    epoch: int
    title: str
    reason: str
    remedy: str

    @property
    def text(self) -> str:
        return f"{self.reason} {self.remedy}"


@runtime_checkable
class AlertSink(Protocol):
    """A tracker that passes alerts on."""

    def alert(self, alert: Alert) -> None: ...


class Hopeless(SystemExit):
    """`--stop_on_collapse` ends the run; the exit code is HOPELESS_EXIT."""

    def __init__(self) -> None:
        super().__init__(HOPELESS_EXIT)


def alerts(
    rows: Sequence[Row],
    *,
    thresholded: bool = True,
    threshold: str = "--tau",
    refined_from: int = 0,
    refinery: str = "",
) -> list[Alert]:
    """The first alert of each kind, in the order of the epochs.

    Args:
        rows: rows of consecutive epochs, oldest first, under the keys of `tracking.row.ROW`.
        thresholded: whether the method trains on selected rows alone; else the mask rate means nothing.
        threshold: what a row must reach to be selected, as a reader can change it.
        refined_from: first epoch with refinement. Alerts about problems that it would fix are held back until then.
        refinery: label of the one that works batch by batch, where one does.
    """
    settled = max(GRACE, refined_from)
    checks: list[Callable[[Sequence[Row]], Alert | None]] = [
        _loss,
        partial(_collapse, settled, refinery),
        partial(_dead_class, settled, refinery),
        _unconverged,
    ]
    if thresholded:
        checks += [partial(_nothing_selected, threshold), partial(_everything_selected, threshold)]
    found: dict[str, Alert] = {}
    for end in range(1, len(rows) + 1):
        recent = rows[max(0, end - MASK_STREAK) : end]
        for check in checks:
            if (alert := check(recent)) is not None:
                found.setdefault(alert.kind, alert)
    return list(found.values())


def alerts_of_run(rows: Sequence[Row], config: Mapping[str, Any]) -> list[Alert]:
    """`alerts` as this run's configuration asks for them."""
    return _alerts_for(config)(rows)


def effective_classes(shares: Iterable[float]) -> float:
    """exp of the entropy: K for K equal shares, 1 when one class has everything."""
    return math.exp(-sum(p * math.log(p) for p in shares if p > 0))


def _shares(row: Row, table: str) -> list[float]:
    shares: list[float] = []
    while (share := row.get(f"pseudo/{table}/{len(shares)}")) is not None:
        shares.append(float(share))
    return shares


def _lasting(rows: Sequence[Row], length: int, holds: Callable[[Row], bool], settled: int = GRACE) -> bool:
    """Whether it holds in each of the last `length` rows, all of them from epoch `settled` on."""
    last = rows[-length:]
    return len(last) == length and last[0]["epoch"] >= settled and all(map(holds, last))


def _loss(rows: Sequence[Row]) -> Alert | None:
    broken = [key for key in LOSSES if (value := rows[-1].get(key, 0.0)) is None or not math.isfinite(value)]
    if not broken:
        return None
    return Alert(
        "loss",
        rows[-1]["epoch"],
        "The loss is not finite",
        f"{', '.join(broken)} of epoch {rows[-1]['epoch']} is nan or infinite. The weights are lost.",
        "Start again with a smaller --lr. If that does not help, lower --lambda-u or --ratio.",
    )


def _collapsed(row: Row) -> bool:
    shares, target = _shares(row, "refined"), _shares(row, "target")
    return bool(shares and target) and effective_classes(shares) < COLLAPSED_SHARE * effective_classes(target)


def _remedy_of_refinement(refinery: str, otherwise: str) -> str:
    """Where `refinery` is at work already, not "refine them"."""
    return f"{refinery} refines them and does not prevent it: try --darp instead." if refinery else otherwise


def _collapse(settled: int, refinery: str, rows: Sequence[Row]) -> Alert | None:
    if not _lasting(rows, STREAK, _collapsed, settled):
        return None
    row = rows[-1]
    now, wanted = (effective_classes(_shares(row, table)) for table in ("refined", "target"))
    largest = max(range(len(_shares(row, "refined"))), key=_shares(row, "refined").__getitem__)
    remedy = (
        "Refinement is on: look at darp/residual, and at --alpha (more entries kept) and --warm (sooner)."
        if row.get("darp/solves")
        else _remedy_of_refinement(
            refinery,
            "Refine them with --darp, or use more labels (--num_max) or fewer unlabeled images (--ratio).",
        )
    )
    return Alert(
        "collapse",
        row["epoch"],
        f"Pseudo-labels collapse: {now:.1f} effective classes",
        f"For {STREAK} epochs the pseudo-labels have had the spread of less than half the {wanted:.1f} classes of the "
        f"target ({now:.1f}); class {largest} has {max(_shares(row, 'refined')):.0%} of them.",
        remedy,
    )


def _dead(row: Row) -> list[int]:
    return [
        k
        for k, share in enumerate(_shares(row, "refined_hard"))
        if share < DEAD_SHARE * row.get(f"pseudo/target/{k}", 0.0)
    ]


def _dead_class(settled: int, refinery: str, rows: Sequence[Row]) -> Alert | None:
    if not _lasting(rows, STREAK, lambda row: bool(_dead(row)), settled):
        return None
    last = rows[-STREAK:]
    dead = sorted(set(_dead(last[0])).intersection(*map(_dead, last[1:])))
    if not dead:
        return None
    return Alert(
        "dead class",
        last[-1]["epoch"],
        f"Class {dead[0]} has almost no pseudo-labels"
        if len(dead) == 1
        else f"{len(dead)} classes have almost no pseudo-labels",
        f"For {STREAK} epochs class {', '.join(map(str, dead))} has had less than {DEAD_SHARE:.0%} of its share among "
        "the pseudo-labels. The network forgets it.",
        _remedy_of_refinement(
            refinery,
            "Refine them with --darp (from an earlier epoch: --warm), or label more of these classes.",
        ),
    )


def _unconverged(rows: Sequence[Row]) -> Alert | None:
    def failing(row: Row) -> bool:
        solves = row.get("darp/solves") or 0
        return bool(solves) and (row.get("darp/unconverged") or 0) >= UNCONVERGED_SHARE * solves

    if len(rows) < 2 or not all(map(failing, rows[-2:])):
        return None
    row = rows[-1]
    return Alert(
        "refinement",
        row["epoch"],
        "Refinement does not converge",
        f"{row['darp/unconverged']:.0f} of {row['darp/solves']:.0f} solves of this epoch ended off the target counts "
        f"(residual {row.get('darp/residual') or math.nan:.1e}), in the epoch before as well.",
        "Keep more entries with a larger --alpha, so that the target can be met; --solver exact if it is not used.",
    )


def _nothing_selected(threshold: str, rows: Sequence[Row]) -> Alert | None:
    if not _lasting(rows, MASK_STREAK, lambda row: (row.get("pseudo/mask_rate") or 0.0) <= 0.001):
        return None
    return Alert(
        "mask 0",
        rows[-1]["epoch"],
        "No pseudo-label is confident enough",
        f"For {MASK_STREAK} epochs at most one row in a thousand has reached {threshold}: the network learns "
        "from the labels alone.",
        f"Lower {threshold}.",
    )


def _everything_selected(threshold: str, rows: Sequence[Row]) -> Alert | None:
    def unearned(row: Row) -> bool:
        return (row.get("pseudo/mask_rate") or 0.0) >= 0.999 and (row.get("test/bacc") or 0.0) < 0.9

    if not _lasting(rows, MASK_STREAK, unearned):
        return None
    return Alert(
        "mask 1",
        rows[-1]["epoch"],
        "Every pseudo-label counts as confident",
        f"For {MASK_STREAK} epochs all rows have reached {threshold}, at a balanced accuracy of "
        f"{rows[-1].get('test/bacc') or 0.0:.2f}: the network learns wrong labels too.",
        f"Raise {threshold}, or stop earlier.",
    )


def _first_refined(config: Mapping[str, Any]) -> int:
    """The first epoch with refinement; 0 where there is none in this run."""
    first = int(config.get("refined_from", int(config.get("warm", -1)) + 1))  # earlier runs have warm alone
    return first if config.get("refine", "none") != "none" and first < config.get("epochs", 0) else 0


def _alerts_for(config: Mapping[str, Any]) -> Callable[[Sequence[Row]], list[Alert]]:
    return partial(
        alerts,
        thresholded=bool(config.get("thresholded")),
        threshold=str(config.get("threshold", "--tau")),  # earlier runs have no other
        refined_from=_first_refined(config),
        refinery=str(config.get("refine_label", "")),
    )


class AlertTracker:
    """Watches the rows of a run. Comes after the local tracker, whose file holds the epochs before a resume.

    Args:
        folder: the run's folder.
        tell: called with each new alert; empty to be silent.
        stop: whether a collapse or a loss that is not finite ends the run.
    """

    def __init__(self, folder: Path, tell: Sequence[Callable[[Alert], None]], *, stop: bool = False) -> None:
        self.folder = folder
        self.tell = tell
        self.stop = stop
        self._rows: list[Row] = []
        self._told: set[str] = set()
        self._alerts: Callable[[Sequence[Row]], list[Alert]] = alerts

    def start(self, config: Mapping[str, Any], state: Mapping[str, Any], first_epoch: int) -> None:
        self._alerts = _alerts_for(config)
        self._rows = [row for row in read_rows(self.folder) if row["epoch"] < first_epoch]
        self._told = {alert.kind for alert in self._alerts(self._rows)}
        self._rows = self._rows[-MASK_STREAK:]

    def log(self, row: Row) -> None:
        self._rows = [*self._rows, row][-MASK_STREAK - STREAK :]
        found = self._alerts(self._rows)
        for alert in found:
            if alert.kind not in self._told:
                for tell in self.tell:
                    tell(alert)
        self._told |= {alert.kind for alert in found}
        hopeless = [alert for alert in found if alert.kind in HOPELESS]
        if self.stop and hopeless:
            print(
                f"--stop_on_collapse ends the run after epoch {row['epoch']} (exit code {HOPELESS_EXIT}): "
                f"{hopeless[0].title}",
                file=sys.stderr,
            )
            raise Hopeless

    def state_dict(self) -> dict[str, Any]:
        return {}

    def finish(self, exit_code: int) -> None:
        pass


def print_alert(alert: Alert) -> None:
    print(f"epoch {alert.epoch}: {alert.title}. {alert.text}", file=sys.stderr)
