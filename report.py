"""Compare finished and running trainings on one HTML page that opens with no network.

python report.py result
python report.py result --out report.html --png docs/finding.png
"""

from __future__ import annotations

import environment  # noqa: F401  (first: it says what to do where packages are missing)

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tracking.report.runs import find_runs, group_runs, printable


def main(arguments: list[str] | None = None) -> int:
    """Write the page (and the picture), print the table. Exit code 2 when there is nothing to compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="*", default=["result"], help="folders with runs in or below them (result)"
    )
    parser.add_argument("--out", default="report.html", help="the page to write (%(default)s)")
    parser.add_argument("--png", help="also write the picture of the finding, for a README")
    parser.add_argument("--title", default="How DARP repairs pseudo-labels", help="heading of the page")
    options = parser.parse_args(arguments)

    for folder in options.runs:
        if not Path(folder).is_dir():
            return _refuse(f"there is no folder {printable(folder)}")
    runs, problems = find_runs(options.runs)
    for problem in problems:
        print(f"report: {problem}", file=sys.stderr)
    if not runs:
        return _refuse(f"no run in {', '.join(map(printable, options.runs))}")
    # here, so that a mistake in the flags is told before numpy is imported
    from rich.console import Console

    from tracking.report.figures import final_figures, terminal_table
    from tracking.report.page import build_page

    groups = group_runs(runs)
    try:
        page = build_page(groups, title=options.title, problems=problems).encode()
        write_whole(Path(options.out), page)
        if options.png:
            from tracking.report.picture import picture_png  # imports altair

            write_whole(Path(options.png), picture_png(groups))
    except OSError as error:
        return _refuse(f"cannot write {printable(error.filename)}: {error.strerror}")
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(terminal_table(final_figures(groups)))
    print(f"Compared {len(runs)} runs: open {options.out} ({len(page) / 1e6:.1f} MB) in a browser.")
    if options.png:
        print(f"Picture: {options.png}")
    return 0


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
    remedy = "train first (python train.py), or name a folder that holds runs (config.yaml and metrics.jsonl)"
    print(f"report: {reason}: {remedy}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
