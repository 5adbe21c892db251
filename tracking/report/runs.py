"""Reads run folders back: a folder becomes a `Run`, runs that differ by the seed alone become a `Group`.

What makes two runs one configuration stands in the runs themselves: `field_kinds` of config.yaml names the fields that
shape a run and those that only mean something when pseudo-labels are refined; everything else is incidental. One
unreadable run never hides the others. Names out of the files are made printable here, once, so that neither a terminal
nor a page meets a control character.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tracking.base import Row
from tracking.local import CONFIG_FILE, METRICS_FILE, is_kept, read_config, read_rows

REFINEMENT_NAMES = {
    "none": "",
    "align": " + alignment",
    "sinkhorn": " + Sinkhorn",
    "darp": " + DARP",
    "own": "",
}


LABELS_BEFORE = {  # of runs from before a run's folder said how its method is called; it is complete
    "mix": "MixMatch",
    "remix": "ReMixMatch",
    "fix": "FixMatch",
    "pseudo": "Pseudo-Label",
    "sup": "Supervised",
}
OWN_ROWS_LACK = "time/epoch"  # a loop of one's own has rows without it, and no config.yaml


class Regime(NamedTuple):
    """What decides how many labels there are and how they are spread: runs are compared within one regime."""

    dataset: str
    ratio: float | None
    num_max: float | None
    imb_ratio_l: float | None
    imb_ratio_u: float | None
    imb_ratio_u_reversed: bool = False

    @property
    def label(self) -> str:
        """In words: `1 label a class`, `up to 1500 labels a class (imbalance 100)`."""
        if self.num_max is None:
            return "labels not stated"
        balanced = self.imb_ratio_l in (None, 1.0)
        words = f"{self.num_max:g} {'label' if self.num_max == 1 else 'labels'} a class"
        notes = [] if balanced else [f"imbalance {self.imb_ratio_l:g}"]
        if self.imb_ratio_u_reversed:
            notes.append(f"unlabeled imbalance {self.imb_ratio_u or 1:g} reversed")
        elif self.imb_ratio_u not in (None, self.imb_ratio_l):
            notes.append(f"unlabeled imbalance {self.imb_ratio_u:g}")
        words = words if balanced else f"up to {words}"
        return f"{words} ({', '.join(notes)})" if notes else words


class Series(NamedTuple):
    """One figure over the epochs of one run; both lists have the same length and hold finite numbers."""

    epochs: list[int]
    values: list[float]


@dataclass(frozen=True)
class Run:
    """One run folder. `rows` has one row an epoch in the order of the epochs, and at least one row."""

    folder: Path
    name: str
    config: Mapping[str, Any]
    rows: Sequence[Row]

    @property
    def class_names(self) -> list[str]:
        """Names of the K classes, made unique; a class's index where the configuration has no name."""
        given = self.config.get("class_names")
        given = [printable(name) for name in given] if isinstance(given, list) else []
        count = sum(key.startswith("pseudo/orig/") and key[12:].isdigit() for key in self.rows[-1]) or len(
            given
        )
        names = [given[k] if k < len(given) else str(k) for k in range(count)]
        return [name if names.count(name) == 1 else f"{name} ({k})" for k, name in enumerate(names)]

    @property
    def regime(self) -> Regime:
        """The regime that this run belongs to."""
        numbers = {
            key: _number(self.config.get(key)) for key in ("ratio", "num_max", "imb_ratio_l", "imb_ratio_u")
        }
        reversed_u = self.config.get("imb_ratio_u_reversed") is True
        dataset = printable(self.config.get("dataset", "unknown data"))
        return Regime(dataset, imb_ratio_u_reversed=reversed_u, **numbers)

    @property
    def seed(self) -> str:
        """The seed as text, `?` where the configuration has none."""
        return printable(self.config.get("seed", "?"))

    @property
    def method(self) -> str:
        """The method's name as it is shown."""
        name = self.config.get("semi_method", "unknown method")
        return printable(self.config.get("method_label", LABELS_BEFORE.get(str(name), name)))

    @property
    def refine(self) -> str:
        """What refined the pseudo-labels: a key of `REFINEMENT_NAMES`, or the name of what has a label in the run."""
        given = self.config.get("refine")
        named = given in REFINEMENT_NAMES or "refine_label" in self.config
        return printable(given) if named else "none"

    @property
    def refinement(self) -> str:
        """How it is shown behind the method: ` + DARP`; empty where there is none."""
        if self.refine not in REFINEMENT_NAMES:
            return f" + {printable(self.config['refine_label'])}"
        online = self.config.get("est_from") == "online" and self.refine != "none"
        return REFINEMENT_NAMES[self.refine] + (" (online estimate)" if online else "")

    def fields(self, *, refinement: bool = True) -> dict[str, Any]:
        """The fields that make this run the configuration it is, without the seed; with or without those that only
        mean something when pseudo-labels are refined. A run that does not say which they are has all of its fields.
        """
        kinds = self.config.get("field_kinds")
        if not isinstance(kinds, dict):
            return {key: value for key, value in self.config.items() if key not in ("seed", "run_name")}
        taken = [kind for kind in kinds if refinement or kind != "refinement"]
        names = {str(name) for kind in taken if isinstance(kinds[kind], list) for name in kinds[kind]}
        return {name: self.config.get(name) for name in sorted(names - {"seed"})}

    @property
    def retrained(self) -> bool:
        """Whether this is the retraining of a run's head."""
        return self.config.get("head") == "crt"

    @property
    def epochs_asked(self) -> int | None:
        """How many epochs the configuration asks for."""
        asked = _number(self.config.get("epochs"))
        return None if asked is None else int(asked)

    @property
    def epochs_done(self) -> int:
        """How many epochs are behind the run; epochs count from 0."""
        return int(self.rows[-1]["epoch"]) + 1

    @property
    def finished(self) -> bool:
        """Whether the last epoch asked for is there."""
        return self.epochs_asked is not None and self.epochs_done >= self.epochs_asked

    def last(self, key: str) -> float | None:
        """The figure of the last epoch; None where it is missing or not a number. May be infinite."""
        value = self.rows[-1].get(key)
        return None if value is None or math.isnan(value) else value

    def series(self, key: str) -> Series:
        """The figure over the epochs, without the epochs where it is missing, infinite or not a number."""
        points = [(int(row["epoch"]), row[key]) for row in self.rows if math.isfinite(row.get(key, math.nan))]
        return Series([epoch for epoch, _ in points], [value for _, value in points])

    def shares(self, table: str, row: int = -1) -> list[float | None] | None:
        """Class shares [K] of `orig`, `refined`, `target` or `true` at one row; None where none is logged."""
        values = [self.rows[row].get(f"pseudo/{table}/{k}", math.nan) for k in range(len(self.class_names))]
        shares = [value if math.isfinite(value) else None for value in values]
        return shares if any(share is not None for share in shares) else None


