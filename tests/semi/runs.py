"""Small real runs for tests: digits, the small network, a few steps."""

import json
import re
from pathlib import Path
from typing import Any

import torch

from semi.config import Config
from semi.job import build_job
from semi.loop import run
from semi.run_folder import resume_point, run_folder
from tracking.base import Fanout
from tracking.local import LocalTracker

TINY: dict[str, Any] = {
    "dataset": "digits",
    "arch": "small",
    "semi_method": "fix",
    "num_max": 3,
    "ratio": 10.0,
    "imb_ratio_l": 1.0,
    "imb_ratio_u": 1.0,
    "epochs": 3,
    "val_iteration": 4,
    "batch_size": 16,
    "num_iter": 2,
    "warm": 0,
    "ema_decay": 0.9,
    "gpu": "cpu",
}
TIMES = re.compile(r"time/|data_time|throughput|darp/seconds")


class Interruption(Exception):
    pass


class Interrupting:
    """A tracker that ends the run, as a crash would, when it is told of epoch `after`."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.exit_code: int | None = None

    def start(self, config, state, first_epoch):
        pass

    def log(self, row):
        if row["epoch"] == self.after:
            raise Interruption

    def state_dict(self):
        return {}

    def finish(self, exit_code):
        self.exit_code = exit_code


def train(config: Config, *more) -> list[dict[str, Any]]:
    """Run `config`; returns the rows of its metrics.jsonl without the times."""
    folder = run_folder(config)
    resume_from = resume_point(config, folder)
    run(build_job(config, torch.device("cpu")), folder, resume_from, Fanout([LocalTracker(folder), *more]))
    return rows(folder)


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not TIMES.match(k)} for line in lines]
