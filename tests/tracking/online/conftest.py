"""A run's folder whose tracker, in this process, talks to the stand-in server."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb

from tests.wandb_server import WandbServer
from tests.wandb_server.quick import QUICK_RETRIES


@pytest.fixture
def folder(server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run's folder to be; the SDK of this process talks to the server."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in (server.env(tmp_path, silent=True) | QUICK_RETRIES).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_DIR")
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    yield tmp_path / "runs" / "a run"
    wandb.teardown()
