"""What the workspace and the report show: sections of panels, as plain data. Keys are those of the row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tracking.online.long_table import CHARTS, Chart
from tracking.online.media import CONFUSIONS, EXAMPLES_KEY, VIEWS_KEY, confusion_spec


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


@dataclass(frozen=True)
class Histogram:
    """W&B's own panel of a histogram key: bins (here: classes) over the epochs as a heat map.

    With several runs it draws the first that is shown. A report has a panel for each run set.
    """

    title: str
    key: str
    width: int = 12


@dataclass(frozen=True)
class Confusion:
    """W&B's own chart of a confusion matrix, drawn from the table `table_key` of each run."""

    title: str
    table_key: str
    width: int = 8


@dataclass(frozen=True)
class Pictures:
    """Images of each run side by side."""

    title: str
    key: str
    width: int = 24


@dataclass(frozen=True)
class Table:
    """A table of each run's summary."""

    key: str
    width: int = 24


@dataclass(frozen=True)
class Parallel:
    """Parallel coordinates: one line a run through the fields of its configuration to keys of its summary."""

    title: str
    config: tuple[str, ...]
    summary: tuple[str, ...]
    width: int = 24


@dataclass(frozen=True)
class Importance:
    """How far each field of the configuration predicts a key."""

    key: str
    width: int = 12


@dataclass(frozen=True)
class Differences:
    """Runs side by side, what differs between them alone."""

    width: int = 12


Panel = Lines | Custom | Histogram | Confusion | Pictures | Table | Parallel | Importance | Differences


@dataclass(frozen=True)
class Section:
    name: str
    panels: tuple[Panel, ...]


def both(key: str) -> tuple[str, str]:
    return f"pseudo/orig/{key}", f"pseudo/refined/{key}"


HISTOGRAMS, SHARES, HISTORY, REGIMES = CHARTS
RAW_AND_REFINED = (
    Histogram("Raw: pseudo_orig", "pseudo_orig"),
    Histogram("Refined: pseudo_refined", "pseudo_refined"),
)
SWEEP = (
    Parallel(
        "Parameters and what came of them",
        ("regime", "dataset", "ratio", "num_max", "semi_method", "refine", "alpha", "warm", "seed"),
        ("pseudo/orig/tv_true", "test/bacc"),
    ),
    Importance("test/bacc"),
    Importance("pseudo/orig/tv_true"),
)
SECTIONS = (
    Section(
        "Regimes",
        (
            Custom(HISTOGRAMS),
            *RAW_AND_REFINED,
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
            Lines("What the refinery says of itself", pattern=r"refine/\w+"),
            Lines("What the method says of itself", pattern=r"method/\w+"),
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
            Lines("Accuracy and balanced accuracy", ("test/acc", "test/bacc", "test_raw/bacc")),
            Lines("Geometric mean of the recalls", ("test/gm", "last20/gm")),
            Lines("Recall of each class", pattern=r"test/recall/\d+"),
            Lines("Recall of many-, medium- and few-shot classes", ("test/many", "test/medium", "test/few")),
            Lines("Losses", ("loss/total", "loss/x", "loss/u")),
        ),
    ),
    Section(
        "Pictures",
        (
            *(Confusion(title, confusion_spec(key, title).table_key) for key, title in CONFUSIONS.values()),
            Table(EXAMPLES_KEY),
            Pictures("Images and their views", VIEWS_KEY),
        ),
    ),
    Section("Sweeps and differences", (*SWEEP, Differences(24))),
)
BOTH_RATIOS = tuple(panel for panel in SECTIONS[0].panels if not isinstance(panel, Histogram))
ONE_RATIO = (*RAW_AND_REFINED, *SECTIONS[1].panels[:4])


def keys(sections: Iterable[Section] = SECTIONS) -> set[str]:
    """Every key of a row that some panel names; a pattern stands for its class 0, or for a name."""
    found: set[str] = set()
    for panel in (panel for section in sections for panel in section.panels):
        if isinstance(panel, Lines):
            found |= {*panel.keys, panel.pattern.replace(r"\d+", "0").replace(r"\w+", "name")} - {""}
        elif isinstance(panel, (Histogram, Importance)):
            found.add(panel.key)
        elif isinstance(panel, Parallel):
            found |= set(panel.summary)
    return found


def placed(panels: Iterable[Panel]) -> list[tuple[Panel, int, int, int, int]]:
    """(panel, x, y, width, height): from left to right in rows of 24 columns, as W&B's grid has them."""
    found, x, y, row_height = [], 0, 0, 0
    for panel in panels:
        height = 8 if isinstance(panel, Lines) else 14
        if x + panel.width > 24:
            x, y, row_height = 0, y + row_height, 0
        found.append((panel, x, y, panel.width, height))
        x, row_height = x + panel.width, max(row_height, height)
    return found
