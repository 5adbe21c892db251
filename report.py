"""Compare finished and running trainings on one HTML page that opens with no network.

python report.py result                     write report.html, print the table
python report.py result --serve --watch     the page on the loopback, live while runs go on
python report.py result --table             its first screen in the terminal
python report.py wandb:ENTITY/PROJECT       the same of the runs at W&B
"""

from __future__ import annotations

import environment  # noqa: F401  (first: it says what to do where packages are missing)

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tracking.command import Parser
from tracking.report.runs import Run, find_runs, group_runs, printable

TRAIN_FIRST = (
    "train first (python train.py), or name a folder that holds runs (config.yaml and metrics.jsonl)"
)


def main(arguments: list[str] | None = None) -> int:
    """Write the page and print the table, or what the flags ask for. Exit code 2 when there is nothing to compare."""
    parser = Parser(
        prog="report.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs",
        nargs="*",
        default=["result"],
        help="folders with runs in or below them (result), W&B's own folders of runs (.../wandb, "
        ".../wandb/offline-run-*), or wandb:ENTITY/PROJECT",
    )
    parser.add_argument("--out", default="report.html", help="the page to write (%(default)s)")
    parser.add_argument(
        "--table",
        action="store_true",
        help="show the classes here, as bars and sparklines, and write nothing",
    )
    parser.add_argument(
        "--figures", metavar="DIR", help="also write figures for papers there, as SVG and PNG"
    )
    parser.add_argument(
        "--serve",
        action="store_true",
        help="serve the page on the loopback instead of writing it, until Ctrl-C",
    )
    parser.add_argument("--watch", action="store_true", help="with --serve: the page follows runs that go on")
    parser.add_argument("--port", type=int, default=0, help="with --serve: which port (a free one)")
    parser.add_argument("--title", default="How DARP repairs pseudo-labels", help="heading of the page")
    options = parser.parse_args(arguments)
    if (options.watch or options.port) and not options.serve:
        parser.error(f"--{'watch' if options.watch else 'port'}: it goes with --serve")

    with tempfile.TemporaryDirectory(prefix="report-") as scratch:
        return _report(options, Path(scratch))


def _report(options: argparse.Namespace, scratch: Path) -> int:
    """The report; what W&B has is written to `scratch` first."""
    sources = options.runs
    try:
        options.runs, fetched = _folders(options, scratch)
    except ValueError as error:
        return _refuse("".join(c if c.isprintable() else "?" for c in str(error)))
    runs, problems = find_runs(options.runs)
    problems = fetched + problems
    for problem in problems:
        print(f"report.py: {problem}", file=sys.stderr)
    if not runs:
        return _refuse(f"no run in {', '.join(map(printable, sources))}: {TRAIN_FIRST}")
    # here, so that a mistake in the flags is told before numpy is imported
    from rich.console import Console

    from tracking.report.figures import final_figures, terminal_table
    from tracking.report.page import build_page

    if options.serve:
        return _serve(options)
    groups = group_runs(runs)
    console = Console(width=None if sys.stdout.isatty() else 120)
    if options.table:
        from tracking.report.terminal import terminal_report

        console.print(terminal_report(groups, console.width))
        return 0
    try:
        page = build_page(groups, title=options.title, problems=problems).encode()
        write_whole(Path(options.out), page)
        if options.figures:
            from tracking.report.figure_files import write_figures  # imports altair

            figures = write_figures(groups, Path(options.figures), write_whole)
    except OSError as error:
        return _refuse(
            f"cannot write {printable(error.filename)}: {error.strerror}; name another place, or make room"
        )
    console.print(terminal_table(final_figures(groups)))
    print(f"Compared {len(runs)} runs: open {options.out} ({len(page) / 1e6:.1f} MB) in a browser.")
    if options.figures:
        print(f"Figures: {len(figures)} files in {options.figures}")
    return 0


def _folders(options: argparse.Namespace, scratch: Path) -> tuple[list[str], list[str]]:
    """The folders to look for runs in, and a line for each of W&B's runs that cannot be read.

    Raises:
        ValueError: one line.
    """
    folders, problems = [], []
    for number, source in enumerate(options.runs):
        project = source.removeprefix("wandb:")
        if project == source and not Path(source).is_dir():
            raise ValueError(f"there is no folder {source}: {TRAIN_FIRST}")
        if project == source and not _is_of_wandb(Path(source)):
            folders.append(source)
            continue
        if options.watch:
            raise ValueError(f"--watch {source}: it follows run folders alone; leave --watch out")
        if project != source and not re.fullmatch(r"[^/:\s]+/[^/:\s]+", project):
            raise ValueError(f"{source}: name it as wandb:ENTITY/PROJECT")
        from semi.config import kinds_of
        from tracking.online.fetch import fetch_files, fetch_project  # imports wandb

        into = scratch / str(number)
        if project == source:
            problems += fetch_files(Path(source), into, kinds_of)
        else:
            problems += fetch_project(project, into, kinds_of)
        folders.append(str(into))
    return folders, problems


def _is_of_wandb(folder: Path) -> bool:
    """Whether it is a folder of W&B's: of one run, or of several. A run folder of this project is not."""
    return not (folder / "config.yaml").exists() and any(
        path for pattern in ("*.wandb", "*run-*/*.wandb") for path in folder.glob(pattern)
    )


def _serve(options: argparse.Namespace) -> int:
    """The page at an address that only its reader knows, until Ctrl-C."""
    from tracking.report.page import build_page
    from tracking.report.serve import Source, serve

    def build(read: Callable[[Path], Run], version: str) -> bytes:
        runs, problems = find_runs(options.runs, read)
        if not runs:
            raise ValueError(f"no run in {', '.join(map(printable, options.runs))} any more")
        page = build_page(
            group_runs(runs), title=options.title, problems=problems, version=version, watch=options.watch
        )
        return page.encode()

    try:
        serve(Source(options.runs, build), options.port, ready=_say_address)
    except (OSError, OverflowError) as error:
        print(
            f"report.py: --port {options.port}: {error}; use another port, or 0 for a free one",
            file=sys.stderr,
        )
        return 2
    return 0


def _say_address(address: str) -> None:
    print(f"The page is at {address} until Ctrl-C. Only this machine reaches it.", flush=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _refuse(reason: str) -> int:
    print(f"report.py: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
