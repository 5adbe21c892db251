"""estimate.py as a user starts it, and the lineage from an estimate to the runs that aim at it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.semi.runs import TINY
from tests.wandb_server import WandbServer

ROOT = Path(__file__).parents[1]
DATA = {"dataset": "digits", "arch": "small", "num_max": 20, "ratio": 3.0, "imb_ratio_l": 4.0, "imb_ratio_u": 1.0,
        "gpu": "cpu", "th_cond": 1e9}  # fmt: skip
pytestmark = pytest.mark.slow


def call(environment: dict[str, str], folder: Path, script: str, flags: dict, code: int = 0):
    words = [f"--{k}={v}" for k, v in ({"estimation_dir": folder / "estimation"} | flags).items()]
    command = [sys.executable, str(ROOT / script), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, cwd=folder)
    assert done.returncode == code, done.stderr
    return done


def train(environment: dict[str, str], folder: Path) -> None:
    flags = (
        TINY
        | DATA
        | {"out": folder / "out", "darp": True, "est": True, "est_epochs": 2, "est_val_iteration": 20}
    )
    call(environment, folder, "train_with_wandb.py", flags)


def test_an_estimate_is_a_run_with_an_artifact_that_training_consumes(
    server: WandbServer, tmp_path: Path
) -> None:
    environment = server.env(tmp_path)
    done = call(environment, tmp_path, "estimate.py", DATA | {"epochs": 2, "val_iteration": 20})
    assert "95 % interval" in done.stdout
    (path,) = (tmp_path / "estimation").glob("*.json")
    (run,) = server.runs.values()
    assert (run.job_type, run.state, run.display_name) == ("estimate", "finished", path.stem)
    for k, share in enumerate(json.loads(path.read_text())["dist"]):
        assert run.summary[f"estimate/dist/{k}"] == pytest.approx(share)
    (artifact,) = server.artifacts
    assert (artifact.type, artifact.collection) == ("estimate", f"estimate-{path.stem}")
    assert artifact.files[path.name] == path.read_bytes()
    train(environment, tmp_path)
    (trained,) = [other for other in server.runs.values() if other.job_type == "train"]
    assert [a.type for a in server.artifacts].count("estimate") == 1
    assert any(trained.name in user for user in artifact.used_by)
    assert trained.config["estimate"].endswith(path.name)


def test_an_artifact_of_another_machine_is_consumed_by_name(server: WandbServer, tmp_path: Path) -> None:
    environment = server.env(tmp_path)
    call(environment, tmp_path, "estimate.py", DATA | {"epochs": 2, "val_iteration": 20})
    (artifact,) = server.artifacts
    (cached,) = (tmp_path / "estimation").glob("*.json")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    name = f"{artifact.entity}/{artifact.project}/{artifact.collection}:latest"
    flags = TINY | DATA | {"out": elsewhere / "out", "darp": True, "est": f"wandb:{name}"}
    call(environment, elsewhere, "train_with_wandb.py", flags)
    (trained,) = [run for run in server.runs.values() if run.job_type == "train"]
    assert any(trained.name in user for user in artifact.used_by)
    targets = [trained.history[-1][f"pseudo/target/{k}"] for k in range(10)]
    dist = json.loads(cached.read_text())["dist"]
    labeled, unlabeled = trained.config["labeled_counts"], trained.config["num_unlabeled"]
    expected = [(q * (unlabeled - sum(labeled)) + n) / unlabeled for q, n in zip(dist, labeled, strict=True)]
    assert targets == pytest.approx(expected)
    flags["est"] = f"wandb:{artifact.entity}/{artifact.project}/nothing:latest"
    done = call(environment, elsewhere, "train_with_wandb.py", flags | {"out": elsewhere / "other"}, code=2)
    assert "--est wandb:" in done.stderr.splitlines()[-1]


def test_a_published_estimate_is_the_target_of_a_run_and_goes_up_as_its_artifact(
    server: WandbServer, tmp_path: Path
) -> None:
    counts = np.arange(1, 11)
    np.save(tmp_path / "published.npy", counts)
    flags = (
        TINY | DATA | {"semi_method": "mix", "out": tmp_path / "out", "darp": True, "est": "published.npy"}
    )
    call(server.env(tmp_path), tmp_path, "train_with_wandb.py", flags)
    (run,) = server.runs.values()
    assert [run.history[-1][f"pseudo/target/{k}"] for k in range(10)] == pytest.approx(list(counts / 55))
    assert run.config["estimate"] == run.config["est_from"] == "published.npy"
    (artifact,) = [a for a in server.artifacts if a.type == "estimate"]
    assert artifact.files["published.npy"] == (tmp_path / "published.npy").read_bytes()
    assert not (tmp_path / "estimation").exists()


def test_a_run_that_had_to_estimate_first_logs_the_artifact_itself(
    server: WandbServer, tmp_path: Path
) -> None:
    train(server.env(tmp_path), tmp_path)
    (run,) = server.runs.values()
    (artifact,) = [a for a in server.artifacts if a.type == "estimate"]
    assert artifact.created_by.endswith(run.name)


def test_what_cannot_be_told_ends_with_exit_code_1_and_the_remedy(tmp_path: Path) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")} | {"WANDB_MODE": "disabled"}
    done = call(
        kept, tmp_path, "estimate.py", DATA | {"epochs": 1, "val_iteration": 1, "th_cond": 1.0}, code=1
    )
    assert "cannot be told" in done.stderr
    assert "label more images or train it longer" in done.stderr
    assert "Traceback" not in done.stderr
