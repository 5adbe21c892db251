"""What the page draws, as one JSON object of names and one packed block of numbers.

A series is a key of `tracking.row.ROW` over the epochs of one run, for the classes of a table [E, K] or alone [E, 1].
Each is scaled to the whole numbers 0..9999 between its smallest and its largest value, so four digits are kept. Steps
from one epoch to the next are small numbers, which is why differences are packed, low bytes apart from high ones.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracking.alerts import alerts_of_run
from tracking.media import read_confusions
from tracking.report.class_shares import shown_run
from tracking.report.epochs import thinned
from tracking.report.figures import heading_of
from tracking.report.findings import first_pair, verdict
from tracking.report.runs import Group, Regime, Run, printable
from tracking.row import is_own

LEVELS = 9999
MISSING = LEVELS + 1
MAX_NUMBERS = (
    2_500_000  # about 4 MB in the page; beyond it only every second epoch is kept, or every third, ...
)

LOGARITHMIC = "darp/residual"
LINES = (
    "pseudo/orig/tv_true", "pseudo/refined/tv_true", "pseudo/orig/tv_target", "pseudo/refined/tv_target",
    "pseudo/orig/accuracy", "pseudo/refined/accuracy", "pseudo/mask_rate", "pseudo/coverage", "test/acc", "test/bacc",
    "test_raw/bacc",
    "data_time", "time/epoch", "time/data", "time/step", "time/refine", "time/eval", "time/log", "time/checkpoint",
    "darp/iterations", "darp/seconds", "darp/unconverged", LOGARITHMIC,
)  # fmt: skip
TABLES = ("pseudo/orig", "pseudo/orig_hard", "pseudo/orig/precision", "pseudo/orig/recall", "test/recall")
REFINED_TABLES = (
    "pseudo/refined",
    "pseudo/refined_hard",
    "pseudo/refined/precision",
    "pseudo/refined/recall",
)
UNSHIFTED_TABLES = ("test_raw/recall",)
CONFUSIONS = ("orig", "refined")
MAX_MATRIX_CLASSES = 20  # up to which every run's matrix is in the page; beyond it the shown runs' alone
CONSTANT_TABLES = ("pseudo/target", "pseudo/true")  # of the last epoch alone, where they do not change

Groups = Mapping[Regime, Sequence[Group]]
Table = NDArray[np.float64]  # [E, K], nan where nothing is logged


def page_data(groups: Groups) -> dict[str, Any]:
    """The data of the page: every value is a plain number, a text or a list or mapping of them.

    `blocks` says what `packed` holds, in its order: run, key, numbers of classes and epochs, smallest and largest
    value (of the decimal logarithm for `LOGARITHMIC`).
    """
    runs = [run for members in groups.values() for group in members for run in group.runs]
    stride = stride_of(runs)
    regimes = list(groups)
    packer = _Packer()
    data: dict[str, Any] = {"stride": stride, "regimes": [], "groups": [], "runs": []}
    for regime in regimes:
        members = pair_first(groups[regime])
        data["regimes"].append(_regime(regime, members))
        for group in members:
            data["groups"].append(_group(group, members, regimes.index(regime)))
            for run in group.runs:
                data["runs"].append(_run(run, len(data["groups"]) - 1, stride))
                packer.add(len(data["runs"]) - 1, run, kept_rows(run, stride))
                if len(run.class_names) <= MAX_MATRIX_CLASSES or run is shown_run(group, members):
                    packer.add_confusions(len(data["runs"]) - 1, run)
    return data | {"levels": LEVELS, "blocks": packer.blocks, "packed": packer.packed()}


def stride_of(runs: Sequence[Run]) -> int:
    """Every how manieth epoch the page keeps so that its numbers stay within `MAX_NUMBERS`."""
    numbers = sum(
        len(run.rows)
        * (len(lines_of(run)) + len(run.class_names) * (len(TABLES) + len(_refined_tables(run))))
        for run in runs
    )
    return max(1, math.ceil(numbers / MAX_NUMBERS))


def lines_of(run: Run) -> tuple[str, ...]:
    """Keys that the page has as lines: those above, and what the run's method and refinery say of themselves."""
    return (*LINES, *sorted(filter(is_own, run.rows[-1])))


def kept_rows(run: Run, stride: int) -> list[int]:
    """Places of the rows that the page keeps, the last one always among them."""
    return thinned(len(run.rows), math.ceil(len(run.rows) / stride))


def differences(groups: Groups) -> dict[str, list[Any]]:
    """Fields that are not the same in all groups: name to one text a group, in the order of the groups."""
    members = [group for regime in groups for group in pair_first(groups[regime])]
    names = sorted({name for group in members for name in group.runs[0].fields()})
    configs = [group.runs[0].config for group in members]
    return {
        printable(name): [printable(config.get(name, "-")) for config in configs]
        for name in names
        if len({repr(config.get(name)) for config in configs}) > 1
    }


def pair_first(members: Sequence[Group]) -> list[Group]:
    """The groups with the pair that the verdict is about at the front."""
    first = [group for group in first_pair(members) if group is not None]
    return first + [group for group in members if group not in first]


