"""Pictures at W&B: what arrives, how much, how often, and that one flag turns them off."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tracking.online.tracker_driver import config, row
from tests.tracking.test_pictures import Shown
from tests.wandb_server import Artifact, Run, WandbServer
from tracking.base import Fanout
from tracking.local import LocalTracker
from tracking.media import MEDIA_FILE
from tracking.online.media import EXAMPLES_KEY, VIEWS_KEY, confusion_lines
from tracking.online.sync import sync_run
from tracking.online.tracker import WandbTracker

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow
CLASSES = [f"class {k}" for k in range(100)]
TABLES = {f"Custom Chart Tables/confusion/{name}_table" for name in ("test", "pseudo_orig", "pseudo_refined")}


def train(
    folder: Path,
    epochs: int = 3,
    after: Callable[[int], None] = lambda epoch: None,
    source: Shown | None = None,
    **options,
) -> None:
    source = source or Shown()
    tracker = WandbTracker(folder, **options)
    tracker.take_media(source)
    both = Fanout([LocalTracker(folder), tracker])
    both.start(config(epochs) | {"class_names": CLASSES[: source.num_classes]}, {}, 0)
    for epoch in range(epochs):
        both.log(row(epoch))
        after(epoch)
    both.finish(0)


def artifact_of(server: WandbServer, run: Run, key: str) -> Artifact:
    """The newest version that a table of the run's summary stands in."""
    digest = run.summary[key]["sha256"]
    for artifact in reversed(server.artifacts):
        for name, content in artifact.files.items():
            if name.endswith(".table.json") and key in name and content:
                return artifact
    raise AssertionError(f"no artifact for {key} ({digest})")


def test_confusions_examples_and_views_arrive(server: WandbServer, folder: Path) -> None:
    train(folder)
    (run,) = server.runs.values()
    assert run.history[0][VIEWS_KEY]["_type"] == "image-file"
    assert "rows: image, weak, strong" in json.dumps(run.history[0][VIEWS_KEY])
    assert not any(VIEWS_KEY in sent for sent in run.history[1:]), "once, at the start"
    assert run.summary.keys() >= TABLES | {EXAMPLES_KEY, "pseudo_labels"}
    charts = run.raw_config["_wandb"]["value"]["visualize"]["confusion/test"]["panel_config"]
    assert charts["panelDefId"] == "wandb/confusion_matrix/v1", "W&B's own chart"
    artifact = artifact_of(server, run, EXAMPLES_KEY)
    table = json.loads(artifact.files[f"{EXAMPLES_KEY}.table.json"])
    assert [line[0] for line in table["data"]] == ["most wrong"] * 64 + ["least sure"] * 64
    _, image, true, raw, raw_p, refined, refined_p, number = table["data"][0]
    source = Shown()
    assert source.true is not None
    assert (true, raw, refined) == (
        CLASSES[source.true[number]],
        CLASSES[source.orig[number].argmax()],
        CLASSES[source.refined[number].argmax()],
    )
    assert raw_p == pytest.approx(float(source.orig[number].max()))
    assert refined_p == pytest.approx(float(source.refined[number].max()))
    assert artifact.files[image["path"]].startswith(b"\x89PNG")


@pytest.mark.parametrize(("num_classes", "most"), [(10, 500_000), (100, 1_000_000)])
def test_what_is_sent_each_time_is_small(
    server: WandbServer, folder: Path, num_classes: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = torch.randint(256, (500, 3, 32, 32), dtype=torch.uint8)  # the largest files that images can be
    monkeypatch.setattr(Shown, "images", lambda self, rows: noise[rows])
    train(folder, epochs=1, source=Shown(num_classes=num_classes))
    (run,) = server.runs.values()
    sent = sum(len(content) for artifact in server.artifacts for content in artifact.files.values())
    sent += sum(len(content) for name, content in run.files.items() if name.startswith("media/"))
    assert sent < most
    assert (folder / MEDIA_FILE).stat().st_size < most


def test_a_small_matrix_is_whole_and_of_a_large_one_the_largest_cells_stand_there() -> None:
    small = np.array([[3, 0], [1, 2]])
    assert confusion_lines(small, ["a", "b"]) == [["a", "a", 3], ["a", "b", 0], ["b", "a", 1], ["b", "b", 2]]
    large = np.random.default_rng(0).permutation(100 * 100).reshape(100, 100)
    lines = confusion_lines(large, CLASSES)
    assert len(lines) == 2_500
    assert min(count for _, _, count in lines) == 10_000 - 2_500
    assert all(large[CLASSES.index(true), CLASSES.index(guess)] == count for true, guess, count in lines)
    assert len(confusion_lines(np.eye(100, dtype=int), CLASSES)) == 100, "no empty cell"


def test_they_come_every_so_many_epochs_with_the_table(server: WandbServer, folder: Path) -> None:
    def arrived(epoch: int) -> None:
        if epoch == 1:  # of 2 each: the first are on their way
            assert server.wait_until(
                lambda: any(EXAMPLES_KEY in run.summary for run in server.runs.values()), timeout_s=30
            )

    train(folder, 4, arrived, table_every=2)
    (run,) = server.runs.values()
    assert EXAMPLES_KEY in run.summary
    assert VIEWS_KEY in run.history[0]


def test_one_flag_turns_them_off(server: WandbServer, folder: Path) -> None:
    train(folder, media=False)
    (run,) = server.runs.values()
    assert not TABLES & run.summary.keys()
    assert not {EXAMPLES_KEY, VIEWS_KEY} & {key for sent in (*run.history, run.summary) for key in sent}
    assert {name for name in run.files if name.startswith("media/images")} == set()
    assert "visualize" not in run.raw_config["_wandb"]["value"]
    assert not (folder / MEDIA_FILE).exists()


def test_those_of_an_offline_run_arrive_when_it_is_sent_and_are_missed_when_they_are_lost(
    server: WandbServer, folder: Path
) -> None:
    train(folder, mode="offline")
    assert server.runs == {}
    assert sync_run(folder).complete
    (run,) = server.runs.values()
    assert VIEWS_KEY in run.history[0]
    assert run.summary.keys() >= TABLES | {EXAMPLES_KEY}
    assert sync_run(folder).sentence.endswith("nothing to send")
    del run.summary[EXAMPLES_KEY]
    assert sync_run(folder).complete
    assert EXAMPLES_KEY in run.summary
    assert [sent["epoch"] for sent in run.history] == [0, 1, 2], "no row is sent again for it"


def test_neither_sending_them_nor_a_run_without_them_needs_torch() -> None:
    asked = "import sys, tracking.online.sync, tracking.online.tracker; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", asked], check=True, cwd=ROOT)


def test_pictures_that_cannot_be_made_are_said_once_and_end_nothing(
    server: WandbServer, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: Shown) -> None:
        raise RuntimeError("out of memory\nwith a trace")

    monkeypatch.setattr(Shown, "pseudo_labels", broken)
    train(folder, 4, table_every=1)
    assert capsys.readouterr().err.count("no pictures of this run from here on (out of memory)") == 1
    (run,) = server.runs.values()
    assert [sent["epoch"] for sent in run.history] == [0, 1, 2, 3]
    assert run.state == "finished"
