"""Run or check W&B sweep files with no server: python -m sweeps run|check FILE.

`run` executes the trials that `wandb sweep FILE` and `wandb agent` would, as offline W&B runs that can be sent
later. Their config key `sweep` names the file. A finished trial is not trained again. An interrupted one goes on.
"""

from __future__ import annotations

import environment  # noqa: F401  (first: it says what to do where packages are missing)

import argparse
import sys

from sweeps.definition import SweepError, read_sweep
from sweeps.runner import check, run


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sweeps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    runs = verbs.add_parser("run", help="run every trial, one after the other or --jobs at a time")
    runs.add_argument("file", help="a sweep file, such as sweeps/demo.yaml")
    runs.add_argument("--jobs", type=int, default=1, help="trials at the same time (default: 1)")
    runs.add_argument("--count", type=int, help="at most so many trials")
    runs.add_argument("--gpus", default="", help="give each job one of these GPUs, such as 0,1")
    runs.add_argument("--dry-run", action="store_true", help="print the commands and stop")
    checks = verbs.add_parser("check", help="dry-run every trial: flags, presets, splits, metric")
    checks.add_argument("file", nargs="+")
    arguments = parser.parse_args()
    try:
        if arguments.verb == "check":
            return max(check(read_sweep(file)) for file in arguments.file)
        gpus = [gpu for gpu in arguments.gpus.split(",") if gpu]
        sweep = read_sweep(arguments.file)
        return run(sweep, jobs=arguments.jobs, count=arguments.count, gpus=gpus, dry_run=arguments.dry_run)
    except SweepError as error:
        print(f"python -m sweeps: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
