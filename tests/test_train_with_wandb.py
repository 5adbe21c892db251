"""train_with_wandb.py as a user starts it, against a stand-in backend that the real SDK talks to."""

import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from semi.commands import train as entry
from semi.config import Config, WandbOptions
from semi.job import build_job
from semi.run_folder import resume_point
from semi.snapshot import restore
from tests.commands import run_here, without_wandb
from tests.semi.runs import TINY, rows
from tests.wandb_server import API_KEY, WandbServer
from tests.wandb_server.quick import QUICK_RETRIES
from tracking.online.artifacts import fetch_checkpoint
from tracking.online.run_writer import encode

ROOT = Path(__file__).parents[1]
BOUND_S = 3
pytestmark = pytest.mark.slow


def words(out: Path, *flags: str) -> list[str]:
    given = TINY | {"out": out, "darp": True, "run_name": "r", "epochs": 2}
    return [*(f"--{k}={v}" for k, v in given.items()), *flags]


def command(out: Path, *flags: str) -> list[str]:
    return [sys.executable, str(ROOT / "train_with_wandb.py"), *words(out, *flags)]


def train(environment: dict[str, str], out: Path, *flags: str, code: int = 0) -> str:
    """What a training in this process says."""
    done = run_here("train_with_wandb.py", *words(out, *flags), folder=out.parent, environment=environment)
    assert done.returncode == code, done.stderr
    return done.stderr


