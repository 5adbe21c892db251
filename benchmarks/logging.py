"""What logging costs, of an epoch of 500 steps: python -m benchmarks.logging [--mode online|offline] [--epochs 4].

Trains the digits preset of few labels with --darp, with W&B, and prints time/log (metrics.jsonl and W&B together) and
time/checkpoint as a share of the epoch. Offline unless told; online needs an account, or WANDB_BASE_URL and a key.
No step waits for a tracker: rows are logged between epochs, so time/log is all that there is.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.record import keep
from tracking.base import Row
from tracking.local import read_rows

ROOT = Path(__file__).parents[1]


def measure(mode: str, epochs: int, steps: int) -> list[Row]:
    """Rows of a real run of `epochs` + 1 epochs, as train_with_wandb.py leaves them."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [
            "--config=configs/digits_regime_few.yaml",
            "--darp",
            f"--epochs={epochs + 1}",
            f"--val-iteration={steps}",
            f"--out={folder}",
            "--run_name=r",
        ]
        subprocess.run(
            [sys.executable, "train_with_wandb.py", *flags],
            cwd=ROOT,
            env=os.environ | {"WANDB_MODE": mode},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        return read_rows(Path(folder) / "r")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.logging",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--mode", default="offline", choices=("online", "offline", "disabled"))
    parser.add_argument("--epochs", type=int, default=4, help="epochs that are measured (default: 4)")
    parser.add_argument("--steps", type=int, default=500, help="steps of an epoch (default: 500)")
    given = parser.parse_args()
    rows = measure(given.mode, given.epochs, given.steps)
    # a row tells what logging and checkpointing took after the epoch before it
    epochs_s = [row["time/epoch"] for row in rows[:-1]]
    log_s = [row["time/log"] for row in rows[1:]]
    checkpoint_s = [row["time/checkpoint"] for row in rows[1:]]
    epoch = statistics.mean(epochs_s)
    print(f"W&B {given.mode}, {given.epochs} epochs of {given.steps} steps on {os.cpu_count()} cores")
    print(f"epoch            {epoch:8.2f} s")
    for name, values in (("time/log", log_s), ("time/checkpoint", checkpoint_s)):
        mean, worst = statistics.mean(values), max(values)
        print(f"{name:16} {mean:8.4f} s = {mean / epoch:6.3%} of an epoch; worst {worst:.4f} s")
    figures = {"mode": given.mode, "epoch_s": epochs_s, "log_s": log_s, "checkpoint_s": checkpoint_s}
    print(f"kept in {keep('logging', [figures])}")
    return 0 if statistics.mean(log_s) < 0.01 * epoch else 1


if __name__ == "__main__":
    sys.exit(main())
