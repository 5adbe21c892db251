"""What the workspace and the report show: sections of panels, as plain data. Keys are those of the row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tracking.online.long_table import CHARTS, Chart


@dataclass(frozen=True)
class Lines:
    """Lines over the epochs: the keys given, or all that match `pattern`."""

    title: str
    keys: tuple[str, ...] = ()
    pattern: str = ""
    log: bool = False
    width: int = 8


@dataclass(frozen=True)
class Custom:
    """A custom chart, drawn from the runs' long tables."""

    chart: Chart
    width: int = 24


Panel = Lines | Custom


@dataclass(frozen=True)
class Section:
    name: str
    panels: tuple[Panel, ...]


def both(key: str) -> tuple[str, str]:
    return f"pseudo/orig/{key}", f"pseudo/refined/{key}"


SHARES, HISTORY, REGIMES = CHARTS
SECTIONS = (
    Section(
        "Regimes",
        (
            Custom(REGIMES),
            Lines("Distance of the class shares to the truth (TV)", both("tv_true")),
            Lines("Largest share over smallest", both("imbalance"), log=True),
            Lines("Balanced accuracy", ("test/bacc", "last20/bacc")),
        ),
    ),
    Section(
        "Pseudo-labels",
        (
            Custom(SHARES, 12),
            Custom(HISTORY, 12),
            Lines("Raw share of each class", pattern=r"pseudo/orig/\d+"),
            Lines("Refined share of each class", pattern=r"pseudo/refined/\d+"),
            Lines("Accuracy of the pseudo-labels", both("accuracy")),
            Lines("Share over the threshold, and guessed so far", ("pseudo/mask_rate", "pseudo/coverage")),
            Lines("Distance to the target (TV)", both("tv_target")),
        ),
    ),
    Section(
        "Refinement health",
        (
            Lines("Residual: worst distance to the target counts", ("darp/residual",), log=True),
            Lines("Solves that did not converge", ("darp/unconverged",)),
        ),
    ),
    Section(
        "Times",
        (
            Lines("Mean wait for a batch, s", ("data_time",)),
            Lines("Images a second", ("throughput/images_per_s",)),
        ),
    ),
    Section(
        "Accuracy",
        (
            Lines("Accuracy and balanced accuracy", ("test/acc", "test/bacc")),
            Lines("Geometric mean of the recalls", ("test/gm", "last20/gm")),
            Lines("Recall of each class", pattern=r"test/recall/\d+"),
            Lines("Recall of many-, medium- and few-shot classes", ("test/many", "test/medium", "test/few")),
            Lines("Losses", ("loss/total", "loss/x", "loss/u")),
        ),
    ),
)
REPORT_PANELS = (SECTIONS[0].panels, SECTIONS[1].panels[:4])


def keys(sections: Iterable[Section] = SECTIONS) -> set[str]:
    """Every key that some panel names; a pattern stands for its class 0."""
    lines = [panel for section in sections for panel in section.panels if isinstance(panel, Lines)]
    return {key for panel in lines for key in (*panel.keys, panel.pattern.replace(r"\d+", "0")) if key}


def placed(panels: Iterable[Panel]) -> list[tuple[Panel, int, int, int, int]]:
    """(panel, x, y, width, height): from left to right in rows of 24 columns, as W&B's grid has them."""
    found, x, y, row_height = [], 0, 0, 0
    for panel in panels:
        height = 14 if isinstance(panel, Custom) else 8
        if x + panel.width > 24:
            x, y, row_height = 0, y + row_height, 0
        found.append((panel, x, y, panel.width, height))
        x, row_height = x + panel.width, max(row_height, height)
    return found
