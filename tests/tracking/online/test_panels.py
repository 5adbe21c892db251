"""How many panels W&B opens for a run by itself: one for each key that it has and does not hide."""

import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.tracking.online.tracker_driver import config
from tests.tracking.test_pictures import Shown
from tests.wandb_server import Run, WandbServer
from tracking.base import Fanout, Row
from tracking.local import LocalTracker
from tracking.online.sync import sync_run
from tracking.online.tracker import WandbTracker
from tracking.row import ROW, is_known

pytestmark = pytest.mark.slow
MOST = 90
HIDDEN = 2  # of the options of a metric, as the SDK encodes them
WITHOUT_PREFIX = "Charts"  # the section of keys that have no `/`


def whole_row(epoch: int, num_classes: int) -> Row:
    """A row with every key that any method and refinement here logs; a plugin's own are what it makes them."""
    row: dict = {}
    for key in (key for key in ROW if "<name>" not in key):
        parts = [
            part[1:-1].split(",") if part.startswith("{") else [str(k) for k in range(num_classes)]
            if part == "<class>" else [part]
            for part in re.split(r"(\{[^}]*\}|<class>)", key)
        ]  # fmt: skip
        row |= dict.fromkeys(map("".join, itertools.product(*parts)), 0.1)
    assert all(map(is_known, row))
    histograms = {key: [1.0] * num_classes for key in row if key.startswith("pseudo_")}
    return row | histograms | {"epoch": epoch}


def panels(run: Run) -> Counter[str]:
    """Section of W&B's default view -> panels in it: grouped by the part before the first `/`. Tables that charts draw
    from and the charts count, each."""
    hidden = {metric.get("1") for metric in run.raw_config["_wandb"]["value"]["m"] if HIDDEN in metric["6"]}
    keys = {key for row in (*run.history, run.summary) for key in row if not key.startswith("_")}
    charts = run.raw_config["_wandb"]["value"].get("visualize", {})
    shown = [*(keys - hidden), *charts]
    return Counter(key.partition("/")[0] if "/" in key else WITHOUT_PREFIX for key in shown)


def train(folder: Path, num_classes: int, **options: Any) -> None:
    online = WandbTracker(folder, **options)
    online.take_media(Shown(num_classes=num_classes))
    tracker = Fanout([LocalTracker(folder), online])
    tracker.start(config(2) | {"class_names": [str(k) for k in range(num_classes)]}, {}, 0)
    for epoch in range(2):
        tracker.log(whole_row(epoch, num_classes))
    tracker.finish(0)


# For a run of every method and refinement. Of 10 classes: the shares in orig and refined, and the recalls.
ALIKE = {
    "Charts": 6, "loss": 3, "last10": 2, "last20": 2, "best": 1, "darp": 2, "throughput": 1, "refine": 1, "test_raw": 2,
    "confusion": 3, "Custom Chart Tables": 3, "examples": 2,
}  # fmt: skip
OPENED = {10: ALIKE | {"test": 6 + 10, "pseudo": 10 + 2 * 10}, 100: ALIKE | {"test": 6, "pseudo": 10}}


@pytest.mark.parametrize("num_classes", [10, 100])
def test_wandb_opens_few_panels_for_a_run_of_any_number_of_classes(
    server: WandbServer, folder: Path, num_classes: int
) -> None:
    train(folder, num_classes)
    (run,) = server.runs.values()
    assert panels(run) == OPENED[num_classes]
    assert panels(run).total() < 90
    for row in run.history:
        for name in ("orig", "refined", "target", "true"):
            assert len(row[f"pseudo_{name}"]["values"]) == num_classes, "histograms come for any number"
            assert (f"pseudo/{name}/0" in row) == (num_classes == 10), "also where no panel is opened for it"
    assert run.summary["pseudo_labels"]["nrows"] == 2 * num_classes


@pytest.mark.parametrize("num_classes", [10, 100])
def test_all_keys_come_when_they_are_asked_for(server: WandbServer, folder: Path, num_classes: int) -> None:
    train(folder, num_classes, per_class="all")
    (run,) = server.runs.values()
    for row in run.history:
        assert whole_row(0, num_classes).keys() <= row.keys()
    assert panels(run).total() == {10: 218, 100: 1478}[num_classes]


@pytest.mark.parametrize("per_class", ["few", "all"])
def test_a_run_that_is_sent_later_has_the_same_keys(
    server: WandbServer, folder: Path, per_class: str
) -> None:
    train(folder, 10, per_class=per_class)
    train(folder.with_name("later"), 10, per_class=per_class, mode="offline")
    assert sync_run(folder.with_name("later")).complete
    now, later = server.runs.values()
    assert [row.keys() for row in now.history] == [row.keys() for row in later.history]
    assert panels(now) == panels(later)
    assert now.summary.keys() - {"_runtime"} == later.summary.keys() - {"_runtime"}