@dataclass(frozen=True)
class Group:
    """Runs of one configuration that differ by the seed alone; `label` tells it apart within its regime."""

    regime: Regime
    label: str
    runs: tuple[Run, ...]

    @property
    def darp(self) -> bool:
        """Whether these runs refined their pseudo-labels by DARP."""
        return self.runs[0].refine == "darp"

    @property
    def refined(self) -> bool:
        """Whether these runs refined their pseudo-labels, by DARP or otherwise."""
        return self.runs[0].refine != "none"

    def counterpart_key(self) -> str:
        """Equal for two groups that agree on everything but how, and whether, pseudo-labels are refined."""
        return _identity(self.runs[0].fields(refinement=False))


def printable(value: object) -> str:
    """Text of `value`, at most 200 characters, without any that a terminal could act on."""
    text = str(value)
    text = text if len(text) <= 200 else text[:199] + "…"
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def find_runs(
    folders: Iterable[str | Path], read: Callable[[Path], Run] | None = None
) -> tuple[list[Run], list[str]]:
    """Every run in or below `folders`, and a line for each folder that is left out and holds a run.

    `read` takes the place of `read_run`.

    Links are not followed. The folders that --overwrite keeps are no runs. Of two runs of one configuration and one
    seed the one with more epochs is taken, of two equal ones the newer: they are not two seeds.
    """
    runs: list[Run] = []
    problems: list[str] = []
    seen: set[Path] = set()
    for top in folders:
        for place, subfolders, files in os.walk(top):
            subfolders[:] = sorted(
                name for name in subfolders if name != "wandb" and not is_kept(Path(place, name))
            )
            folder = Path(place)
            if (METRICS_FILE not in files and CONFIG_FILE not in files) or folder.resolve() in seen:
                continue
            seen.add(folder.resolve())
            try:
                runs.append((read or read_run)(folder))
            except ValueError as error:
                problems.append(f"{printable(folder)}: left out: {printable(error)}")
    runs, repeated = _one_run_a_seed(runs)
    return runs, problems + repeated


