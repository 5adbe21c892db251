"""Where an epoch's time goes: in the rows, and in what --profile writes."""

import gzip
import json
import time

import pytest
import torch

from semi.config import Config
from semi.job import build_job
from semi.loop import run
from semi.saving import Checkpoints
from tests.semi.runs import TINY
from tracking.base import Fanout
from tracking.local import LocalTracker

PARTS = ("data", "step", "refine", "eval", "log", "checkpoint")
PAUSE_S = 0.3  # long beside what another process on this machine may take from the one that is measured


class Slow:
    """A tracker that takes its time, and notes when it was handed each row."""

    def __init__(self):
        self.rows, self.at = [], []

    def start(self, config, state, first_epoch):
        time.sleep(PAUSE_S)  # before the first step: part of no epoch

    def log(self, row):
        self.at.append(time.perf_counter())
        self.rows.append(row)
        time.sleep(PAUSE_S)

    def state_dict(self):
        return {}

    def finish(self, exit_code):
        pass


def trained(tmp_path, *trackers, **changes):
    config = Config(**(TINY | {"out": str(tmp_path), "run_name": "r", "val_iteration": 10} | changes))
    trackers = (*trackers, LocalTracker(tmp_path / "r"))  # whose disk may be slow after a row's time is noted
    run(build_job(config, torch.device("cpu")), tmp_path / "r", None, Fanout(trackers))
    return tmp_path / "r"


@pytest.mark.parametrize("within", [300.0, 0.0])  # seconds to a save within an epoch
def test_the_times_of_a_row_sum_to_the_wall_time_since_the_row_before(tmp_path, monkeypatch, within):
    save = Checkpoints.save

    def slow_save(*args):
        time.sleep(PAUSE_S)
        save(*args)

    monkeypatch.setattr(Checkpoints, "save", slow_save)
    monkeypatch.setattr("semi.pace.LARGEST_SHARE", 1.0)
    slow = Slow()
    trained(tmp_path, slow, refine="darp", checkpoint_every_s=within, val_iteration=4)
    for row in slow.rows:
        assert sum(row[f"time/{part}"] for part in PARTS) == pytest.approx(row["time/epoch"], rel=0.02)
    for row, began, ended in zip(slow.rows[1:], slow.at, slow.at[1:], strict=False):
        assert row["time/epoch"] == pytest.approx(ended - began, rel=0.02)
        assert row["time/log"] >= PAUSE_S
        assert row["time/checkpoint"] >= PAUSE_S
    first = slow.rows[0]
    assert first["time/log"] == 0
    assert (first["time/checkpoint"] == 0) is (within == 300.0)


def test_a_profile_is_a_page_of_every_part_and_a_trace_of_the_operations(tmp_path):
    folder = trained(tmp_path, profile=True, epochs=2)
    page = (folder / "profile.md").read_text()
    for part in (*PARTS, "- guess", "- forward", "- backward", "- optimizer", "- ema", "not charged"):
        assert f"\n| {part} | " in page
    assert page.startswith("# Where epoch 1 of r went\n")
    assert "| `aten::" in page
    assert len(page.splitlines()) < 50
    events = json.loads(gzip.decompress((folder / "trace.json.gz").read_bytes()))["traceEvents"]
    steps = [event for event in events if "Optimizer.step" in event.get("name", "")]
    assert len(steps) == 3
    assert {path.name for path in folder.iterdir()} >= {"metrics.jsonl", "checkpoint.pt"}
    assert not [path for path in folder.iterdir() if ".tmp" in path.name]


def test_the_pieces_of_the_step_sum_to_it(tmp_path):
    page = (trained(tmp_path, profile=True, epochs=1) / "profile.md").read_text()
    seconds = {
        cells[1].strip(): float(cells[2])
        for line in page.splitlines()
        if len(cells := line.split("|")) == 7 and cells[2].strip()[0].isdigit()
    }
    pieces = sum(value for part, value in seconds.items() if part.startswith("- "))
    assert pieces == pytest.approx(seconds["step"], abs=0.005)


def test_without_the_flag_nothing_is_profiled_and_the_run_is_the_same(tmp_path):
    plain, profiled = trained(tmp_path / "a"), trained(tmp_path / "b", profile=True)
    assert not (plain / "profile.md").exists()
    assert not (plain / "trace.json.gz").exists()
    losses = [
        [json.loads(line)["loss/total"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (plain, profiled)
    ]
    assert losses[0] == losses[1]