def _regime(regime: Regime, members: Sequence[Group]) -> dict[str, Any]:
    word, sentence = verdict(members)
    return {
        "dataset": regime.dataset,
        "label": regime.label,
        "name": heading_of(regime),
        "word": word,
        "verdict": sentence,
        "images": image_counts(members[0].runs[0]),
    }


def _group(group: Group, members: Sequence[Group], regime: int) -> dict[str, Any]:
    run = group.runs[0]
    return {
        "regime": regime,
        "label": group.label,
        "method": run.method,
        "refine": run.refine,
        "refinement": run.refinement.removeprefix(" + ") or "none",
        "seed": shown_run(group, members).seed,
        "classes": run.class_names,
    }


def _run(run: Run, group: int, stride: int) -> dict[str, Any]:
    epochs = [int(run.rows[row]["epoch"]) for row in kept_rows(run, stride)]
    return {
        "group": group,
        "seed": run.seed,
        "name": run.name,
        "epochs": len(epochs) if epochs == list(range(len(epochs))) else epochs,
        "alerts": [[alert.epoch, alert.title, alert.text] for alert in alerts_of_run(run.rows, run.config)],
    }


def image_counts(run: Run) -> str:
    """How many labeled and unlabeled images a run had, and what was asked for where that differs."""
    parts = []
    for kind in ("labeled", "unlabeled"):
        got, asked = (_total(run.config.get(f"{kind}_counts{suffix}")) for suffix in ("", "_asked"))
        if got is not None:
            parts.append(f"{got:,} {kind}" + (f" (asked for {asked:,})" if asked not in (None, got) else ""))
    return f"{' and '.join(parts)} images" if parts else ""


def _total(counts: object) -> int | None:
    if isinstance(counts, list) and counts and all(isinstance(count, int) for count in counts):
        return sum(counts)
    return None


def _refined_tables(run: Run) -> tuple[str, ...]:
    """Those that runs with a refinement have; where it shifts test logits, also what they were without that."""
    shifts = bool(run.rows) and "test_raw/bacc" in run.rows[-1]
    return () if run.refine == "none" else REFINED_TABLES + (UNSHIFTED_TABLES if shifts else ())


def _of_classes(key: str, run: Run) -> list[str]:
    return [f"{key}/{k}" for k in range(len(run.class_names))]


def _table(run: Run, keys: Sequence[str], kept: Sequence[int]) -> Table:
    """The figures of these keys at the kept rows [E, K]; nan where one is missing."""
    rows, take = [run.rows[place] for place in kept], itemgetter(*keys)
    try:
        found = [take(row) for row in rows]  # four times as fast as asking for each key
    except KeyError:
        found = [[row.get(key, math.nan) for key in keys] for row in rows]
    return np.array(found, dtype=float).reshape(len(rows), len(keys))


class _Packer:
    """Collects series and packs their numbers."""

    def __init__(self) -> None:
        self.blocks: list[list[Any]] = []
        self._steps: list[NDArray[np.uint16]] = []

    def add(self, number: int, run: Run, kept: Sequence[int]) -> None:
        """All series of a run that hold a number."""
        for key in lines_of(run):
            self._series(number, key, _table(run, [key], kept))
        for key in (*TABLES, *_refined_tables(run)):
            self._series(number, key, _table(run, _of_classes(key, run), kept))
        for key in CONSTANT_TABLES:
            moves = key == "pseudo/target" and run.config.get("est_from") == "online"
            self._series(number, key, _table(run, _of_classes(key, run), kept if moves else kept[-1:]))

    def add_confusions(self, number: int, run: Run) -> None:
        """Where the images of each class go, [label, class]: shares of the class, from the newest matrix kept."""
        for name in CONFUSIONS[: 2 if run.refine != "none" else 1]:
            counts = read_confusions(run.folder).get(name)
            if counts is not None and counts.shape == (len(run.class_names),) * 2:
                self._series(
                    number, f"confusion/{name}", (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).T
                )

    def _series(self, number: int, key: str, table: Table) -> None:
        if key == LOGARITHMIC:
            table = np.log10(np.where(table > 0, table, np.nan))
        there = np.isfinite(table)
        if not there.any():
            return
        low, high = float(f"{table[there].min():.5g}"), float(f"{table[there].max():.5g}")
        scaled = np.full(table.shape, MISSING, dtype=np.int64)
        span = high - low or 1.0
        scaled[there] = np.clip(np.rint((table[there] - low) / span * LEVELS), 0, LEVELS)
        steps = np.diff(scaled.T, axis=1, prepend=0)  # [K, E]: each class's epochs lie together
        self.blocks.append([number, key, table.shape[1], table.shape[0], low, high])
        self._steps.append(steps.astype(np.uint16).ravel())  # modulo 65536

    def packed(self) -> str:
        steps = np.concatenate(self._steps) if self._steps else np.zeros(0, np.uint16)
        planes = np.concatenate([steps & 255, steps >> 8]).astype(np.uint8)
        return base64.b64encode(zlib.compress(planes.tobytes())).decode()