def train_alone(environment: dict[str, str], out: Path, *flags: str) -> str:
    """What a training says that a process of its own does, as a user starts it."""
    done = subprocess.run(
        command(out, *flags),
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        cwd=out.parent,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def without_account(home: Path) -> dict[str, str]:
    alone = {"HOME": str(home), "NETRC": str(home / "none"), "WANDB_ERROR_REPORTING": "false"}
    return without_wandb() | alone


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> tuple[WandbServer, Path]:
    """What a server has of a run, and the folder that the run wrote to."""
    folder = tmp_path_factory.mktemp("online")
    with WandbServer() as server:
        train_alone(server.env(folder), folder / "out", "--wandb_per_class=all")
    assert (server.errors, server.unanswered) == ([], set())
    return server, folder


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """`--out` of a run without an account, and what it said."""
    folder = tmp_path_factory.mktemp("offline")
    return folder / "out", train_alone(without_account(folder), folder / "out")


def everything_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_every_row_arrives_whole_with_the_epoch_as_its_step(online: tuple[WandbServer, Path]) -> None:
    server, folder = online
    (run,) = server.runs.values()
    local = rows(folder / "out" / "r")
    assert [row["epoch"] for row in run.history] == [0, 1]
    for sent, kept in zip(run.history, local, strict=True):
        for key, value in kept.items():
            if isinstance(value, list):
                assert sent[key]["values"] == pytest.approx(value)
                assert sent[key]["bins"] == [k - 0.5 for k in range(11)]
            else:
                assert sent[key] == pytest.approx(value), key
        for key in ("data_time", "time/step", "time/log", "darp/seconds", "throughput/images_per_s"):
            assert key in sent
    assert (run.state, run.exit_code, run.display_name) == ("finished", 0, "r")
    assert (run.job_type, run.group) == ("train", "digits_r10_n3_il1_iu1")
    assert set(run.tags) == {"digits", "fix", "darp"}
    saved = yaml.safe_load((folder / "out" / "r" / "config.yaml").read_text())
    kinds, _ = saved.pop("field_kinds"), saved.pop("starts")
    assert run.config == {key: value for key, value in saved.items() if value is not None}
    assert set(kinds["shaping"]) <= set(saved)
    assert run.config["unlabeled_counts_asked"] == [33] * 10
    assert {artifact.type for artifact in server.artifacts} == {"run_table"}, "nothing large unless told"
    assert run.history[0]["examples/views"]["_type"] == "image-file"
    assert {"confusion/test", "confusion/pseudo_orig", "confusion/pseudo_refined"} == set(
        run.raw_config["_wandb"]["value"]["visualize"]
    )
    (examples,) = (a for a in server.artifacts if "examples/pseudo_labels.table.json" in a.files)
    assert 64 <= len(json.loads(examples.files["examples/pseudo_labels.table.json"])["data"]) <= 128


def test_a_refinement_has_one_spelling_from_the_flag_to_the_table(
    server: WandbServer, tmp_path: Path
) -> None:
    said = train(
        server.env(tmp_path),
        tmp_path / "out",
        "--darp=false",
        "--refine=sinkhorn",
        "--warm=500",
        "--run_name=",
    )
    (run,) = server.runs.values()
    assert set(run.tags) == {"digits", "fix", "sinkhorn"}
    assert run.config["refine"] == "sinkhorn"
    assert "_sinkhorn_" in run.display_name
    (artifact,) = (a for a in server.artifacts if "pseudo_labels.table.json" in a.files)
    table = json.loads(artifact.files["pseudo_labels.table.json"])
    assert {line[table["columns"].index("refine")] for line in table["data"]} == {"sinkhorn"}
    lines = said.splitlines()
    (last,) = [at for at, line in enumerate(lines) if "--refine sinkhorn has no effect" in line]
    assert lines[last + 1].startswith("epoch 0/1"), "the sentence is the last one before training"


def test_the_tracker_changes_nothing_of_the_training(offline: tuple[Path, str], tmp_path: Path) -> None:
    out, _ = offline
    assert run_here("train.py", *words(tmp_path)).returncode == 0
    assert rows(out / "r") == rows(tmp_path / "r")


def test_without_an_account_it_logs_offline_says_so_and_never_asks(offline: tuple[Path, str]) -> None:
    out, said = offline
    assert "W&B: offline (no account needed)" in said
    (folder,) = (out / "r" / "wandb").glob("offline-run-*")
    assert f"`wandb leet {folder}`" in said
    assert f"`python -m tracking.sync {out / 'r'}`" in said


def test_no_secret_is_written(online: tuple[WandbServer, Path]) -> None:
    _, folder = online
    assert API_KEY.encode() not in everything_below(folder)


def test_machine_information_stays_here_when_told(server: WandbServer, tmp_path: Path) -> None:
    train_alone(server.env(tmp_path), tmp_path / "out", "--wandb_machine_info=false")
    (run,) = server.runs.values()
    assert "host" not in run.facts
    assert str(ROOT) not in str(run.facts) + str(run.raw_config) + str(run.files)
    others = {name for name in run.files if not name.startswith("media/")}
    assert others <= {"wandb-summary.json", "config.yaml"}
    assert (run.console, run.event_lines) == ([], [])
    assert run.history


def test_a_server_that_is_down_costs_a_bounded_wait_and_no_row(tmp_path: Path) -> None:
    with WandbServer() as server:
        environment = server.env(tmp_path) | {"WANDB_INIT_TIMEOUT": "2"}
    begin = time.monotonic()
    said = train(environment, tmp_path / "out")
    assert time.monotonic() - begin < 60
    assert "logging offline instead" in said
    assert "python -m tracking.sync " in said
    assert [row["epoch"] for row in rows(tmp_path / "out" / "r")] == [0, 1]


def test_a_server_that_dies_during_the_run_costs_a_bounded_wait_and_no_row(tmp_path: Path) -> None:
    with WandbServer() as server:
        environment = server.env(tmp_path) | QUICK_RETRIES | {"WANDB_FINISH_TIMEOUT": str(BOUND_S)}
        process = subprocess.Popen(
            command(tmp_path / "out", "--epochs=30"), env=environment, stderr=subprocess.PIPE, text=True
        )
        assert server.wait_until(lambda: any(run.history for run in server.runs.values()), timeout_s=120)
        server.stop()
        begin = time.monotonic()
        _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert time.monotonic() - begin < 2 * BOUND_S + 45
    assert f"within {BOUND_S} s" in said
    assert f"python -m tracking.sync {tmp_path}" in said
    lines = (tmp_path / "out" / "r" / "metrics.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    assert [row["epoch"] for row in kept] == list(range(30))
    assert max(row["time/log"] for row in kept) < 0.5, "no step waits for a server that is gone"


def test_a_resumed_run_is_the_same_run_with_no_epoch_lost_or_doubled(
    server: WandbServer, tmp_path: Path
) -> None:
    environment = server.env(tmp_path)
    process = subprocess.Popen(
        command(tmp_path / "out", "--epochs=40"), env=environment, stderr=subprocess.DEVNULL
    )
    assert server.wait_until(lambda: any(run.history for run in server.runs.values()), timeout_s=120)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 128 + signal.SIGTERM
    train(environment, tmp_path / "out", "--epochs=40", "--resume=auto")
    (run,) = server.runs.values()
    assert [row["epoch"] for row in run.history] == list(range(40))
    assert (run.state, run.exit_code) == ("finished", 0)


def test_artifacts_are_the_best_and_last_checkpoint_and_the_pseudo_labels_and_training_goes_on_from_them(
    server: WandbServer, tmp_path: Path
) -> None:
    environment = server.env(tmp_path) | {"WANDB_ENTITY": "lab", "WANDB_PROJECT": "p"}
    # a learning rate and an average with which the scores go up and down: the best epoch is not the last
    train(environment, tmp_path / "out", "--wandb_artifacts", "--epochs=4", "--lr=0.05", "--ema_decay=0")
    local = rows(tmp_path / "out" / "r")
    checkpoints = [artifact for artifact in server.artifacts if artifact.type == "model"]
    by_alias = {alias: artifact for artifact in checkpoints for alias in artifact.aliases}
    assert {"best", "last"} <= set(by_alias)
    assert by_alias["last"].metadata["epoch"] == 3
    best = by_alias["best"].metadata
    assert best["test/bacc"] == max(row["test/bacc"] for row in local) == local[best["epoch"]]["test/bacc"]
    assert best["epoch"] < 3, "the best is the last here: no test of their difference"
    (tmp_path / "best.pt").write_bytes(by_alias["best"].files["checkpoint.pt"])
    assert torch.load(tmp_path / "best.pt", weights_only=True)["epoch"] == best["epoch"]
    assert set(by_alias["last"].files) == {"checkpoint.pt", "config.yaml", "metrics.jsonl"}
    (labels,) = (artifact for artifact in server.artifacts if artifact.type == "pseudo-labels")
    (tmp_path / "labels.npz").write_bytes(labels.files["pseudo_labels.npz"])
    with np.load(tmp_path / "labels.npz") as table:
        assert table["orig"].shape == table["refined"].shape == (330, 10)
        assert table["orig"].mean(axis=0) == pytest.approx(
            [local[-1][f"pseudo/orig/{k}"] for k in range(10)], abs=1e-6
        )
        assert len(set(table["index"].tolist())) == 330

    flags = ["--epochs=6", "--run_name=again", "--resume=wandb:lab/p/r-checkpoint:last"]
    flags += ["--lr=0.05", "--ema_decay=0"]
    train(environment, tmp_path / "elsewhere", *flags)
    (run,) = server.runs.values()
    assert [row["epoch"] for row in run.history] == list(range(6))
    assert [row["epoch"] for row in rows(tmp_path / "elsewhere" / "again")] == list(range(6))
    assert by_alias["last"].used_by == [run.id]
    assert "already holds a run" in train(environment, tmp_path / "elsewhere", *flags, code=2)
    missing = "--resume=wandb:lab/p/nothing:last"
    assert "use wandb:ENTITY/PROJECT/NAME:ALIAS" in train(environment, tmp_path / "new", missing, code=2)


def test_artifacts_of_two_processes_hold_the_rows_of_both_and_one_process_goes_on_from_them(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = server.env(tmp_path) | {"WANDB_ENTITY": "lab", "WANDB_PROJECT": "p"}
    train_alone(environment, tmp_path / "out", "--wandb_artifacts", "--nproc=2", "--epochs=1")
    (uploaded,) = (artifact for artifact in server.artifacts if artifact.type == "model")
    (folder,) = (tmp_path / "out" / "r").glob("rows-*")
    local = {f"{folder.name}/{file.name}": file.read_bytes() for file in folder.iterdir()}
    assert len(local) == 3  # one of each process, and what is where
    assert {name: content for name, content in uploaded.files.items() if "/" in name} == local

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    got = fetch_checkpoint("lab/p/r-checkpoint:last", tmp_path / "got" / "r")
    config = Config(
        **TINY | {"out": str(tmp_path / "got"), "run_name": "r", "refine": "darp"}, resume=str(got)
    )
    job, point = build_job(config, torch.device("cpu")), resume_point(config, got.parent)
    assert point is not None
    assert restore(job, point) == 1
    assert int(job.store.visited.sum()) == 64
    (labels,) = (artifact for artifact in server.artifacts if artifact.type == "pseudo-labels")
    with np.load(io.BytesIO(labels.files["pseudo_labels.npz"])) as table:
        assert np.array_equal(table["orig"], job.store.orig)
        assert np.array_equal(table["refined"], job.store.refined)
        assert np.array_equal(table["index"], job.split.index_u)


def test_an_alert_reaches_the_server_with_its_remedy_and_ends_a_hopeless_run_when_asked(
    server: WandbServer, tmp_path: Path
) -> None:
    flags = ["--lr=1000", "--epochs=5", "--darp=false", "--nan=continue"]
    said = train(server.env(tmp_path), tmp_path / "out", *flags, "--stop_on_collapse", code=3)
    assert "The loss is not finite" in said
    assert re.search(r"--stop_on_collapse ends the run after epoch \d \(exit code 3\)", said)
    (run,) = server.runs.values()
    (alert,) = run.alerts
    assert alert["title"] == "The loss is not finite"
    assert "--lr" in alert["text"]
    assert (run.state, run.exit_code) == ("failed", 3)
    assert "not finite" not in train(without_account(tmp_path), tmp_path / "quiet", *flags, "--alerts=false")


def test_a_histogram_keeps_the_classes_as_its_bins() -> None:
    histogram = encode([1.5, 2.5, 0.0])
    assert list(histogram.histogram) == [1.5, 2.5, 0.0]
    assert list(histogram.bins) == [-0.5, 0.5, 1.5, 2.5]


def test_a_wrong_mode_is_a_users_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train_with_wandb.py", "--wandb_mode=on"])
    assert entry("test", WandbOptions) == 2
    assert "--wandb_mode on: use one of auto, online, offline, disabled" in capsys.readouterr().err
