"""Reads run folders back: a folder becomes a `Run`, runs that differ by the seed alone become a `Group`.

A run may still be training while it is read, and may have been stopped and resumed: the last line of an epoch
counts, a torn line is ignored, and one unreadable run never hides the others. Names out of the files are made
printable here, once, so that neither a terminal nor a page meets a control character.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

CONFIG_FILE, METRICS_FILE = "config.yaml", "metrics.jsonl"

METHOD_NAMES = {
    "fix": "FixMatch",
    "mix": "MixMatch",
    "remix": "ReMixMatch",
    "sup": "Supervised",
    "pseudo": "Pseudo-Label",
}
REFINEMENT_NAMES = {"none": "", "align": " + alignment", "sinkhorn": " + Sinkhorn", "darp": " + DARP"}

# Fields that name, place or repeat a run without making it another experiment.
INCIDENTAL_FIELDS = frozenset(
    {
        "seed", "manualSeed", "manual_seed", "run_name", "name", "out", "data_dir", "gpu", "device",
        "versions", "resume", "start_epoch", "config", "preset", "dry_run", "overwrite", "force", "trial",
        "tracker", "entity", "project", "group", "tags", "notes", "wandb_mode", "sweep", "quiet",
        "progress", "class_names", "labeled_counts", "labeled_counts_asked", "unlabeled_counts",
        "unlabeled_counts_asked", "warnings", "checkpoint", "estimation_dir",
        "alerts", "stop_on_collapse", "estimate",
    }
)  # fmt: skip
# Fields that only mean something when DARP is on: a run and its counterpart with DARP agree on all others.
DARP_FIELDS = frozenset({"darp", "alpha", "warm", "est", "iter_T", "num_iter", "solver"})


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
            return "unknown number of labels"
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
    rows: Sequence[Mapping[str, float]]

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
        return printable(self.config.get("seed", self.config.get("manualSeed", "?")))

    @property
    def darp(self) -> bool:
        """Whether the pseudo-labels were refined by DARP."""
        return self.config.get("darp") is True

    @property
    def refinement(self) -> str:
        """What refined the pseudo-labels, a key of `REFINEMENT_NAMES`."""
        given = self.config.get("refine")
        return given if given in REFINEMENT_NAMES else "darp" if self.darp else "none"

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
        return self.runs[0].darp

    @property
    def refined(self) -> bool:
        """Whether these runs refined their pseudo-labels, by DARP or otherwise."""
        return self.runs[0].refinement != "none"

    def counterpart_key(self) -> str:
        """Equal for two groups that agree on everything but DARP and its own settings.

        Runs with another refinement are nobody's counterpart.
        """
        with_or_without = self.runs[0].refinement in ("darp", "none")
        return _identity(self.runs[0].config, DARP_FIELDS | ({"refine"} if with_or_without else set()))


def printable(value: object) -> str:
    """Text of `value`, at most 200 characters, without any that a terminal could act on."""
    text = str(value)
    text = text if len(text) <= 200 else text[:199] + "…"
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def find_runs(folders: Iterable[str | Path]) -> tuple[list[Run], list[str]]:
    """Every run in or below `folders`, and a line for each that is unreadable. Links are not followed."""
    runs: list[Run] = []
    problems: list[str] = []
    seen: set[Path] = set()
    for top in folders:
        for place, subfolders, files in os.walk(top):
            subfolders[:] = sorted(name for name in subfolders if name != "wandb")
            folder = Path(place)
            if (METRICS_FILE not in files and CONFIG_FILE not in files) or folder.resolve() in seen:
                continue
            seen.add(folder.resolve())
            try:
                runs.append(read_run(folder))
            except ValueError as error:
                problems.append(f"{printable(folder)}: left out: {error}")
    return runs, problems


def read_run(folder: str | Path) -> Run:
    """Read one run folder.

    Raises:
        ValueError: one line that says what is missing or broken.
    """
    folder = Path(folder)
    try:
        config = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        text = (folder / METRICS_FILE).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError as error:
        raise ValueError(f"no {Path(error.filename).name} (a run writes it with its first epoch)") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"cannot be read: {printable(error)}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG_FILE} holds no fields")
    rows = _read_rows(text)
    if not rows:
        raise ValueError(f"{METRICS_FILE} holds no complete epoch yet")
    return Run(folder, printable(config.get("run_name") or folder.name), config, rows)


def group_runs(runs: Iterable[Run]) -> dict[Regime, list[Group]]:
    """Runs by regime and configuration: many labels before few, without DARP before with it."""
    by_regime: dict[Regime, dict[str, list[Run]]] = {}
    for run in runs:
        by_regime.setdefault(run.regime, {}).setdefault(_identity(run.config), []).append(run)
    return {
        regime: _label_groups(regime, list(by_regime[regime].values()))
        for regime in sorted(by_regime, key=_many_labels_first)
    }


def _read_rows(text: str) -> list[Mapping[str, float]]:
    by_epoch: dict[int, Mapping[str, float]] = {}
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # torn by a kill; a resumed run writes the epoch again
            continue
        if not isinstance(row, dict):
            continue
        cleaned = {key: number for key, value in row.items() if (number := _number(value)) is not None}
        if math.isfinite(cleaned.get("epoch", math.nan)):
            by_epoch[int(cleaned["epoch"])] = cleaned
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer beyond the range of floats
        return math.inf if value > 0 else -math.inf


def _identity(config: Mapping[str, Any], without: frozenset[str] = frozenset()) -> str:
    kept = {str(key): repr(value) for key, value in config.items() if key not in INCIDENTAL_FIELDS | without}
    return json.dumps(kept, sort_keys=True)


def _many_labels_first(regime: Regime) -> tuple[Any, ...]:
    numbers = [math.inf if number is None else number for number in regime[1:5]]
    return (regime.dataset, -numbers[1], *numbers[2:], numbers[0], regime.imb_ratio_u_reversed)


def _label_groups(regime: Regime, batches: list[list[Run]]) -> list[Group]:
    """Name each configuration by method and refinement, and by differing fields where that is not enough."""
    by_name: dict[str, list[list[Run]]] = {}
    order = list(REFINEMENT_NAMES)
    for batch in sorted(batches, key=lambda batch: (batch[0].retrained, order.index(batch[0].refinement))):
        config = batch[0].config
        method = METHOD_NAMES.get(
            str(config.get("semi_method")), printable(config.get("semi_method", "unknown method"))
        )
        name = method + REFINEMENT_NAMES[batch[0].refinement] + (" + cRT" if batch[0].retrained else "")
        by_name.setdefault(name, []).append(batch)
    groups = []
    for name, alike in by_name.items():
        fields = sorted({str(key) for batch in alike for key in batch[0].config} - INCIDENTAL_FIELDS)
        differing = [f for f in fields if len({repr(batch[0].config.get(f)) for batch in alike}) > 1]
        for batch in sorted(alike, key=lambda batch: [str(batch[0].config.get(f)) for f in differing]):
            suffix = ", ".join(f"{printable(f)} {printable(batch[0].config.get(f))}" for f in differing)
            ordered = tuple(sorted(batch, key=lambda run: (run.seed.zfill(12), run.name)))
            groups.append(Group(regime, f"{name}, {suffix}" if suffix else name, ordered))
    return groups
