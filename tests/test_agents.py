"""Sweeps as users run them: the real `wandb sweep` and `wandb agent`, our program, a stand-in server."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.semi.runs import TINY, rows
from tests.wandb_server import Sweep, WandbServer
from tests.wandb_server.quick import AGENT

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture
def start(server: WandbServer, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a command in the test's folder; what still runs at the end is killed with its children."""
    started: list[subprocess.Popen[bytes]] = []

    def starting(*command: str, **extra: str) -> subprocess.Popen[bytes]:
        environment = server.env(tmp_path) | {"OMP_NUM_THREADS": "1"} | extra
        environment.pop("WANDB_DIR")
        log = (tmp_path / f"log{len(started)}").open("wb")
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        started.append(process)
        return process

    yield starting
    for process in started:
        kill_session(process.pid)


def make_sweep(
    server: WandbServer, folder: Path, macro: str, search: dict | None = None, **parameters
) -> tuple[str, Sweep]:
    """`wandb sweep` on a grid (or `search`) over `parameters`; (its path for an agent, what the server knows of it)."""
    given = {"out": "out", "resume": "auto"} | TINY
    fixed = {name: {"value": value} for name, value in given.items() if name not in parameters}
    varied = {name: {"values": v} if isinstance(v, list) else {"value": v} for name, v in parameters.items()}
    content = {
        "program": str(ROOT / "train_with_wandb.py"),
        "method": "grid",
        "metric": {"name": "test/bacc", "goal": "maximize"},
        "parameters": fixed | varied,
        "command": ["${env}", "${interpreter}", "${program}", macro],
    } | (search or {})
    (folder / "s.yaml").write_text(yaml.safe_dump(content))
    said = subprocess.run(
        ["wandb", "sweep", "--entity=lab", "--project=p", "s.yaml"],
        cwd=folder, env=server.env(folder), check=True, capture_output=True, text=True,
    ).stderr  # fmt: skip
    found = re.search(r"wandb agent (\S+)", said)
    assert found, said
    (sweep,) = server.sweeps.values()
    return found.group(1), sweep


def epochs_of(server: WandbServer, trial: str) -> list[int]:
    return [row["epoch"] for row in server.runs[trial].history] if trial in server.runs else []


def kill_session(session: int) -> None:
    """SIGKILL for an agent, the trainings that it put in process groups of their own, and their W&B processes."""
    members = {int(p.name) for p in Path("/proc").glob("[0-9]*") if session_of(p) == session}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            words = (process / "cmdline").read_bytes().decode().split("\0")
            if words[0].endswith("wandb-core") and int(words[words.index("--pid") + 1]) in members:
                members.add(int(process.name))
    for number in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def session_of(process: Path) -> int | None:
    """The session of /proc/NUMBER; None if it has ended."""
    try:
        return int((process / "stat").read_text().rsplit(")", 1)[1].split()[3])
    except (FileNotFoundError, ProcessLookupError):
        return None


def devices_of_trainings(agent: subprocess.Popen[bytes]) -> set[str]:
    """CUDA_VISIBLE_DEVICES of the trainings that run in the session of this agent."""
    return {device for p in Path("/proc").glob("[0-9]*") if (device := device_of_training(p, agent.pid))}


def device_of_training(process: Path, session: int) -> str | None:
    """The same of one process; None if it is none of that session's trainings, or has ended."""
    if session_of(process) != session:
        return None
    try:
        if b"train_with_wandb.py" not in (process / "cmdline").read_bytes():
            return None
        variables = (process / "environ").read_bytes().decode().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return dict(v.split("=", 1) for v in variables if "=" in v).get("CUDA_VISIBLE_DEVICES")


def test_two_agents_share_a_sweep_with_booleans_in_both_spellings_and_none(
    server: WandbServer, tmp_path: Path, start
) -> None:
    path, sweep = make_sweep(
        server, tmp_path, "${args}", epochs=2, darp=[True, False], wandb_artifacts="False", lambda_u=None
    )
    agents = [start(*AGENT, path, CUDA_VISIBLE_DEVICES=str(k)) for k in range(2)]
    # an agent a GPU: its trainings see that one alone
    assert server.wait_until(lambda: devices_of_trainings(agents[0]) == {"0"}, 120)
    assert server.wait_until(lambda: devices_of_trainings(agents[1]) == {"1"}, 120)
    assert [agent.wait(180) for agent in agents] == [0, 0]
    assert sorted(trial.state for trial in sweep.trials.values()) == ["finished"] * 2
    runs = list(server.runs.values())
    assert sorted(run.config["darp"] for run in runs) == [False, True]
    assert all((run.sweep, run.exit_code, run.config["lambda_u"]) == (sweep.name, 0, None) for run in runs)
    configs = [yaml.safe_load(path.read_text()) for path in (tmp_path / "out").glob("*/config.yaml")]
    assert [config["lambda_u"] for config in configs] == [75.0, 75.0], "None leaves the method its own weight"
    folders = {folder.name.rsplit("_", 1)[1] for folder in (tmp_path / "out").iterdir()}
    assert folders == set(server.runs), "each trial trains in a folder of its own"