def read_run(folder: str | Path) -> Run:
    """Read one run folder.

    Raises:
        ValueError: one line that says what is missing or broken.
    """
    folder = Path(folder)
    rows = read_rows_of(folder) if (folder / METRICS_FILE).exists() else None
    if rows and not (folder / CONFIG_FILE).exists() and OWN_ROWS_LACK not in rows[-1]:
        return Run(folder, printable(folder.name), own_loop(folder, rows), rows)
    config = read_config(folder)
    if rows is None:
        raise ValueError(f"no {METRICS_FILE} (a run writes it with its first epoch)")
    if not rows:
        raise ValueError(f"{METRICS_FILE} holds no complete epoch yet")
    return Run(folder, printable(config.get("run_name") or folder.name), config, rows)


def read_rows_of(folder: Path) -> list[Row]:
    """The rows of a folder; ValueError, one line, where they cannot be read."""
    try:
        return read_rows(folder)
    except OSError as error:
        raise ValueError(f"cannot be read: {printable(error)}") from None


def own_loop(folder: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """What is known of a folder that holds rows alone, as `darp.PseudoLabelMonitor` gives them."""
    refined = any(row.get("pseudo/refined/0") != row.get("pseudo/orig/0") for row in rows)
    return {
        "dataset": "own loop",
        "semi_method": folder.name,
        "method_label": folder.name,
        "run_name": folder.name,
        "refine": "own" if refined else "none",
        "epochs": int(rows[-1]["epoch"]) + 1,  # nobody knows how many it should be
    }


def _one_run_a_seed(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs without repetitions of a configuration and seed, and a line for each that goes."""
    taken: dict[str, Run] = {}
    lines = []
    for run in runs:
        if run.seed == "?":  # nothing tells whether it is a repetition
            taken[str(run.folder)] = run
            continue
        key = _identity({**run.fields(), "seed": run.seed})
        kept = max(taken.get(key, run), run, key=lambda run: (run.epochs_done, _written_at(run)))
        if key in taken:
            gone = taken[key] if kept is run else run
            lines.append(
                f"{printable(gone.folder)}: left out: the same configuration and seed as {printable(kept.folder)}, "
                "which has more epochs or is newer"
            )
        taken[key] = kept
    return list(taken.values()), lines


def _written_at(run: Run) -> float:
    return (run.folder / METRICS_FILE).stat().st_mtime


def group_runs(runs: Iterable[Run]) -> dict[Regime, list[Group]]:
    """Runs by regime and configuration: many labels before few, without DARP before with it."""
    by_regime: dict[Regime, dict[str, list[Run]]] = {}
    for run in runs:
        by_regime.setdefault(run.regime, {}).setdefault(_identity(run.fields()), []).append(run)
    return {
        regime: _label_groups(regime, list(by_regime[regime].values()))
        for regime in sorted(by_regime, key=_many_labels_first)
    }


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer beyond the range of floats
        return math.inf if value > 0 else -math.inf


def _identity(fields: Mapping[str, Any]) -> str:
    return json.dumps({str(key): repr(value) for key, value in fields.items()}, sort_keys=True)


def _many_labels_first(regime: Regime) -> tuple[Any, ...]:
    numbers = [math.inf if number is None else number for number in regime[1:5]]
    return (regime.dataset, -numbers[1], *numbers[2:], numbers[0], regime.imb_ratio_u_reversed)


def _retrained_last(batch: Sequence[Run]) -> tuple[bool, int, str]:
    """Then the refinements in the order of `REFINEMENT_NAMES`, before those with labels of their own, each without
    an estimate made in training before it with one.
    """
    order, run = list(REFINEMENT_NAMES), batch[0]
    return run.retrained, order.index(run.refine) if run.refine in order else len(order), run.refinement


def _label_groups(regime: Regime, batches: list[list[Run]]) -> list[Group]:
    """Name each configuration by method and refinement, and by differing fields where that is not enough."""
    by_name: dict[str, list[list[Run]]] = {}
    for batch in sorted(batches, key=_retrained_last):
        name = batch[0].method + batch[0].refinement + (" + cRT" if batch[0].retrained else "")
        by_name.setdefault(name, []).append(batch)
    groups = []
    for name, alike in by_name.items():
        fields = sorted({str(key) for batch in alike for key in batch[0].fields()})
        differing = [f for f in fields if len({repr(batch[0].config.get(f)) for batch in alike}) > 1]
        for batch in sorted(alike, key=lambda batch: [str(batch[0].config.get(f)) for f in differing]):
            suffix = ", ".join(f"{printable(f)} {printable(batch[0].config.get(f))}" for f in differing)
            ordered = tuple(sorted(batch, key=lambda run: (run.seed.zfill(12), run.name)))
            groups.append(Group(regime, f"{name}, {suffix}" if suffix else name, ordered))
    return groups
