"""Lay out this project's panels at W&B: python -m tracking.workspace --entity E --project P.

Makes the custom charts of tracking/online/vega known to the entity, and in the project a workspace and a report that
compares two ratios side by side. With --automations W&B also watches the runs. A second run updates them all. `--print`
shows what would be sent and asks no server.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from tracking.command import Parser
from tracking.report.findings import cautions, verdict
from tracking.report.runs import find_runs, group_runs


def main() -> int:
    parser = Parser(
        prog="python -m tracking.workspace",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--entity", default=os.environ.get("WANDB_ENTITY", ""), help="user or team (WANDB_ENTITY)"
    )
    parser.add_argument(
        "--project", default=os.environ.get("WANDB_PROJECT", ""), help="project (WANDB_PROJECT)"
    )
    parser.add_argument("--ratios", default="2,500", help="ratios that the report compares (default: 2,500)")
    parser.add_argument("--sweep", default="", help="only runs of this sweep, by its id, in the report")
    parser.add_argument(
        "--sweep-file",
        default="",
        help="only runs of this sweep that ran without a server, by its file's name",
    )
    parser.add_argument(
        "--runs",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="run folders whose figures the report opens with; without them it says what to look for",
    )
    parser.add_argument(
        "--automations",
        action="store_true",
        help="also tell Slack, from W&B, of pseudo-labels that collapse and of runs that fail or crash",
    )
    parser.add_argument("--print", action="store_true", help="show what would be sent and stop")
    given = parser.parse_args()
    for name in ("entity", "project"):
        if not getattr(given, name):
            parser.error(f"--{name}: name yours, or set WANDB_{name.upper()}")
    try:
        ratios = [float(ratio) for ratio in given.ratios.split(",")]
    except ValueError:
        parser.error(f"--ratios {given.ratios}: use numbers separated by commas, such as 2,500")
    # here, because importing wandb takes half a second
    from tracking.online import automations
    from tracking.online.account import has_account
    from tracking.online.timeout import first_line
    from tracking.online.workspace import as_data, register_charts, report, save, workspace

    try:
        sentences = finding(given.runs)
    except ValueError as error:
        parser.error(str(error))
    made = workspace(given.entity, given.project)
    written = report(
        given.entity,
        given.project,
        ratios=ratios,
        sweep=given.sweep,
        sweep_file=given.sweep_file,
        finding=sentences,
    )
    if given.print:
        shown = as_data(made, written)
        if given.automations:
            shown["automations"] = automations.as_data(given.project)
        json.dump(shown, sys.stdout, indent=1)
        print()
        return 0
    if not has_account():
        parser.error("no W&B key here: run `wandb login` first, or look at it with --print")
    try:
        problems = register_charts(given.entity)
        save(made, written)
        print(f"workspace: {made.url}\nreport: {written.url}")
        if given.automations:
            for name in automations.save_automations(given.entity, given.project):
                print(f"automation: {name}")
    except Exception as error:  # the SDK raises many kinds here, not all of them wandb.Error
        print(f"python -m tracking.workspace: {first_line(error)}", file=sys.stderr)
        return 1
    for problem in problems:
        print(problem, file=sys.stderr)
    return 0


def finding(folders: Sequence[str]) -> list[str]:
    """What the runs below `folders` show, one sentence a regime, and what to know before trusting it.

    Raises ValueError, one line, where there is no run.
    """
    runs, problems = find_runs(folders)
    for problem in problems:
        print(problem, file=sys.stderr)
    if folders and not runs:
        raise ValueError(f"--runs {' '.join(folders)}: no run in it; name a run's folder or one above it")
    groups = group_runs(runs)
    sentences = [
        f"{regime.dataset}, {regime.label}: {verdict(members)[1]}" for regime, members in groups.items()
    ]
    return sentences + (cautions(groups) if groups else [])


if __name__ == "__main__":
    sys.exit(main())
