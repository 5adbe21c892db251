"""Sends runs to W&B and asks what the server has; the command is tracking/sync.py."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb
from wandb.sdk.lib import runid

from tracking.base import Row
from tracking.local import METRICS_FILE, is_kept, read_config, read_rows
from tracking.lock import holder, locked_if_free, run_lock
from tracking.media import read_media
from tracking.online.account import said, sdk_settings
from tracking.online.delivered import Delivered, delivered
from tracking.online.estimate import record_of, run_of, send_estimate, summary_of
from tracking.online.long_table import TABLE_KEY
from tracking.online.media import EXAMPLES_KEY
from tracking.online.run_record import RECORD_FILE, RunRecord, read_record
from tracking.online.run_writer import RunWriter, table_lines
from tracking.online.timeout import close_sdk, first_line

PIECE = re.compile(
    r"(?:offline-)?run-\d{8}_\d{6}-(.+)"
)  # W&B's folder of one process of a run; its id is at the end
KILLED = 128 + signal.SIGKILL
FINISH_TIMEOUT_S = 600  # of one run; WANDB_FINISH_TIMEOUT sets it
PATIENCE_S = (0.0, 1.0, 2.0, 4.0)  # waits before the server is asked again what it has


@dataclass(frozen=True)
class Outcome:
    """What became of one run: `sentence` says it; `complete` is True where nothing is left to send."""

    complete: bool
    sentence: str


@dataclass(frozen=True)
class Wanted:
    """How a run is to look at the server."""

    rows: Sequence[Row]
    table_lines: int
    exit_code: int
    preempted: bool
    artifacts: bool
    examples: bool

    def missing(self, there: Delivered) -> list[str]:
        """What the server lacks, in words; nothing where the run is complete."""
        lacks = []
        if epochs := [row["epoch"] for row in self.rows if row["epoch"] not in there.epochs]:
            lacks.append(f"{len(epochs)} of {len(self.rows)} epochs")
        summary = there.summary or {}
        if summary.get("epoch") != self.rows[-1]["epoch"]:
            lacks.append("the summary")
        table = summary.get(TABLE_KEY)
        if not isinstance(table, Mapping) or table.get("nrows") != self.table_lines:
            lacks.append("the table")
        if self.examples and EXAMPLES_KEY not in summary:
            lacks.append("the pictures")
        if self.artifacts and not any(name.endswith("-checkpoint") for name in there.artifacts):
            lacks.append("the artifacts")
        if not self._ended(there.state):
            lacks.append("how it ended")
        return lacks

    def _ended(self, state: str) -> bool:
        if self.exit_code == 0:
            return state == "finished"
        return state == "preempted" if self.preempted else state in ("failed", "crashed", "killed")


def wanted(record: RunRecord, config: Mapping[str, Any], rows: Sequence[Row], folder: Path) -> Wanted:
    """A run whose last process was killed has no exit code: it counts as finished where its last epoch is there."""
    done = rows[-1]["epoch"] == config["epochs"] - 1
    exit_code = record.exit_code if record.exit_code is not None else 0 if done else KILLED
    return Wanted(
        rows=rows,
        table_lines=len(table_lines(folder, config)),
        exit_code=exit_code,
        preempted=record.preempted,
        artifacts=record.artifacts and exit_code == 0 and (folder / "checkpoint.pt").exists(),
        examples=record.media and read_media(folder).examples is not None,
    )


def sync_run(
    folder: Path, *, replace: bool = False, tell: Callable[[str], None] = lambda text: None
) -> Outcome:
    """`deliver` the run in `folder`, or the estimate in this file, unless another process writes to it."""
    estimated = folder.suffix == ".json"
    lock = folder.with_name(f"{folder.name}.lock") if estimated else run_lock(folder)
    with locked_if_free(lock) as free:
        if not free:
            return Outcome(False, f"skipped: {holder(lock)} is writing to it; call this after its end")
        return deliver_estimate(folder, tell) if estimated else deliver(folder, replace=replace, tell=tell)


def deliver(
    folder: Path, *, replace: bool = False, tell: Callable[[str], None] = lambda text: None
) -> Outcome:
    """Send what the server lacks of the run in `folder`, whose lock the caller holds.

    Args:
        replace: send a run whose rows at the server are doubled or out of order anew, and delete that one.
        tell: hears of the beginning, which may take long to end.

    Raises one of many kinds of errors of the SDK when the server does not answer.
    """
    record = known_record(folder)
    if record is None:
        return Outcome(True, "skipped: trained without W&B")
    try:
        config, rows = read_config(folder), read_rows(folder)
    except ValueError as error:
        return Outcome(False, f"skipped: {error}")
    if not rows:
        return Outcome(True, "skipped: no epoch yet")
    there = delivered(record)
    if there.epochs and max(there.epochs) > rows[-1]["epoch"]:
        return Outcome(True, f"complete: the server has later epochs, up to {max(there.epochs)}")
    want = wanted(record, config, rows, folder)
    if replace and not in_order(there.epochs, rows):
        return _replace(folder, config, record, want, tell)
    return _complete(folder, config, record, want, there, tell)


def deliver_estimate(path: Path, tell: Callable[[str], None]) -> Outcome:
    """Send what the server lacks of the estimate in the file `path`, whose lock the caller holds.

    Raises one of many kinds of errors of the SDK when the server does not answer.
    """
    which = run_of(path)
    if which is None:
        return Outcome(True, "skipped: estimated without W&B")
    try:
        found = record_of(path)
    except (OSError, ValueError):
        return Outcome(False, "skipped: the file is not an estimate; run estimate.py with --overwrite")

    summary = summary_of(found)

    def missing(there: Delivered) -> list[str]:
        lacks = []
        if any((there.summary or {}).get(key) != value for key, value in summary.items()):
            lacks.append("the summary")
        if f"estimate-{path.stem}" not in there.artifacts:
            lacks.append("the artifact")
        return lacks + ([] if there.state == "finished" else ["how it ended"])

    sent = missing(delivered(which))
    if sent:
        tell(f"sending {', '.join(sent)}")
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            settings = _settings(which)
            send_estimate(path, found, which, mode="online", directory=Path(directory), settings=settings)
        if lacks := _still_missing(which, missing):
            return Outcome(False, f"incomplete: the server still lacks {', '.join(lacks)}; call this again")
    return Outcome(True, "complete: an estimate" + ("" if sent else ", nothing to send"))


def _still_missing(record: RunRecord, missing: Callable[[Delivered], list[str]]) -> list[str]:
    """What the server lacks of what was just sent, after as much patience as it may need."""
    lacks: list[str] = []
    for seconds in PATIENCE_S:
        time.sleep(seconds)
        if not (lacks := missing(delivered(record))):
            break
    return lacks


def _complete(
    folder: Path,
    config: Mapping[str, Any],
    record: RunRecord,
    want: Wanted,
    there: Delivered,
    tell: Callable[[str], None],
) -> Outcome:
    """Send what is missing and ask the server whether it has arrived."""
    sent = want.missing(there)
    if sent:
        tell(f"sending {', '.join(sent)}")
        _send(folder, config, record, want, there)
        if lacks := _still_missing(record, want.missing):
            return Outcome(False, f"incomplete: the server still lacks {', '.join(lacks)}; call this again")
        there = delivered(record)
    if not in_order(there.epochs, want.rows):
        return Outcome(
            False,
            f"incomplete: the server has the rows of {len(want.rows)} epochs {len(there.epochs)} times or out of "
            "order, as `wandb sync` leaves them; --replace sends the run anew and deletes that one",
        )
    how = f"{len(want.rows)} epochs, exit code {want.exit_code}"
    return Outcome(True, f"complete: {how}" + (", nothing to send" if not sent else ""))


def _send(folder: Path, config: Mapping[str, Any], record: RunRecord, want: Wanted, there: Delivered) -> None:
    """Open the run and add to it what `there` lacks."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        settings = _settings(record)
        if record.sweep:
            settings.sweep_id = record.sweep
        writer = RunWriter(
            folder, config, record, mode="online", directory=Path(directory), settings=settings
        )
        try:
            writer.have = set(there.epochs)
            if not there.epochs:
                writer.consume()
            for row in want.rows:
                writer.send(row)
            writer.send_table()
            if there.epochs:
                writer.send_summary(want.rows[-1])
            if want.artifacts:
                writer.send_artifacts()
            writer.finish(want.exit_code, preempted=want.preempted)
        except BaseException:
            close_sdk(1)
            raise


