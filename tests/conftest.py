"""One thread a test process: tests run side by side, and threads that wait for each other cost more than they bring."""

import os
from collections.abc import Iterator

import pytest
import torch

from tests.wandb_server import WandbServer

if "OMP_NUM_THREADS" not in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)  # this process has read the variable already
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported: its kernels then run on the CPU
os.environ["WANDB_ERROR_REPORTING"] = "false"

LONGEST_FIRST = ("test_finding.py", "test_agents.py", "test_learning.py", "test_slurm.py", "test_tracker.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes start first, then those with other slow tests, so that the workers end together.

    Workers keep this order only under --no-loadscope-reorder (pyproject.toml); else files with many tests come first.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def place(item: pytest.Item) -> tuple[int, bool]:
        name = item.path.name
        return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(
            LONGEST_FIRST
        ), item.path not in slow

    items.sort(key=place)


@pytest.fixture
def server() -> Iterator[WandbServer]:
    """A stand-in W&B backend that was asked nothing it does not know, and made no mistake of its own."""
    with WandbServer() as running:
        yield running
        running.heal()
        assert running.errors == []
        assert running.unanswered == set()