def test_a_preempted_trial_is_requeued_and_goes_on_in_its_own_run(
    server: WandbServer, tmp_path: Path, start
) -> None:
    path, sweep = make_sweep(server, tmp_path, "${args_no_boolean_flags}", epochs=60, darp=True)
    agent = start(*AGENT, "--forward-signals", path)
    assert server.wait_until(lambda: any(len(run.history) >= 2 for run in server.runs.values()), 120)
    (trial,) = sweep.trials.values()
    agent.send_signal(signal.SIGTERM)
    agent.wait(120)
    assert server.wait_until(lambda: trial.state == "queued", 60)
    run = server.runs[trial.run]
    assert (run.preempting, run.exit_code) == (True, 128 + signal.SIGTERM)
    (folder,) = (tmp_path / "out").iterdir()
    assert (folder / "checkpoint.pt").exists()
    before = (folder / "metrics.jsonl").read_text()
    assert len(before.splitlines()) < 60, "it was stopped on its way"
    assert start(*AGENT, path).wait(180) == 0
    assert (trial.state, trial.attempts) == ("finished", 2)
    assert [command["type"] for command in sweep.commands] == ["run", "resume", "exit"]
    assert "_wandb" in sweep.commands[1]["args"]
    assert list(server.runs) == [trial.run]
    assert epochs_of(server, trial.run) == list(range(60))
    assert [row["epoch"] for row in rows(folder)] == list(range(60))
    after = (folder / "metrics.jsonl").read_text()
    assert after.startswith(before), "it went on and did not start again: a new start would take other times"
    assert server.runs[trial.run].exit_code == 0


def test_a_dead_agent_is_replaced_and_its_trial_can_be_finished_by_hand(
    server: WandbServer, tmp_path: Path, start
) -> None:
    path, sweep = make_sweep(server, tmp_path, "${args_no_boolean_flags}", epochs=30, seed=[0, 1])
    agent = start(*AGENT, path)
    assert server.wait_until(
        lambda: any(len(rows(f.parent)) >= 2 for f in (tmp_path / "out").glob("*/metrics.jsonl")), 120
    )
    kill_session(agent.pid)  # the machine is gone: agent, training and W&B's own process
    agent.wait(30)
    (lost,) = sweep.trials
    (folder,) = (tmp_path / "out").glob(f"*_{lost}")
    before = len(rows(folder))
    assert before < 30, "it died on its way"
    server.lose_agents(sweep.name)
    assert start(*AGENT, path).wait(180) == 0
    (other,) = set(sweep.trials) - {lost}
    assert sweep.trials[other].state == "finished"
    assert epochs_of(server, other) == list(range(30))
    assert len(rows(folder)) == before
    flags = TINY | {"epochs": 30, "seed": sweep.trials[lost].args["seed"]}
    program = [sys.executable, str(ROOT / "train_with_wandb.py"), *(f"--{k}={v}" for k, v in flags.items())]
    assert (
        start(*program, f"--resume={folder}/checkpoint.pt", WANDB_PROJECT="p", WANDB_ENTITY="lab").wait(120)
        == 0
    )
    assert set(server.runs) == {lost, other}
    assert [row["epoch"] for row in rows(folder)] == list(range(30))
    assert epochs_of(server, lost) == list(range(30))
    assert server.runs[lost].state == "finished"


def test_a_trial_that_hyperband_ends_keeps_its_rows_and_the_agent_goes_on(
    server: WandbServer, tmp_path: Path, start
) -> None:
    """Which trial is behind is for the service to say; what the agent and the training do about it is tested here."""
    hyperband = {"early_terminate": {"type": "hyperband", "min_iter": 2}, "run_cap": 2, "method": "bayes"}
    path, sweep = make_sweep(
        server, tmp_path, "${args_no_boolean_flags}", hyperband, epochs=[60, 61], darp=True
    )
    agent = start(*AGENT, path)
    assert server.wait_until(lambda: any(len(run.history) >= 2 for run in server.runs.values()), 120)
    (behind,) = sweep.trials
    sweep.stop(behind)
    assert agent.wait(240) == 0
    assert [command["type"] for command in sweep.commands if command["type"] != "stop"] == [
        "run",
        "run",
        "exit",
    ]
    assert sweep.trials[behind].state == "failed"
    assert server.runs[behind].exit_code == 128 + signal.SIGTERM
    (folder,) = (tmp_path / "out").glob(f"*_{behind}")
    logged = [row["epoch"] for row in rows(folder)]
    assert 2 <= len(logged) < 60
    assert epochs_of(server, behind) == logged, "the server has every row that the folder has"
    assert (folder / "checkpoint.pt").exists()
    (other,) = set(sweep.trials) - {behind}
    assert (sweep.trials[other].state, server.runs[other].exit_code) == ("finished", 0)


def test_a_trial_of_two_processes_is_one_run_of_its_sweep(
    server: WandbServer, start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    path, sweep = make_sweep(server, tmp_path, "${args}", nproc=2, seed=[0], epochs=2)
    assert start(*AGENT, "--count=1", path).wait(timeout=240) == 0
    (trial,) = sweep.trials
    assert list(server.runs) == [trial]
    assert epochs_of(server, trial) == [0, 1]
    (folder,) = (tmp_path / "out").iterdir()
    assert yaml.safe_load((folder / "config.yaml").read_text())["processes"] == 2
    assert [row["epoch"] for row in rows(folder)] == [0, 1]
