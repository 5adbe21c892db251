"""A training of several gloo processes from the command line: one folder, one voice, one row an epoch."""

import io
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from data import load_dataset
from models import BACKBONES, build_model
from semi import checkpoint, commands, launch, stopping
from semi.cli import parse
from semi.config import Config, ConfigError, DataConfig, EstimateConfig
from semi.distributed import Ranks, block, derived_seed
from semi.estimation import estimate_path, load_or_estimate
from semi.estimation_training import predict, share
from semi.job import build_job
from semi.lock import claimed
from semi.run_folder import resume_point, run_folder
from semi.snapshot import restore
from tests.semi.runs import TINY, rows, train
from tracking.shards import PlainUnpickler

ROOT = Path(__file__).parents[2]


def config(out: Path, **changes: Any) -> Config:
    """Ten epochs of 24 rows each, of the 330 that there are: no row comes twice."""
    given = {"epochs": 10, "val_iteration": 2, "batch_size": 12, "refine": "darp"}
    return Config(**(TINY | {"out": str(out), "run_name": "r"} | given | changes))


def flags(c: Config) -> list[str]:
    given = {name: value for name, value in vars(c).items() if value != getattr(Config(), name)}
    return [f"--{name}={value}" for name, value in given.items()]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return kept | {"OMP_NUM_THREADS": "1"}


