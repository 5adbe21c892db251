"""Going on with a run: from the newest checkpoint that is whole, and never at the price of rows that are there."""

import dataclasses
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from semi import checkpoint
from semi.checkpoint import CheckpointError
from semi.config import Config, ConfigError
from semi.job import build_job
from semi.names import METHODS
from semi.run_folder import ResumePoint, resume_point, run_folder
from semi.snapshot import restore, snapshot
from tests.semi.runs import TINY, Interrupting, Interruption, rows, train


def config(out: Path, **changes: Any) -> Config:
    return Config(**(TINY | {"out": str(out), "val_iteration": 2} | changes))


def flip(path: Path) -> None:
    """Flip one bit in the largest tensor of a checkpoint, without touching other names of the file."""
    with zipfile.ZipFile(path) as records:
        largest = max(records.infolist(), key=lambda record: record.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + largest.file_size // 2 + 128] ^= 1
    path.unlink()
    path.write_bytes(content)


def finished(out: Path, **changes: Any) -> tuple[Config, Path, list[dict[str, Any]]]:
    """A run of three epochs that is to go on to five: (configuration, folder, rows)."""
    c = config(out, **({"run_name": "r"} | changes))
    before = train(c)
    return dataclasses.replace(c, epochs=5, resume="auto"), run_folder(c), before


def test_resume_auto_without_a_checkpoint_refuses_and_keeps_the_rows(tmp_path):
    c, folder, before = finished(tmp_path)
    for name in ("checkpoint.pt", "checkpoint.prev.pt", "best.pt"):
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: it is missing.*--overwrite") as error:
        train(c)
    assert "\n" not in str(error.value)
    assert rows(folder) == before


def test_a_kill_before_the_first_checkpoint_is_no_reason_to_refuse(tmp_path):
    c = config(tmp_path / "cut", resume="auto")
    with pytest.raises(Interruption):
        train(c, Interrupting(after=0))
    assert len(rows(run_folder(c))) == 1
    assert not (run_folder(c) / "checkpoint.pt").exists()
    assert train(c) == train(config(tmp_path / "whole"))


def test_resuming_the_best_checkpoint_does_not_cut_the_later_rows(tmp_path):
    c, folder, before = finished(tmp_path, lr=0.05, ema_decay=0.0)
    early = checkpoint.load(folder / "checkpoint.prev.pt")
    checkpoint.save(folder / "best.pt", early)
    with pytest.raises(ConfigError, match=r"it is of epoch 1, and the run is at epoch 2.*--resume auto"):
        train(dataclasses.replace(c, resume=str(folder / "best.pt")))
    assert rows(folder) == before


def test_the_best_checkpoint_in_a_folder_of_its_own_can_be_resumed(tmp_path):
    c, folder, _ = finished(tmp_path)
    (tmp_path / "other").mkdir()
    shutil.copy(folder / "checkpoint.prev.pt", tmp_path / "other" / "best.pt")
    after = train(dataclasses.replace(c, resume=str(tmp_path / "other" / "best.pt")))
    assert [row["epoch"] for row in after] == [2, 3, 4]


def test_a_damaged_checkpoint_is_said_and_the_one_before_goes_on_to_the_same_rows(tmp_path):
    whole = train(config(tmp_path / "whole", epochs=5))
    c, folder, before = finished(tmp_path)
    flip(folder / "checkpoint.pt")
    point = resume_point(c, folder)
    assert point is not None
    assert "checkpoint.pt: not a readable checkpoint (damaged" in point.note
    assert point.note.endswith("going back to checkpoint.prev.pt (epoch 1)")
    assert "\n" not in point.note
    assert train(c) == whole
    assert (folder / "checkpoint.pt.old-1").exists(), "it does not take the place of a whole previous one"
    assert checkpoint.load(folder / "checkpoint.prev.pt")["epoch"] == 3
    assert whole[:3] == before


def test_where_two_checkpoints_are_damaged_the_best_one_goes_on_and_the_rows_after_it_are_kept(
    tmp_path, capsys
):
    c, folder, before = finished(tmp_path)
    (folder / "best.pt").unlink()
    first = dataclasses.replace(c, epochs=1, resume="", run_name="first")
    train(first)
    state = checkpoint.load(run_folder(first) / "checkpoint.pt")
    checkpoint.save(folder / "best.pt", state | {"config": dataclasses.asdict(c)})
    for name in ("checkpoint.pt", "checkpoint.prev.pt"):
        flip(folder / name)
    after = train(c)
    assert [row["epoch"] for row in after] == list(range(5))
    assert after[:3] == before
    kept = [line for line in (folder / "metrics.jsonl.old-1").read_text().splitlines() if line]
    assert len(kept) == 3
    assert (
        "epochs 1 to 2 are trained again; the old rows are kept in metrics.jsonl.old-1"
        in capsys.readouterr().err
    )


def test_where_every_checkpoint_is_damaged_the_run_is_refused_and_left_as_it_is(tmp_path):
    c, folder, before = finished(tmp_path)
    for name in ("checkpoint.pt", "checkpoint.prev.pt", "best.pt"):
        flip(folder / name)
    names = sorted(path.name for path in folder.iterdir())
    with pytest.raises(CheckpointError, match=r"no other checkpoint is there to go on from.*--overwrite"):
        train(c)
    assert rows(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == names


def test_a_damaged_checkpoint_that_is_named_points_to_the_whole_ones(tmp_path):
    c, folder, _ = finished(tmp_path)
    flip(folder / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=r"damaged.*, or .*checkpoint\.prev\.pt"):
        train(dataclasses.replace(c, resume=str(folder / "checkpoint.pt")))
    after = train(dataclasses.replace(c, resume=str(folder / "checkpoint.prev.pt")))
    assert [row["epoch"] for row in after] == list(range(5))


def test_random_flips_in_a_runs_checkpoint_never_change_the_run(tmp_path):
    whole = train(config(tmp_path / "whole", epochs=5))
    c, folder, _ = finished(tmp_path)
    path = folder / "checkpoint.pt"
    content, generator = path.read_bytes(), random.Random(0)
    flips = [(generator.randrange(len(content)), generator.randrange(8)) for _ in range(60)]
    notes = []
    for place, bit in flips:
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        path.unlink()
        path.write_bytes(flipped)
        point = resume_point(c, folder)
        assert point is not None
        notes.append(point.note)
    assert sum("going back to" in note for note in notes) > 50
    assert train(c) == whole, "after the last of them"


@pytest.mark.parametrize(
    "key", ["model", "ema", "optimizer", "store", "loader", "random", "recent", "config", "epoch"]
)
def test_a_checkpoint_without_one_of_its_parts_is_named_in_one_line(tmp_path, key):
    c, folder, _ = finished(tmp_path)
    state = checkpoint.load(folder / "checkpoint.pt")
    checkpoint.save(folder / "checkpoint.pt", {name: value for name, value in state.items() if name != key})
    with pytest.raises(CheckpointError, match=rf"checkpoint\.pt: '{key}' is missing in it; use") as error:
        train(c)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_other_images_or_classes_is_named_in_one_line(tmp_path):
    c, folder, _ = finished(tmp_path)
    state = checkpoint.load(folder / "checkpoint.pt")
    for shape in ((1, 10), (330, 7), (331, 10)):
        other = state["store"] | {"orig": torch.full(shape, 1 / shape[1])}
        checkpoint.save(folder / "checkpoint.pt", state | {"store": other})
        with pytest.raises(
            CheckpointError, match=rf"pseudo-labels are {shape[0]} rows of {shape[1]} classes"
        ) as error:
            train(c)
        assert "\n" not in str(error.value)


def test_a_checkpoint_that_was_made_on_a_gpu_is_named_in_one_line(tmp_path):
    c, folder, before = finished(tmp_path)
    state = checkpoint.load(folder / "checkpoint.pt")
    state["loader"]["generator"] = torch.zeros(16, dtype=torch.uint8)  # a CUDA generator's state has 16 bytes
    checkpoint.save(folder / "checkpoint.pt", state)
    with pytest.raises(
        CheckpointError, match="resume on the kind of device that the run was started on"
    ) as error:
        train(c)
    assert "\n" not in str(error.value)
    assert rows(folder) == before


def test_an_estimate_that_changed_since_the_checkpoint_is_refused(tmp_path):
    c = config(tmp_path, est=True, est_from="dist.npy", refine="darp")
    cpu, dist, other = torch.device("cpu"), [0.1] * 10, [0.11, 0.09] * 5
    point = ResumePoint(tmp_path / "checkpoint.pt", snapshot(build_job(c, cpu, dist), epoch=0))
    assert restore(build_job(c, cpu, dist), point) == 1
    with pytest.raises(ConfigError, match="the estimate has changed; put the old one back") as error:
        restore(build_job(c, cpu, other), point)
    assert "\n" not in str(error.value)


def test_best_pt_is_made_when_a_kill_came_between_the_checkpoint_and_it(tmp_path):
    c, folder, _ = finished(tmp_path)
    state = checkpoint.load(folder / "checkpoint.pt")
    checkpoint.save(folder / "checkpoint.pt", state | {"best_bacc": state["recent"][-1][0]})
    (folder / "best.pt").unlink()
    with pytest.raises(Interruption):
        train(c, Interrupting(after=3))
    assert checkpoint.load(folder / "best.pt")["epoch"] == 2


@pytest.mark.parametrize("method", ["fix", "sup"])
def test_more_epochs_go_on_in_the_same_folder_and_end_as_one_long_run(tmp_path, method):
    whole = train(config(tmp_path / "whole", epochs=5, semi_method=method, refine="darp"))
    short = config(tmp_path / "grown", semi_method=method, refine="darp")
    train(short)
    grown = dataclasses.replace(short, epochs=5, resume="auto")
    assert run_folder(grown) == run_folder(short)
    assert train(grown) == whole


@pytest.mark.parametrize(
    ("method", "told"), [("mix", True), ("remix", True), ("pseudo", True), ("fix", False)]
)
def test_more_epochs_of_a_method_whose_weights_follow_them_are_said_to_be_another_run(
    tmp_path, capsys, method, told
):
    short = config(tmp_path, semi_method=method, epochs=1)
    train(short)
    capsys.readouterr()
    train(dataclasses.replace(short, epochs=2, resume="auto"))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("--epochs 2: ")]
    assert len(said) == told
    assert not told or "weighted for 1, those from now on are for 2" in said[0]


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_losses_depend_on_the_training_progress_where_it_says_so(method):
    job = build_job(Config(**(TINY | {"semi_method": method})), torch.device("cpu"))
    batch = job.loader.next()
    targets = torch.full((16, 10), 0.0)
    targets[:, 0] = 1.0
    totals = []
    for progress in (0.1, 0.9):
        torch.manual_seed(0)
        job.model.train()
        totals.append(
            float(
                job.method.losses(job.model, batch, targets, torch.tensor(progress).double()).total.detach()
            )
        )
    assert (totals[0] != totals[1]) == job.method.weights_follow_epochs


def test_the_best_score_of_the_epochs_before_a_resume_still_counts(tmp_path):
    changes: dict[str, Any] = {"epochs": 6, "lr": 0.05, "ema_decay": 0.0}
    whole = train(config(tmp_path / "whole", **changes))
    scores = [row["test/bacc"] for row in whole]
    fallen = next(epoch for epoch in range(1, 6) if scores[epoch] < max(scores[:epoch]))
    cut = config(tmp_path / "cut", resume="auto", **changes)
    with pytest.raises(Interruption):
        train(cut, Interrupting(after=fallen))
    assert train(cut)[fallen]["best/bacc"] == max(scores[:fallen])
    best = checkpoint.load(run_folder(cut) / "best.pt")["epoch"]
    assert scores[best] == max(scores)
