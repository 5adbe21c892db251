"""Writes run folders out of what W&B has, for the report: from its own files of runs, or from a project at its server.

W&B's rows are those of metrics.jsonl as far as they were logged; where the shares of classes came as histograms alone
(many classes), they are made of them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import wandb

from tracking.local import write_run
from tracking.online.account import has_account
from tracking.online.timeout import first_line
from tracking.row import is_known

ANSWER_S = 30  # how long one question to the server may take
READ_S = 120  # how long one file may take to be read
HISTOGRAM = "pseudo_"
Kinds = Callable[[Mapping[str, Any]], Mapping[str, list[str]]]


def fetch_files(folder: Path, into: Path, kinds: Kinds) -> list[str]:
    """Write a run folder below `into` for each run whose `.wandb` files are in `folder` or in its subfolders.

    Args:
        kinds: what makes a configuration's `field_kinds`, which W&B is not told.

    Returns:
        One line for each file that cannot be read.
    """
    paths = sorted([*folder.glob("*.wandb"), *folder.glob("*run-*/*.wandb")])
    return [line for path in paths if (line := _fetch_file(path, into, kinds))]


def fetch_project(name: str, into: Path, kinds: Kinds) -> list[str]:
    """Write a run folder below `into` for each run of the project `ENTITY/PROJECT`, asked by W&B's public API.

    Returns:
        One line for each run that cannot be read.

    Raises:
        ValueError: the project cannot be read; one line.
    """
    problems = []
    try:
        for run in wandb.Api(timeout=ANSWER_S).runs(name):
            rows = list(map(row_of, run.scan_history(use_cache=False)))
            try:
                _write(run.id, run.config | {"run_name": run.name}, rows, into, kinds)
            except ValueError as error:
                problems.append(f"wandb:{name}/{run.id}: left out: {error}")
    except Exception as error:  # the SDK raises many kinds, not all of them wandb.Error
        remedy = "check the name and `wandb login`" if has_account() else "run `wandb login`"
        raise ValueError(f"wandb:{name}: {first_line(error).rstrip('.')}; {remedy}") from None
    return problems


def row_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """A row of metrics.jsonl from what W&B has of it; shares of histograms where there are no others."""
    row: dict[str, Any] = {}
    for key, value in item.items():
        if isinstance(value, Mapping):  # as the server has a histogram
            value = value.get("values")
        name = key.removesuffix(".values")  # as the files have it
        if is_known(name) and isinstance(value, (int, float, list)) and not isinstance(value, bool):
            row[name] = value
    for name, counts in [(name, counts) for name, counts in row.items() if isinstance(counts, list)]:
        total = sum(counts) or 1.0
        for k, count in enumerate(counts):
            row.setdefault(f"pseudo/{name.removeprefix(HISTOGRAM)}/{k}", count / total)
    return row


def _fetch_file(path: Path, into: Path, kinds: Kinds) -> str:
    """Empty, or why the file cannot be read."""
    try:
        _write_records(_records(path), into, kinds)
    except (ValueError, KeyError, TypeError, subprocess.TimeoutExpired) as error:
        return f"{path}: left out: {error}"
    return ""


def _records(path: Path) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=READ_S)
    if done.returncode != 0:
        raise ValueError((done.stderr.strip().splitlines() or ["wandb leet cannot read it"])[-1])
    return (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))


def _write_records(records: Iterable[dict[str, Any]], into: Path, kinds: Kinds) -> None:
    run_id, config, rows = "", dict[str, Any](), []
    for record in records:
        if record["type"] == "run":
            run_id = record["run"]["run_id"]
            config |= record["run"].get("config", {}).get("update", {})
            config["run_name"] = record["run"].get("display_name") or run_id
        elif record["type"] == "history":
            rows.append(row_of(record["history"]["item"]))
    _write(run_id, config, rows, into, kinds)


def _write(
    run_id: str,
    config: Mapping[str, Any],
    rows: Iterable[Mapping[str, Any]],
    into: Path,
    kinds: Kinds,
) -> None:
    """Several files of one run, as a resumed one has, add up: the last row of an epoch counts."""
    if "dataset" not in config or not re.fullmatch(r"\w[\w.-]{0,127}", run_id):  # the id names a folder
        raise ValueError("no run of this project's (its configuration has no `dataset`)")
    folder = into / run_id
    folder.mkdir(parents=True, exist_ok=True)
    plain = json.loads(json.dumps(dict(config), default=str)) | {"field_kinds": kinds(config)}
    write_run(folder, plain, (row for row in rows if "epoch" in row))