def together(
    c: Config, size: int = 2, meanwhile: Callable[[list[subprocess.Popen[str]]], None] = lambda _: None
) -> list[tuple[int, str]]:
    """Exit code and standard error of each process of a run, started as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = environment() | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    started = [
        subprocess.Popen(
            [sys.executable, "train.py", *flags(c)],
            cwd=ROOT,
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        meanwhile(started)
        said = [process.communicate(timeout=120)[1] for process in started]
        return [(process.returncode, text) for process, text in zip(started, said, strict=True)]
    finally:
        for process in started:
            process.kill()


def torchrun(size: int, *words: str) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    return [*launcher, *words]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run of two processes, and what it said."""
    c = config(tmp_path_factory.mktemp("two"))
    done = subprocess.run(
        torchrun(2, "train.py", *flags(c)),
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return run_folder(c), done.stderr


@pytest.mark.slow
def test_two_processes_write_one_folder_and_the_row_of_the_whole(run, tmp_path):
    folder, said = run
    assert [path.name for path in folder.parent.iterdir()] == ["r"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["processes"] == 2
    assert said.count("run folder: ") == 1
    assert said.count("epoch 9/9") == 1
    mine, alone = rows(folder), train(config(tmp_path))
    assert [row["epoch"] for row in mine] == list(range(10))
    images = sum(alone[0]["pseudo_target"])
    for row, expected in zip(mine, alone, strict=True):
        defined = {key for key in {*row, *expected} if "selected" in key or "precision" in key}  # or not
        assert row.keys() - defined == expected.keys() - defined
        for key in ("pseudo_orig", "pseudo_refined", "pseudo_true", "pseudo_target"):
            assert sum(row[key]) == pytest.approx(images)
        assert row["pseudo_true"] == expected["pseudo_true"]
        assert row["pseudo_target"] == expected["pseudo_target"]
    assert mine[1]["darp/residual"] <= 1e-6  # over the rows of both
    assert mine[9]["pseudo/coverage"] == pytest.approx(240 / images)  # each drew its own rows, none twice


@pytest.mark.slow
def test_a_batch_that_processes_cannot_share_is_refused_by_one_line_and_nothing_is_written(tmp_path):
    (code, said), other = together(config(tmp_path / "out", batch_size=13))
    assert code == 2
    assert said == (
        "train.py: --batch_size 13: 2 processes cannot share it evenly; use a multiple of 2, such as 12 or 14\n"
    )
    assert other == (2, "")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_folder_that_another_process_writes_to_is_refused_by_one_line(tmp_path):
    c = config(tmp_path)
    with claimed(run_folder(c)):
        (code, said), other = together(c)
    assert code == 2
    assert said.splitlines()[-1].startswith(f"train.py: {tmp_path / 'r'}: process {os.getpid()} on ")
    assert "Traceback" not in said
    assert other == (2, "")


def when_rows_are_there(folder: Path, number: int) -> None:
    deadline = time.monotonic() + 60
    while not (folder / "metrics.jsonl").exists() or len(rows(folder)) < number:
        assert time.monotonic() < deadline, "no row came"
        time.sleep(0.02)


@pytest.mark.slow
def test_after_a_kill_torchrun_goes_on_from_the_last_checkpoint_as_if_nothing_had_been(run, tmp_path):
    c = config(tmp_path, resume="auto")
    launcher = subprocess.Popen(
        torchrun(2, "--max-restarts=1", "train.py", *flags(c)),
        cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        when_rows_are_there(tmp_path / "r", 2)
        second = next(pid for pid in children_of(launcher) if "RANK=1" in environment_of(pid))
        os.kill(int(second), signal.SIGKILL)
        done = len(rows(tmp_path / "r"))
        said = launcher.communicate(timeout=120)[1]
    finally:
        launcher.kill()
    assert 2 <= done < 10, "it was killed too late to tell"
    assert launcher.returncode == 0, said
    assert "going on from" in said
    assert f"process 1 of 2 (process id {second} on {socket.gethostname()}) has ended" in said
    assert rows(tmp_path / "r") == rows(run[0])


def children_of(process: subprocess.Popen[str]) -> list[str]:
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


def environment_of(pid: str) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


@pytest.mark.slow
def test_a_process_that_hangs_is_named_and_ended_in_time(tmp_path):
    stopped: list[tuple[int, float]] = []

    def stop(started: list[subprocess.Popen[str]]) -> None:
        when_rows_are_there(tmp_path / "r", 1)
        os.kill(started[1].pid, signal.SIGSTOP)
        stopped.append((started[1].pid, time.monotonic()))
        started[1].wait(timeout=60)
        stopped.append((started[1].pid, time.monotonic()))

    (code, said), (other, _) = together(config(tmp_path, epochs=5000, dist_timeout_s=4), meanwhile=stop)
    (pid, begin), (_, end) = stopped
    assert (
        f"process 1 of 2 (process id {pid} on {socket.gethostname()}) hangs: it has not answered for 4 s"
        in said
    )
    assert "Traceback" not in said
    assert code == 1
    assert other == -signal.SIGKILL
    assert end - begin < 4 + 2  # and what a busy machine adds


def table(folder: Path) -> tuple[Tensor, Tensor]:
    """Raw pseudo-labels and which rows were guessed, as a run of one process goes on with them."""
    c = config(folder.parent, run_name=folder.name, resume="auto", epochs=99)
    job, point = build_job(c, torch.device("cpu")), resume_point(c, folder)
    assert point is not None
    restore(job, point)
    return job.store.orig, job.store.visited


@pytest.mark.slow
def test_three_processes_and_one_go_on_from_two_and_no_row_is_lost_or_doubled(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "r")
    before, seen_before = table(tmp_path / "r")
    assert int(seen_before.sum()) == 240
    ended = together(config(tmp_path, epochs=11, resume="auto"), size=3)
    assert [code for code, _ in ended] == [0, 0, 0], ended
    assert "processes 2 -> 3" in ended[0][1]
    after, seen_after = table(tmp_path / "r")
    assert int(seen_after.sum()) == 264  # what was left of the pass was drawn, nothing twice
    assert bool((seen_after | ~seen_before).all())
    changed = (after != before).any(dim=1)
    assert torch.equal(changed, seen_after & ~seen_before)
    found = train(config(tmp_path, epochs=12, resume="auto"))
    assert [row["epoch"] for row in found] == list(range(12))
    assert found[11]["pseudo/coverage"] == pytest.approx(288 / len(before))
    kept = [
        checkpoint.load(tmp_path / "r" / name) for name in ("checkpoint.pt", "checkpoint.prev.pt", "best.pt")
    ]
    named = {state["sharded"]["folder"] for state in kept if "sharded" in state}
    assert {path.name for path in (tmp_path / "r").glob("rows-*")} == named


@pytest.mark.slow
def test_rows_that_are_damaged_or_gone_are_noticed_and_the_checkpoint_before_is_taken(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "r")
    c = config(tmp_path, resume="auto")
    state = checkpoint.load(tmp_path / "r" / "checkpoint.pt")
    file = tmp_path / "r" / state["sharded"]["folder"] / "__1_0.distcp"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    point = resume_point(c, tmp_path / "r")
    assert point is not None
    assert point.path.name == "checkpoint.prev.pt"
    assert point.note.startswith(
        f"{tmp_path / 'r' / 'checkpoint.pt'}: {file} is damaged: its checksum does not fit"
    )
    file.unlink()
    point = resume_point(c, tmp_path / "r")
    assert point is not None
    assert f"{file} is missing" in point.note


@pytest.mark.slow
def test_nproc_runs_as_a_trial_of_a_sweep(tmp_path):
    """The runner reads an exit code and sends signals as wandb agent does; the grandchildren are the run."""
    sweep = tmp_path / "sweep.yaml"
    given = {
        word.removeprefix("--").split("=")[0]: word.split("=")[1]
        for word in flags(config(tmp_path, epochs=1))
    }
    parameters = {name: {"value": yaml.safe_load(value)} for name, value in given.items()}
    parameters["nproc"] = {"value": 2}
    sweep.write_text(yaml.safe_dump({"program": "train.py", "method": "grid", "parameters": parameters}))
    done = subprocess.run(
        [sys.executable, "-m", "sweeps", "run", str(sweep)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["processes"] == 2
    assert len(rows(tmp_path / "r")) == 1


PATIENCE_S = 120
PRESET = "configs/digits_regime_many.yaml"


@pytest.fixture(scope="module")
def estimating_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of a run of two processes that had to estimate first, and what it said."""
    folder = tmp_path_factory.mktemp("est")
    words = [f"--config={PRESET}", "--gpu=cpu", f"--out={folder}", "--run_name=r", "--epochs=1", "--darp"]
    words += ["--val-iteration=2", "--est", f"--estimation_dir={folder}", "--est_epochs=10"]
    words += ["--est_val_iteration=4", "--th_cond=1e9", "--nproc=2"]
    done = subprocess.run(
        [sys.executable, "train.py", *words],
        cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_two_processes_make_the_estimate_that_they_aim_at(estimating_run):
    folder, said = estimating_run
    assert said.count("run folder: ") == 1
    (path,) = folder.glob("digits_*")
    record = json.loads(path.read_text())
    images, labeled = record["unlabeled_images"], np.array(record["labeled_counts"])
    (row,) = rows(folder / "r")
    assert row["pseudo_target"] == pytest.approx(np.array(record["dist"]) * images + labeled)
    assert record["tv_true"] < 0.1


@pytest.mark.slow
def test_after_a_kill_an_estimation_goes_on_and_gives_the_estimate_of_one_that_nobody_killed(
    estimating_run, tmp_path
):
    preset = yaml.safe_load((ROOT / PRESET).read_text())
    words = [f"--{name}={value}" for name, value in preset.items() if name in DataConfig.__dataclass_fields__]
    words += [
        "--gpu=cpu",
        f"--estimation_dir={tmp_path}",
        "--epochs=10",
        "--val_iteration=4",
        "--th_cond=1e9",
    ]
    wanted = estimate_path(parse(words, "", EstimateConfig)[0])
    launcher = subprocess.Popen(
        torchrun(2, "--max-restarts=1", "estimate.py", *words, "--wandb_mode=disabled"),
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        until(wanted.with_name(f"{wanted.name}.lock").exists)
        first, second = sorted(children_of(launcher), key=lambda pid: "RANK=1" in environment_of(pid))
        os.kill(int(first), signal.SIGUSR1)
        until(wanted.with_suffix(".partial.pt").exists)
        os.kill(int(second), signal.SIGKILL)
        assert not wanted.exists(), "it was killed too late to tell"
        shown, said = launcher.communicate(timeout=PATIENCE_S)
    finally:
        launcher.kill()
    assert launcher.returncode == 0, said
    assert f"estimating: going on from {wanted.with_suffix('.partial.pt')}" in said
    assert f"process 1 of 2 (process id {second} on {socket.gethostname()}) has ended" in said
    assert shown.count("95 % interval") == said.count("cached in") == 1
    assert not wanted.with_suffix(".partial.pt").exists()
    (whole,) = estimating_run[0].glob("digits_*")
    found, expected = json.loads(wanted.read_text()), json.loads(whole.read_text())
    assert found.pop("config") != expected.pop("config")  # they name their folders
    assert found == expected


def test_an_estimation_is_started_as_often_as_nproc_says(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(sys, "argv", ["estimate.py", "--nproc=3"])
    monkeypatch.setattr(stopping, "install", lambda: None)
    monkeypatch.setattr(launch, "launched", lambda nproc: 40 + nproc)
    assert commands.estimate("") == 43


def test_more_processes_than_images_in_a_batch_of_the_estimation_are_refused(tmp_path):
    data: dict[str, Any] = {"dataset": "digits", "num_max": 20, "imb_ratio_l": 1.0, "imb_ratio_u": 1.0}
    wanted = EstimateConfig(**data, batch_size=2, estimation_dir=str(tmp_path / "e"))
    third = Ranks(torch.device("cpu"), rank=2, size=3)
    with pytest.raises(
        ConfigError, match="--batch_size 2 of the estimation: 3 processes would not have an image each"
    ):
        load_or_estimate(wanted, third)
    assert not (tmp_path / "e").exists()


def test_processes_share_a_batch_whole_and_a_process_without_a_row_predicts_none():
    for images in range(1, 20):
        for size in range(1, images + 1):
            shares = [share(images, Ranks(torch.device("cpu"), rank=rank, size=size)) for rank in range(size)]
            assert [i for part in shares for i in range(images)[part]] == list(range(images))
            lengths = {len(range(images)[part]) for part in shares}
            assert min(lengths) > 0
            assert max(lengths) - min(lengths) <= 1
    digits = load_dataset("digits", "")
    for arch in BACKBONES:
        none = predict(build_model(arch, 10), digits.train_images[:0], digits, torch.device("cpu"))
        assert none.shape == (0, 10)


def test_what_one_process_does_is_refused_for_several(tmp_path):
    second = Ranks(torch.device("cpu"), rank=1, size=2)
    with pytest.raises(ConfigError, match="--solver reference: it works in one process alone"):
        build_job(config(tmp_path, solver="reference"), second.device, ranks=second)


def test_the_list_of_files_of_a_checkpoint_runs_nothing():
    class Attack:
        def __reduce__(self):
            return os.system, ("true",)

    with pytest.raises(pickle.UnpicklingError, match="has no place in it"):
        PlainUnpickler(io.BytesIO(pickle.dumps(Attack()))).load()


def test_blocks_are_those_of_torch_chunk_and_hold_every_row_once():
    for count in range(1, 30):
        for size in range(1, 7):
            held = [range(count)[block(count, rank, size)] for rank in range(size)]
            assert [row for part in held for row in part] == list(range(count))
            chunks = [len(held[0])] * (count // max(1, len(held[0])))
            assert [len(part) for part in held if part][: len(chunks)] == chunks


def test_a_seed_is_the_first_process_s_own_and_every_other_has_another():
    seeds = [Ranks(torch.device("cpu"), rank=rank, size=64).seed(7) for rank in range(64)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 64
    assert all(0 <= derived_seed(seed, 1) < 2**63 for seed in seeds)
