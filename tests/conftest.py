"""One thread a test process: tests run side by side, and threads that wait for each other cost more than they bring."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_ERROR_REPORTING"] = "false"

LONGEST_FIRST = ("test_finding.py", "test_learning.py", "test_agents.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes start first, so that the workers end together."""
    items.sort(key=lambda item: item.path.name not in LONGEST_FIRST)
