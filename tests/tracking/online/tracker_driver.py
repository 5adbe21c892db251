"""A run without training, for tests of the W&B tracker: `python -m tests.tracking.online.tracker_driver FOLDER JSON`.

Options: id, epochs, first, until, exit_code, epoch_s, pause_at (wait before this epoch, or before the "end", until
FOLDER/go exists), and `tracker` for WandbTracker.
Prints how long the tracker took, in seconds, as JSON.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.wandb_server import WandbServer
from tests.wandb_server.quick import QUICK_RETRIES
from tracking.base import Fanout
from tracking.local import LocalTracker
from tracking.lock import locked_if_free, run_lock
from tracking.online.tracker import WandbTracker

ROOT = Path(__file__).parents[3]
CLASSES = 3


def start(
    server: WandbServer, folder: Path, extra: dict[str, str] | None = None, **options
) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    environment = server.env(folder.parent) | QUICK_RETRIES | {"PYTHONPATH": str(ROOT)} | (extra or {})
    del environment["WANDB_DIR"]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.tracking.online.tracker_driver", str(folder), json.dumps(options)],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[dict[str, float], str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1]), err


def epochs(path: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (path / "metrics.jsonl").read_text().splitlines()]


def row(epoch: int) -> dict:
    shares = {
        f"pseudo/{table}/{k}": (k + 1) / 6 for table in ("orig", "refined", "target") for k in range(CLASSES)
    }
    return {"epoch": epoch, "test/bacc": 0.5 + epoch / 100, "pseudo_orig": [1.0, 2.0, 3.0]} | shares


def config(epochs: int) -> dict:
    return {
        "run_name": "a run", "dataset": "digits", "semi_method": "fix", "refine": "darp", "epochs": epochs,
        "ratio": 2.0, "num_max": 3, "imb_ratio_l": 1.0, "imb_ratio_u": 1.0, "imb_ratio_u_reversed": False,
        "class_names": ["a", "b", "c"], "labeled_counts": [3, 3, 3], "labeled_counts_asked": [3, 3, 3],
        "unlabeled_counts": [6, 6, 6], "unlabeled_counts_asked": [6, 6, 6],
    }  # fmt: skip


def drive(folder: Path, **options) -> dict[str, float]:
    """Train nothing, log everything; how long the tracker took, in seconds."""
    epochs, first = options.get("epochs", 6), options.get("first", 0)
    tracker = Fanout([LocalTracker(folder), WandbTracker(folder, **options.get("tracker", {}))])
    begin = time.monotonic()
    tracker.start(config(epochs), {"wandb_run_id": options.get("id", "r1")}, first)
    started = time.monotonic()
    slowest = 0.0
    for epoch in range(first, options.get("until", epochs)):
        if epoch == options.get("pause_at"):
            wait(folder)
        before = time.monotonic()
        tracker.log(row(epoch))
        slowest = max(slowest, time.monotonic() - before)
        time.sleep(options.get("epoch_s", 0.0))
    if options.get("pause_at") == "end":
        wait(folder)
    ending = time.monotonic()
    tracker.finish(options.get("exit_code", 0))
    return {"start_s": started - begin, "slowest_log_s": slowest, "finish_s": time.monotonic() - ending}


def wait(folder: Path) -> None:
    (folder / "waiting").touch()
    while not (folder / "go").exists():
        time.sleep(0.02)


if __name__ == "__main__":
    with locked_if_free(run_lock(Path(sys.argv[1]))):
        print(json.dumps(drive(Path(sys.argv[1]), **json.loads(sys.argv[2]))))
