"""A trial for tests of the runner, quick to start: it logs rows as a training does, and goes on where it was.

Flags: --cell=NAME and --x=VALUE. The name says what it does: slow... trains until it is told to stop, bad... fails,
pairN waits for the other one of the pair, shy... logs no row. It notes in NAME.log how it started and ended.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

words = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
name = words.get("cell", "good") + words.get("x", "")
if "SWEEP_REPEATED" in os.environ:
    name += os.environ["WANDB_RUN_ID"]
EPOCHS = 100_000 if name.startswith("slow") else 4


def note(what: str) -> None:
    with open(f"{name}.log", "a") as file:
        file.write(f"{what}\n")


def stop(number: int, frame: object) -> None:
    note(f"stopped by {signal.Signals(number).name}")
    sys.exit(128 + number)


signal.signal(signal.SIGUSR1, lambda number, frame: note("asked to save"))
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
note(f"started {os.environ['WANDB_RUN_ID']} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}".strip())
while name.startswith("pair") and not all(Path(f"pair{k}.log").exists() for k in (0, 1)):
    time.sleep(0.02)
if name.startswith("bad") and not Path("mended").exists():
    print("the data are not there", file=sys.stderr)
    sys.exit(5)
if not name.startswith("shy"):
    folder = Path("result") / name
    folder.mkdir(parents=True, exist_ok=True)
    Path(os.environ["SWEEP_FOLDER_FILE"]).write_text(str(folder.resolve()))
    metrics = folder / "metrics.jsonl"
    done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    for epoch in range(done, EPOCHS):
        with metrics.open("a") as file:
            file.write(
                json.dumps({"epoch": epoch, "test/bacc": float(words.get("x", 0.5)) * (epoch + 1)}) + "\n"
            )
        time.sleep(0.1 if "pace" not in words else float(words["pace"]))
note("ended")
