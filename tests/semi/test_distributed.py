"""A training of several gloo processes from the command line: one folder, one voice, one row an epoch."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from semi.config import Config
from semi.distributed import Ranks, block, derived_seed
from semi.lock import claimed
from semi.run_folder import run_folder
from tests.semi.runs import TINY, rows, train

ROOT = Path(__file__).parents[2]


def config(out: Path, **changes: Any) -> Config:
    return Config(**(TINY | {"out": str(out), "run_name": "r", "epochs": 2, "refine": "darp"} | changes))


def flags(c: Config) -> list[str]:
    given = {name: value for name, value in vars(c).items() if value != getattr(Config(), name)}
    return [f"--{name}={value}" for name, value in given.items()]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return kept | {"OMP_NUM_THREADS": "1"}


def together(c: Config, size: int = 2) -> list[tuple[int, str]]:
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
        said = [process.communicate(timeout=120)[1] for process in started]
        return [(process.returncode, text) for process, text in zip(started, said, strict=True)]
    finally:
        for process in started:
            process.kill()


def torchrun(c: Config, size: int, *more: str) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    return [*launcher, *more, "train.py", *flags(c)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run of two processes, and what it said."""
    c = config(tmp_path_factory.mktemp("two"))
    done = subprocess.run(
        torchrun(c, 2), cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return run_folder(c), done.stderr


@pytest.mark.slow
def test_two_processes_write_one_folder_and_the_row_of_the_whole(run, tmp_path):
    folder, said = run
    assert [path.name for path in folder.parent.iterdir()] == ["r"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["processes"] == 2
    assert said.count("run folder: ") == 1
    assert said.count("epoch 1/1") == 1
    mine, alone = rows(folder), train(config(tmp_path))
    assert [row["epoch"] for row in mine] == [0, 1]
    images = sum(alone[0]["pseudo_target"])
    for row, expected in zip(mine, alone, strict=True):
        defined = {key for key in {*row, *expected} if "selected" in key or "precision" in key}  # or not
        assert row.keys() - defined == expected.keys() - defined
        for key in ("pseudo_orig", "pseudo_refined", "pseudo_true", "pseudo_target"):
            assert sum(row[key]) == pytest.approx(images)
        assert row["pseudo_true"] == expected["pseudo_true"]
        assert row["pseudo_target"] == expected["pseudo_target"]
    assert mine[1]["darp/residual"] <= 1e-6  # over the rows of both
    assert mine[1]["pseudo/coverage"] == pytest.approx(
        2 * 4 * 16 / images
    )  # each drew its own rows, none twice


@pytest.mark.slow
def test_a_batch_that_processes_cannot_share_is_refused_by_one_line_and_nothing_is_written(tmp_path):
    (code, said), *others = together(config(tmp_path / "out", batch_size=16), size=3)
    assert code == 2
    assert said == (
        "train.py: --batch_size 16: 3 processes cannot share it evenly; use a multiple of 3, such as 15 or 18\n"
    )
    assert others == [(2, ""), (2, "")]
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


def test_blocks_are_those_of_torch_chunk_and_hold_every_row_once():
    for count in range(1, 30):
        for size in range(1, 7):
            held = [range(count)[block(count, rank, size)] for rank in range(size)]
            assert [row for part in held for row in part] == list(range(count))
            chunks = [len(held[0])] * (count // max(1, len(held[0])))
            assert [len(part) for part in held if part][: len(chunks)] == chunks


def test_a_seed_is_the_first_process_s_own_and_every_other_has_another():
    import torch

    seeds = [Ranks(torch.device("cpu"), rank=rank, size=64).seed(7) for rank in range(64)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 64
    assert all(0 <= derived_seed(seed, 1) < 2**63 for seed in seeds)
