"""One thread a test process: tests run side by side, and threads that wait for each other cost more than they bring."""

import os
from collections.abc import Iterator

import pytest
import torch

from tests.wandb_server import WandbServer

os.environ.setdefault("OMP_NUM_THREADS", "1")
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported: its kernels then run on the CPU
os.environ["WANDB_ERROR_REPORTING"] = "false"

LONGEST_FIRST = ("test_finding.py", "test_learning.py", "test_agents.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes start first, so that the workers end together."""
    items.sort(key=lambda item: item.path.name not in LONGEST_FIRST)


@pytest.fixture
def server() -> Iterator[WandbServer]:
    """A stand-in W&B backend that was asked nothing it does not know, and made no mistake of its own."""
    with WandbServer() as running:
        yield running
        running.heal()
        assert running.errors == []
        assert running.unanswered == set()
