"""examples/slurm on a real SLURM of one node: a task that is preempted is requeued, and no epoch is lost or doubled."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.semi.runs import TINY, rows
from tests.wandb_server import WandbServer

ROOT = Path(__file__).parents[2]
TRIAL = ROOT / "tests" / "sweeps" / "trial.py"
CLUSTER = Path(__file__).with_name("cluster")
EPOCHS = 40  # of a training that is preempted on its way
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """The variables of a shell whose `sbatch` is that of a cluster of its own."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    started = subprocess.run([CLUSTER, "start", folder], capture_output=True, text=True)
    try:
        if started.returncode == 3:
            pytest.skip(started.stderr.strip())
        assert started.returncode == 0, started.stderr
        kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        python = {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        yield kept | python | {"SLURM_CONF": str(folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}
    finally:
        subprocess.run([CLUSTER, "stop", folder])
        shutil.rmtree(folder, ignore_errors=True)


class Shell:
    """SLURM's commands in a folder."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self._pending: dict[str, float] = {}

    def do(self, *words: Any) -> str:
        done = subprocess.run(
            [str(word) for word in words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, *words: Any) -> str:
        return self.do("sbatch", "--parsable", *words).strip()

    def jobs(self) -> dict[str, str]:
        """Job -> its state: PENDING, RUNNING, COMPLETING."""
        lines = self.do("squeue", "--noheader", "--array", "--format=%A %T").splitlines()
        return dict(line.split() for line in lines)

    def start_now(self) -> bool:
        """Start what was requeued, which SLURM would two minutes later; returns whether no job is left.

        A requeued job that starts within the same second is refused by the node, which has just revoked its credential.
        """
        jobs = self.jobs()
        for job, state in jobs.items():
            since = self._pending.setdefault(job, time.monotonic())
            if state != "PENDING":
                del self._pending[job]
            elif time.monotonic() - since > 3:
                words = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
                subprocess.run(
                    words, env=self.environment, capture_output=True
                )  # it may have started by itself
        return not jobs


def wait_until(condition: Callable[[], Any], seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.3)
    return bool(condition())


def notes(folder: Path, name: str) -> list[str]:
    path = folder / f"{name}.log"
    return path.read_text().splitlines() if path.exists() else []


def sweep_in(folder: Path, *cells: str) -> str:
    """A sweep of short trials; returns the URL of its study."""
    content = {
        "program": str(TRIAL),
        "method": "grid",
        "metric": {"name": "test/bacc", "goal": "maximize"},
        "parameters": {"cell": {"values": list(cells)}, "pace": {"value": 2}},
    }
    (folder / "s.yaml").write_text(yaml.safe_dump(content))
    return f"sqlite:///{folder}/study.sqlite3"


def assert_trained_once(folder: Path, cell: str) -> None:
    assert [row["epoch"] for row in rows(folder / "result" / cell)] == [0, 1, 2, 3]
    assert len((folder / "result" / cell / "metrics.jsonl").read_text().splitlines()) == 4


def test_preempted_tasks_are_requeued_and_lose_no_epoch(slurm: dict[str, str], tmp_path: Path) -> None:
    shell = Shell(tmp_path, slurm)
    storage = sweep_in(tmp_path, "a", "b")
    sweep = ROOT / "examples" / "slurm" / "sweep.sbatch"
    shell.submit("--array=0-1", "--cpus-per-task=1", sweep, "s.yaml", storage)
    assert wait_until(lambda: all((tmp_path / "result" / c / "metrics.jsonl").exists() for c in "ab"))
    shell.submit("--partition=urgent", "--cpus-per-task=2", "--output=/dev/null", "--wrap=true")
    assert wait_until(lambda: [notes(tmp_path, c)[-1] for c in "ab"] == ["stopped by SIGTERM"] * 2)
    assert all(len(rows(tmp_path / "result" / c)) < 4 for c in "ab"), "they were on their way"
    assert wait_until(shell.start_now)
    for cell in "ab":
        assert_trained_once(tmp_path, cell)
        assert notes(tmp_path, cell)[-1] == "ended"
    gpus = {note.split()[2] for c in "ab" for note in notes(tmp_path, c) if note.startswith("started")}
    assert gpus == {"0", "1"}, "one GPU a task"


def test_a_task_whose_time_is_nearly_up_goes_back_in_the_queue_by_itself(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    shell = Shell(tmp_path, slurm)
    storage = sweep_in(tmp_path, "a")
    sweep = ROOT / "examples" / "slurm" / "sweep.sbatch"
    job = shell.submit("--array=0", "--cpus-per-task=1", sweep, "s.yaml", storage)
    assert wait_until((tmp_path / "result" / "a" / "metrics.jsonl").exists)
    shell.do("scancel", "--batch", "--signal=USR1", f"{job}_0")  # what --signal=B:USR1@120 sends
    assert wait_until(lambda: notes(tmp_path, "a")[-1] == "stopped by SIGTERM")
    assert wait_until(lambda: list(shell.jobs().values()) == ["PENDING"])
    assert wait_until(shell.start_now)
    assert_trained_once(tmp_path, "a")


def test_an_agent_whose_task_is_preempted_leaves_its_trial_to_the_next(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    content = {
        "program": str(ROOT / "train_with_wandb.py"),
        "method": "grid",
        "metric": {"name": "test/bacc", "goal": "maximize"},
        "parameters": {
            k: {"value": v} for k, v in (TINY | {"epochs": EPOCHS, "resume": "auto", "out": "out"}).items()
        },
        "command": ["${env}", "${interpreter}", "${program}", "${args_no_boolean_flags}"],
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content))
    with WandbServer() as server:
        shell = Shell(
            tmp_path, slurm | server.env(tmp_path) | {"PATH": slurm["PATH"], "PYTHONPATH": str(ROOT)}
        )
        said = subprocess.run(
            ["wandb", "sweep", "--entity=lab", "--project=p", "s.yaml"],
            cwd=tmp_path, env=shell.environment, check=True, capture_output=True, text=True,
        ).stderr  # fmt: skip
        found = re.search(r"wandb agent (\S+)", said)
        assert found, said
        agent = ROOT / "examples" / "slurm" / "agent.sbatch"
        shell.submit("--array=0", "--cpus-per-task=1", agent, found.group(1))
        assert server.wait_until(lambda: any(len(run.history) >= 2 for run in server.runs.values()), 120)
        (sweep,) = server.sweeps.values()
        (trial,) = sweep.trials.values()
        shell.submit("--partition=urgent", "--cpus-per-task=2", "--output=/dev/null", "--wrap=true")
        assert server.wait_until(lambda: trial.state == "queued", 60)
        (folder,) = (path.parent for path in (tmp_path / "out").glob("*/metrics.jsonl"))
        assert len(rows(folder)) < EPOCHS, "it was on its way"
        assert wait_until(shell.start_now)
        assert (trial.state, trial.attempts) == ("finished", 2)
        assert [row["epoch"] for row in server.runs[trial.run].history] == list(range(EPOCHS))
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == EPOCHS
