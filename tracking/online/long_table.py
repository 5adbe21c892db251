"""One long table of a run, a line for each epoch and class. The custom charts of `vega` draw from it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracking.base import Row

TABLES = ("orig", "refined", "target", "true")
COLUMNS = ("epoch", "class", *TABLES, "regime", "refine")
TABLE_KEY = "pseudo_labels"
MAX_LINES = 10_000  # W&B's charts read at most so many lines of a table
FOLDER = Path(__file__).parent / "vega"


@dataclass(frozen=True)
class Chart:
    """A custom chart of `vega`: its name there and at W&B, its title, and the columns of the table that it draws."""

    name: str
    title: str
    columns: tuple[str, ...]

    @property
    def preset(self) -> str:
        """The name under which W&B keeps it, below an entity."""
        return f"darp_{self.name}"

    @property
    def fields(self) -> dict[str, str]:
        return {column: column for column in self.columns}

    def spec(self) -> dict[str, Any]:
        """The Vega-Lite specification, with W&B's `${field:...}` where a column's name belongs."""
        found: dict[str, Any] = json.loads((FOLDER / f"{self.name}.json").read_text())
        return found


CHARTS = (
    Chart(
        "histograms",
        "pseudo_orig and pseudo_refined, regime beside regime",
        ("epoch", "class", "orig", "refined", "regime", "refine"),
    ),
    Chart("shares", "Pseudo-labels at the last epoch", ("epoch", "class", *TABLES)),
    Chart("history", "Class shares over the epochs", ("epoch", "class", "orig", "refined")),
    Chart("regimes", "Regime beside regime", ("epoch", "orig", "refined", "regime", "refine")),
)


def long_table(
    rows: Sequence[Row], class_names: Sequence[str], regime: str, refine: str, max_lines: int = MAX_LINES
) -> list[list[Any]]:
    """Lines in the order of COLUMNS. Of a long run evenly spaced epochs are taken, the last one always.

    Args:
        rows: as in metrics.jsonl, one an epoch.
        regime: names data set, labels and imbalance.
        refine: what refined the pseudo-labels, as in the run's configuration.
    """
    stride = max(1, math.ceil(len(rows) * len(class_names) / max_lines))
    kept = list(rows)[::-1][::stride][::-1]
    return [
        [row["epoch"], name, *shares, regime, refine]
        for row in kept
        for name, shares in zip(class_names, _shares(row, len(class_names)), strict=True)
    ]


def _shares(row: Row, num_classes: int) -> Iterable[list[float | None]]:
    return [[row.get(f"pseudo/{table}/{k}") for table in TABLES] for k in range(num_classes)]


def fill(spec: Any, fields: Mapping[str, str], strings: Mapping[str, str]) -> Any:
    """A specification with its placeholders filled in, as W&B fills them before it draws."""
    if isinstance(spec, dict):
        return {key: fill(value, fields, strings) for key, value in spec.items()}
    if isinstance(spec, list):
        return [fill(value, fields, strings) for value in spec]
    if isinstance(spec, str):
        for kind, values in (("field", fields), ("string", strings)):
            for name, value in values.items():
                spec = spec.replace(f"${{{kind}:{name}}}", value)
    return spec
