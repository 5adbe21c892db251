"""The examples of loops of one's own, run as a user would."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(command, folder, **env):
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def accuracies(printed):
    return [float(found) for found in re.findall(r"guesses right ([\d.]+)", printed)]


@pytest.mark.slow
def test_refining_in_a_loop_of_ones_own_helps_and_the_rows_are_kept(tmp_path):
    loop = [sys.executable, str(ROOT / "examples/own_loop.py"), "--epochs", "15"]
    refined = run([*loop, "--out", "rows"], tmp_path)
    plain = run([*loop, "--no-refine"], tmp_path)
    assert accuracies(refined)[-1] > accuracies(plain)[-1] + 0.02  # 0.931 and 0.847
    rows = [json.loads(line) for line in (tmp_path / "rows/metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(15))
    assert rows[-1]["pseudo/refined/tv_true"] < 0.01 < rows[-1]["pseudo/orig/tv_true"]


@pytest.mark.slow
def test_trackio_takes_the_place_of_wandb(tmp_path):
    loop = [sys.executable, str(ROOT / "examples/own_loop.py"), "--epochs", "2", "--tracker", "trackio"]
    run(loop, tmp_path, TRACKIO_DIR=str(tmp_path / "trackio"))
    with sqlite3.connect(tmp_path / "trackio/own-loop.db") as logged:
        rows = [json.loads(metrics) for (metrics,) in logged.execute("select metrics from metrics")]
    assert [row["epoch"] for row in rows] == [0, 1]
    assert rows[0]["pseudo_orig"]["bins"] == [k - 0.5 for k in range(11)]
    assert sum(rows[1]["pseudo_orig"]["values"]) == pytest.approx(sum(rows[1]["pseudo_true"]["values"]))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_an_accelerate_loop_is_watched_over_all_its_processes(tmp_path, processes):
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
    ]
    printed = run([*launcher, str(ROOT / "examples/accelerate_loop.py")], tmp_path)
    assert printed.count("seen 100%") == 3  # printed once, of the rows of both processes
    first, *_, last = accuracies(printed)
    assert first < last
