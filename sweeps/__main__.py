"""Run or check W&B sweep files with no server: python -m sweeps run|status|check FILE.

`run` executes the trials that `wandb sweep FILE` and `wandb agent` would, as offline W&B runs that can be sent
later. Started again, or on another host with the same --storage, it joins the same sweep: a finished trial is not
trained again, and one whose runner died goes on from its checkpoint.
"""

from __future__ import annotations

import environment  # noqa: F401  (first: it says what to do where packages are missing)

import argparse
import re
import shlex
import sys
from pathlib import Path
from typing import NoReturn

from sweeps.command import command_of
from sweeps.definition import Sweep, SweepError, read_sweep, trials

MOST_JOBS = 1024
GPU = re.compile(r"\d{1,4}|(GPU|MIG)-[0-9A-Za-z/-]+")  # what CUDA_VISIBLE_DEVICES takes


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SweepError(" ".join(message.split()))


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m sweeps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser)
    run = verbs.add_parser(
        "run", help="run trials until none is left, one after the other or --jobs at a time"
    )
    run.add_argument("file", help="a sweep file, such as sweeps/demo.yaml")
    run.add_argument("--jobs", help="trials at the same time (default: one for each of --gpus, else 1)")
    run.add_argument("--count", help="this runner starts at most so many trials")
    run.add_argument("--gpus", help="give each job one of these GPUs, such as 0,1")
    run.add_argument(
        "--heartbeat",
        default="10",
        help="seconds between two signs of life; a runner without one for six of them is dead (10)",
    )
    run.add_argument("--retry-failed", action="store_true", help="start trials again that failed")
    run.add_argument("--dry-run", action="store_true", help="print the commands and stop")
    status = verbs.add_parser("status", help="how far the sweep is, on all hosts")
    status.add_argument("file")
    for verb in (run, status):
        verb.add_argument(
            "--storage",
            help="the database that keeps the trials: postgresql://USER@HOST/NAME for runners on many hosts "
            "(default: an SQLite file in the sweep's folder)",
        )
    checks = verbs.add_parser("check", help="dry-run every trial: flags, presets, splits, metric")
    checks.add_argument("file", nargs="+")
    return parser


def main() -> int:
    try:
        given = build_parser().parse_args()
        if given.verb == "check":
            from sweeps.check import check

            return max(check(read_sweep(file)) for file in given.file)
        sweep = read_sweep(given.file)
        if given.verb == "status":
            return show_status(sweep, given.storage)
        return start(sweep, given)
    except SweepError as error:
        print(f"python -m sweeps: {error}", file=sys.stderr)
        return 2


def start(sweep: Sweep, given: argparse.Namespace) -> int:
    gpus = gpus_of(given.gpus)
    jobs = max(1, len(gpus)) if given.jobs is None else whole("--jobs", given.jobs, MOST_JOBS)
    count = None if given.count is None else whole("--count", given.count, 10**9)
    heartbeat = whole("--heartbeat", given.heartbeat, 3600)
    if given.dry_run:
        if sweep.method == "bayes":
            print(f"{sweep.path}: bayes draws by the results; these are draws by chance", file=sys.stderr)
        for trial in trials(sweep, count):
            print(shlex.join(command_of(sweep.command, sweep.program, trial, sys.executable)))
        return 0
    # here, because Optuna takes a second to import
    from sweeps.runner import default_storage, run

    storage = given.storage or default_storage(sweep)
    return run(
        sweep,
        storage,
        jobs=jobs,
        count=count,
        gpus=gpus,
        heartbeat_s=heartbeat,
        retry_failed=given.retry_failed,
    )


def show_status(sweep: Sweep, storage: str | None) -> int:
    from sweeps.runner import default_storage
    from sweeps.study import Study
    from sweeps.terminal import console, counted, print_table

    url = storage or default_storage(sweep)
    lost = url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists()
    study = None if lost else Study(sweep, url, create=False)
    if study is None or not study.found:
        from sweeps.definition import size

        print(
            f"{counted(sweep, [], size(sweep))} (looked in {url if study is None else 'the study of this file'})"
        )
        return 0
    print_table(console(), study, study.progress())
    return 0


def whole(flag: str, text: str, most: int) -> int:
    """Raises SweepError for anything but a whole number from 1 to `most`."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:20]) <= most:
        raise SweepError(f"{flag} {text}: use a whole number from 1 to {most}")
    return int(text)


def gpus_of(text: str | None) -> list[str]:
    """Raises SweepError for what no GPU is called."""
    if text is None:
        return []
    gpus = text.split(",")
    for gpu in gpus:
        if not GPU.fullmatch(gpu):
            raise SweepError(f"--gpus {text}: {gpu or 'nothing'} is no GPU; use numbers such as 0,1")
        if gpus.count(gpu) > 1:
            raise SweepError(f"--gpus {text}: {gpu} is named twice; --jobs puts several trials on one GPU")
    return gpus


if __name__ == "__main__":
    sys.exit(main())
