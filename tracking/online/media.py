"""The pictures of a run (`tracking.media`) as W&B shows them: its own confusion matrices, a table, an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import wandb
from numpy.typing import NDArray
from wandb.plot.custom_chart import CustomChartSpec

from tracking.media import Examples, Media

VIEWS_KEY, EXAMPLES_KEY = "examples/views", "examples/pseudo_labels"
MOST_CELLS = 2_500  # of a confusion matrix; W&B's charts read 10,000 lines, but few people do
CONFUSION_COLUMNS = ("Actual", "Predicted", "nPredictions")
EXAMPLE_COLUMNS = (
    "why", "image", "true", "raw", "raw probability", "refined", "refined probability", "row",
)  # fmt: skip
CONFUSIONS = {
    "test": ("confusion/test", "Test set"),
    "orig": ("confusion/pseudo_orig", "Raw pseudo-labels against the truth"),
    "refined": ("confusion/pseudo_refined", "Refined pseudo-labels against the truth"),
}


def views(media: Media) -> dict[str, wandb.Image]:
    """The grid of views, by its key; nothing where there is none."""
    if media.grid is None:
        return {}
    caption = f"rows: {', '.join(media.grid_rows)}; one column an image"
    return {VIEWS_KEY: wandb.Image(media.grid, caption=caption)}


def tables(media: Media, class_names: Sequence[str]) -> dict[str, wandb.Table]:
    """The table behind each confusion matrix, and that of the examples, by their keys."""
    found = {}
    for name, (key, title) in CONFUSIONS.items():
        if name in media.confusions:
            cells = confusion_lines(media.confusions[name], class_names)
            table = wandb.Table(columns=list(CONFUSION_COLUMNS), data=cells)
            found[confusion_spec(key, title).table_key] = table
    if media.examples is not None:
        lines = example_lines(media.examples, class_names)
        found[EXAMPLES_KEY] = wandb.Table(columns=list(EXAMPLE_COLUMNS), data=lines)
    return found


def show_confusions(run: wandb.Run, there: Mapping[str, Any]) -> None:
    """Puts W&B's own chart of a confusion matrix on the run's page for each table of `there`; see `charts`."""
    for key, title in CONFUSIONS.values():
        spec = confusion_spec(key, title)
        if spec.table_key in there:
            run._config_callback(key=spec.config_key, val=spec.config_value)


def confusion_spec(key: str, title: str) -> CustomChartSpec:
    """As `wandb.plot.confusion_matrix` has it, which takes single predictions and not their counts."""
    return CustomChartSpec(
        spec_name="wandb/confusion_matrix/v1",
        fields={column: column for column in CONFUSION_COLUMNS},
        string_fields={"title": title},
        key=key,
        split_table=True,
    )


def confusion_lines(counts: NDArray[np.int64], class_names: Sequence[str]) -> list[list[Any]]:
    """A line for each cell, row by row; of a larger matrix the MOST_CELLS largest ones that are not empty."""
    num_classes = len(class_names)
    cells = np.arange(counts.size)
    if counts.size > MOST_CELLS:
        largest = np.argsort(-counts, axis=None, kind="stable")[:MOST_CELLS]
        cells = np.sort(largest[counts.flat[largest] > 0])
    return [[class_names[k // num_classes], class_names[k % num_classes], int(counts.flat[k])] for k in cells]


def example_lines(examples: Examples, class_names: Sequence[str]) -> list[list[Any]]:
    """A line for each example, in the order of EXAMPLE_COLUMNS."""
    lines = []
    for k, row in enumerate(examples.row.tolist()):
        true = class_names[examples.true[k]] if examples.true[k] >= 0 else None
        why = "most wrong" if examples.wrong[k] else "least sure"
        guesses = [
            part
            for probs in (examples.orig[k], examples.refined[k])
            for part in (class_names[probs.argmax()], float(probs.max()))
        ]
        lines.append([why, wandb.Image(examples.image[k]), true, *guesses, row])
    return lines
