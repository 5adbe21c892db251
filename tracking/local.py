"""A run's own folder: config.yaml and metrics.jsonl. This module is their only reader and writer.

Nothing in the folder needs a network or this program to be read. A run may still be writing while it is read, may have
been killed in the middle of a line, and may have been resumed: the last line of an epoch counts, and a line that is
not a whole row is skipped.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from tracking.base import Row

CONFIG_FILE, METRICS_FILE = "config.yaml", "metrics.jsonl"
_KEPT = re.compile(r"\.old-\d+$")  # the folder of a run that was started again with --overwrite
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where libyaml is there
_TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp$")


def kept_name(path: Path) -> Path:
    """The name that keeps a folder or file whose place is taken: NAME.old-1, or the next number that is free."""
    number = 1
    while (kept := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    return kept


def is_kept(folder: Path) -> bool:
    """Whether `kept_name` gave this name: the folder is no run any more."""
    return _KEPT.search(folder.name) is not None


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other process uses. `clear_temporary_files` knows it."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def clear_temporary_files(folder: Path, name: str = "") -> None:
    """Remove what killed writers of files in `folder`, or of its file `name`, left. Only for their one writer."""
    for path in folder.iterdir():
        if _TEMPORARY.match(path.name) and path.name.startswith(f".{name}"):
            path.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` at the end of the block: a crash leaves the old file or the new."""
    temporary = temporary_name(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that a crash leaves the old file or the new, never a part."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def in_one_line(error: OSError) -> str:
    """What the system refused, on which file, and what to do."""
    places = " and ".join(str(name) for name in (error.filename, error.filename2) if name)
    shown = places if places.isprintable() else repr(places)
    remedy = (
        "make room" if exit_code_of(error) == 1 else "name another folder or file, or change its permissions"
    )
    return f"{shown[:200] or 'a file'}: {error.strerror or error}; {remedy}"


def exit_code_of(error: OSError) -> int:
    """1 where a disk is full or broken, 2 where the command names what cannot be used."""
    return 1 if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO) else 2


def append(path: Path, text: str) -> None:
    """Add `text` to a file, all of it or nothing, and flush it to disk."""
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            data = memoryview(text.encode("utf-8"))
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def checkout_commit(root: Path) -> str:
    """The checkout's commit, marked when files differ from it."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=10"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def encode_row(row: Row) -> str:
    """One line of JSON. Numbers that JSON does not know (nan, inf) become null."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(finite) + "\n"


def read_rows(folder: Path) -> list[Row]:
    """The rows of `folder/metrics.jsonl` in the order of the epochs, the last one of each epoch.

    null is nan. Values that are neither a number nor a list of class counts are left out. No file is no rows.
    """
    path = folder / METRICS_FILE
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    rows = {int(row["epoch"]): row for _, row in _parsed(text)}
    return [rows[epoch] for epoch in sorted(rows)]


def read_config(folder: Path) -> dict[str, Any]:
    """The fields of `folder/config.yaml`.

    Raises:
        ValueError: one line that says what is missing or broken.
    """
    try:
        config = yaml.load((folder / CONFIG_FILE).read_text(encoding="utf-8"), Loader=_LOADER)
    except FileNotFoundError:
        raise ValueError(f"no {CONFIG_FILE} (a run writes it when it starts)") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{CONFIG_FILE} cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG_FILE} holds no fields")
    return config


def write_run(folder: Path, config: Mapping[str, Any], rows: Iterable[Row]) -> None:
    """The two files of a run that was logged elsewhere. Rows are added to those that are there."""
    write_atomically(folder / CONFIG_FILE, yaml.safe_dump(dict(config), sort_keys=False))
    append(folder / METRICS_FILE, "".join(map(encode_row, rows)))