def _settings(record: RunRecord) -> wandb.Settings:
    """Nothing of this process or machine becomes part of the run; the end may take long."""
    settings = sdk_settings(machine_info=False)
    settings.finish_timeout = float(os.environ.get("WANDB_FINISH_TIMEOUT") or FINISH_TIMEOUT_S)
    settings.program = record.program or "train_with_wandb.py"
    return settings


def _replace(
    folder: Path, config: Mapping[str, Any], record: RunRecord, want: Wanted, tell: Callable[[str], None]
) -> Outcome:
    """The run under a new id; then the one whose rows are broken goes."""
    broken = record.path
    record.id = runid.generate_id()
    outcome = _complete(folder, config, record, want, Delivered(), tell)
    if outcome.complete:
        record.write(folder)  # from here on the folder is the new run
        wandb.Api().run(broken).delete()
        return Outcome(True, f"{outcome.sentence}, under the new id {record.id}")
    return outcome


def in_order(epochs: Sequence[int], rows: Sequence[Row]) -> bool:
    """Whether the server has the first epochs of the run, each once, as they were trained."""
    return list(epochs) == [int(row["epoch"]) for row in rows[: len(epochs)]]


def known_record(folder: Path) -> RunRecord | None:
    """The folder's own record; of a run from before there was one, its id by the names of W&B's files."""
    if (record := read_record(folder)) is not None:
        return record
    names = sorted(piece.name for piece in (folder / "wandb").glob("*run-*"))
    ids = [found[1] for name in names if (found := PIECE.fullmatch(name))]
    if not ids:
        return None
    return RunRecord(id=ids[-1], project=said("project", "", "darp") or "", name=folder.name)


