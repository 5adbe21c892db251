"""Send runs to W&B: python -m tracking.sync RUN_OR_FOLDER...

Every run below the folders that are named arrives whole: each epoch once and in order, the long table, the summary and
how the run ended. An estimate, which is a run too, arrives with its summary and its file. What the server has is asked
first, and only the rest is sent. So the command can be called again after an interruption, and a call where nothing is
missing sends nothing. It reads the run's own files (config.yaml, metrics.jsonl, wandb_run.json) and not those of W&B,
which may be torn, doubled or in several pieces.

The exit code is 0 when every run is complete.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tracking.command import Parser
from tracking.online.timeout import close_sdk


def main() -> int:
    parser = Parser(
        prog="python -m tracking.sync",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder",
        nargs="+",
        type=Path,
        help="a run's folder, one with runs below it, or the file of an estimate",
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="send a run whose rows at the server are doubled or out of order anew under a new id, and delete that one",
    )
    given = parser.parse_args()
    # here, because importing wandb takes half a second
    from tracking.online.account import has_account
    from tracking.online.sync import runs_below, sync

    for folder in given.folder:
        if not folder.is_dir() and not (folder.is_file() and folder.suffix == ".json"):
            parser.error(f"{folder}: no such folder; name a run's folder or one above it")
    folders = list(dict.fromkeys(run for folder in given.folder for run in runs_below(folder)))
    if not folders:
        parser.error(f"{given.folder[0]}: no run in it; name a run's folder or one above it")
    if not has_account():
        parser.error("no W&B key here: run `wandb login` first")
    code = sync(folders, replace=given.replace)
    close_sdk()
    return code


if __name__ == "__main__":
    sys.exit(main())