class LocalTracker:
    """Writes `folder/config.yaml` at the start and one line of `folder/metrics.jsonl` an epoch, flushed to disk.

    A row that the disk does not take is said once and written with the next one; until then the checkpoint keeps it.

    Args:
        conditions: what else than the configuration the figures depend on (code, threads, device, versions). Each
            start adds them to the list `starts` of config.yaml, and nowhere else.
    """

    def __init__(self, folder: Path, conditions: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.conditions = conditions
        self._unwritten: list[Row] = []
        self._told = False

    def start(self, config: Mapping[str, Any], state: Mapping[str, Any], first_epoch: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if first_epoch < config.get("epochs", math.inf):  # else nothing is left to train: no start to note
            content = dict(config)
            if self.conditions is not None:
                content["starts"] = [*self._starts(first_epoch), {"epoch": first_epoch, **self.conditions}]
            write_atomically(self.folder / CONFIG_FILE, yaml.safe_dump(content, sort_keys=False))
            if (self.folder / METRICS_FILE).exists():
                self._cut(first_epoch)
        self._write(self._missing(state.get("unwritten_rows", [])))

    def _missing(self, rows: Sequence[Row]) -> list[Row]:
        """Those of `rows` that are not in the file: it may have taken them after the checkpoint was saved."""
        there = {row["epoch"] for row in read_rows(self.folder)}
        return [row for row in rows if row["epoch"] not in there]

    def _starts(self, first_epoch: int) -> list[Any]:
        """The starts before this one; where their conditions were others, one line says so."""
        try:
            starts = read_config(self.folder).get("starts") or []
            before = starts[-1]
            differences = [
                f"{name} {before.get(name)} -> {value}"
                for name, value in (self.conditions or {}).items()
                if before.get(name) != value
            ]
        except (
            ValueError,
            AttributeError,
            KeyError,
            IndexError,
            TypeError,
        ):  # the first start, or no list of ours
            return []
        if differences:
            print(
                f"{self.folder}: from epoch {first_epoch} on under other conditions ({', '.join(differences)}); "
                "the figures may differ from those of one uninterrupted run",
                file=sys.stderr,
            )
        return list(starts)

    def _cut(self, first_epoch: int) -> None:
        """Epochs after the checkpoint run again: their old rows go, so that none is doubled.

        One row after the checkpoint is what a kill between the two leaves, and it comes again as it was. Where more
        would go, the file as it was is kept beside the new one.
        """
        metrics = self.folder / METRICS_FILE
        text = metrics.read_text(encoding="utf-8", errors="replace")
        rows = list(_parsed(text))
        last = max((row["epoch"] for _, row in rows), default=-1)
        if last > first_epoch:
            kept = kept_name(metrics)
            write_atomically(kept, text)
            print(
                f"{metrics}: epochs {first_epoch} to {last:g} are trained again; the old rows are kept in {kept.name}",
                file=sys.stderr,
            )
        write_atomically(metrics, "".join(f"{line}\n" for line, row in rows if row["epoch"] < first_epoch))

    def log(self, row: Row) -> None:
        self._write([*self._unwritten, row])

    def _write(self, rows: list[Row]) -> None:
        """Append rows, or keep them all for the next time."""
        try:
            if rows:
                append(self.folder / METRICS_FILE, "".join(map(encode_row, rows)))
            self._unwritten = []
        except OSError as error:
            self._unwritten = rows
            if not self._told:
                print(
                    f"{self.folder / METRICS_FILE}: {error.strerror or error}; training goes on, and the row comes "
                    "with the next one that is written",
                    file=sys.stderr,
                )
            self._told = True

    def state_dict(self) -> dict[str, Any]:
        return {"unwritten_rows": [dict(row) for row in self._unwritten]} if self._unwritten else {}

    def finish(self, exit_code: int) -> None:
        pass


def _parsed(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each whole row of a metrics.jsonl with the line that it stands on."""
    lines = [line for line in text.split("\n") if line.strip()]
    for line, row in zip(lines, _json_of(lines), strict=True):
        if not isinstance(row, dict):
            continue
        for key in [key for key, given in row.items() if type(given) is not float]:  # few: most are floats
            if (value := _value(row[key])) is None:
                del row[key]
            else:
                row[key] = value
        epoch = row.get("epoch")
        if isinstance(epoch, (int, float)) and math.isfinite(epoch):
            yield line, row


def _json_of(lines: Sequence[str]) -> list[Any]:
    """What each line says, None where it is torn by a kill or no JSON.

    Read as one text the rows share the strings of their keys, which are most of their memory.
    """
    try:
        found = json.loads(f"[{','.join(lines)}]")
    except (ValueError, RecursionError):
        found = []
    return found if len(found) == len(lines) else list(map(_json_or_none, lines))


def _json_or_none(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _value(given: Any) -> int | float | list[Any] | None:
    """A number, with nan for null, or a list of numbers; None for anything else."""
    if given is None:
        return math.nan
    if isinstance(given, bool):
        return None
    if isinstance(given, int):
        try:
            float(given)
        except OverflowError:  # an integer beyond the range of floats
            return math.inf if given > 0 else -math.inf
        return given
    if isinstance(given, float):
        return given
    numbers = isinstance(given, list) and all(type(number) in (int, float) for number in given)
    return given if numbers else None