def runs_below(path: Path) -> Iterator[Path]:
    """The run folders in `path`, itself included, and the files of estimates that are W&B runs; those folders that
    `--overwrite` kept are none."""
    if path.is_file():
        yield path
        return
    if path.parent.name == "wandb":  # a folder of W&B's own files: its run is meant
        path = path.parent.parent
    for place, names, files in os.walk(path):
        yield from sorted(Path(place) / name for name in files if is_estimate(Path(place) / name))
        names[:] = sorted(name for name in names if name != "wandb" and not is_kept(Path(name)))
        if METRICS_FILE in files or RECORD_FILE in files:
            yield Path(place)


def is_estimate(path: Path) -> bool:
    return path.suffix == ".json" and run_of(path) is not None


def command(folder: Path) -> str:
    """What a person types to send this run."""
    return shlex.join(["python", "-m", "tracking.sync", str(folder.resolve())])


def sync(folders: Sequence[Path], *, replace: bool) -> int:
    """Sync each run, one line each; returns 0 when all are complete, else 1."""
    incomplete = 0
    for number, folder in enumerate(folders, start=1):
        print(f"[{number}/{len(folders)}] {folder}: ", end="", flush=True)
        try:
            outcome = sync_run(
                folder, replace=replace, tell=lambda text: print(f"{text} ... ", end="", flush=True)
            )
        except Exception as error:  # the SDK raises many kinds here, not all of them wandb.Error
            outcome = Outcome(False, f"incomplete: {first_line(error)}; call this again")
        print(outcome.sentence, flush=True)
        incomplete += not outcome.complete
    if incomplete:
        print(f"{incomplete} of {len(folders)} runs are not complete", file=sys.stderr)
    return 1 if incomplete else 0
