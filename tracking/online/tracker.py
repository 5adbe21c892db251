"""One W&B run beside the local folder.

Training never depends on it: what goes wrong here is said once, in one line, and training goes on. What could not be
sent stays in the run's folder, and the message names the `python -m tracking.sync` command that sends it later.

Bounds: a server that cannot be reached delays the start by at most INIT_TIMEOUT_S and some 12 s, an epoch by nothing,
and the end by FINISH_TIMEOUT_S twice, once for tables and once for rows. WANDB_INIT_TIMEOUT and WANDB_FINISH_TIMEOUT
set them.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wandb.sdk.lib import runid

from tracking.alerts import Alert
from tracking.base import Row
from tracking.local import read_rows
from tracking.media import Media, MediaSource
from tracking.online.account import (
    INIT_TIMEOUT_S,
    NAME_LIMIT,
    Mode,
    Refused,
    finish_timeout_s,
    has_account,
    require,
    resolve_mode,
    said,
    say,
    sdk_settings,
    told,
)
from tracking.online.artifacts import log_code, require_artifact_names
from tracking.online.delivered import delivered, told_to_stop
from tracking.online.run_record import RunRecord, read_record
from tracking.online.run_writer import ONLINE, RunWriter
from tracking.online.sync import command, deliver
from tracking.online.timeout import close_sdk, first_line, within

PREEMPTED = 128 + signal.SIGTERM  # the exit code of a run that was asked to stop
ASK_S = 5  # how long such a run waits for W&B to say whether it was stopped on purpose
STOPPED_S = 10  # for the table of such a run: schedulers kill after 30 s or so


class WandbTracker:
    """Logs each row in one call, with the epoch as step metric, and class shares also as histograms.

    The environment's WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, WANDB_RUN_GROUP, WANDB_NAME, WANDB_TAGS, WANDB_JOB_TYPE,
    WANDB_RUN_ID and WANDB_DIR win over the arguments: agents and schedulers speak through them. W&B's own settings
    files (`wandb init`, `wandb offline`, `wandb disabled`) hold where neither says anything.

    Args:
        folder: the run's folder; W&B's own files go to `folder/wandb`.
        mode: online, offline, disabled, or auto: what W&B's settings files say, else online with a stored key, else
            offline.
        project, entity: empty for what W&B's settings files say, else "darp" (project) or the account's own (entity).
        group: empty for the regime: data set, ratio, num_max and imbalance.
        tags: beside the run's own (data set, method, refinement).
        notes: of the run.
        summary: key of a row -> min, max, mean, last, first or none: what W&B keeps of it in the run's summary.
        code: True saves this project's code as an artifact.
        machine_info: False keeps host name, hardware, paths, git remote and console output on this machine.
        artifacts: True uploads checkpoints and pseudo-labels when the run ended as planned.
        per_class: few or all keys of a row (`tracking.row.FEW`).
        media: True shows confusion matrices, examples of pseudo-labels and a grid of views.
        table_every: epochs from one long table, and its pictures, to the next while the run is online; 0 for those at
            the end alone.
        charts: True draws the custom charts on the run's page; `python -m tracking.workspace` registers them.
        consumed: name of the artifact that the run goes on from, for its lineage.

    Raises Refused, one line, for what W&B would not take, before anything is written or sent.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mode: str = "auto",
        project: str = "",
        entity: str = "",
        group: str = "",
        tags: Sequence[str] = (),
        notes: str = "",
        summary: Mapping[str, str] | None = None,
        code: bool = False,
        machine_info: bool = True,
        artifacts: bool = False,
        charts: bool = False,
        per_class: str = "few",
        media: bool = True,
        table_every: int = 20,
        consumed: str = "",
    ) -> None:
        self.folder = folder
        self.mode = resolve_mode(mode)
        self.machine_info = machine_info
        self.record = RunRecord(
            id="",
            project=said("project", project, "darp") or "",
            entity=said("entity", entity) or "",
            name=said("run_name", folder.name) or "",
            group=said("run_group", group) or "",
            job_type=said("run_job_type", "", "train") or "",
            tags=[*(told().run_tags or ()), *tags],
            notes=said("run_notes", notes) or "",
            program=Path(sys.argv[0]).name,
            sweep=os.environ.get("WANDB_SWEEP_ID", ""),
            consumed=consumed,
            charts=charts,
            artifacts=artifacts,
            per_class=per_class,
            media=media,
            summary=dict(summary or {}),
        )
        _require_names(self.record)
        self._writer: RunWriter | None = None
        self._broken = False
        self.table_every = table_every
        self.code = code
        self._source: MediaSource | None = None
        self._pictures = Media()
        self._stopped = threading.Event()
        self._table = threading.Thread()  # sends the long table while the run goes on

    def take_media(self, source: MediaSource) -> None:
        """What `start` and the epochs after it show."""
        self._source = source if self.record.media and self.mode != "disabled" else None

    def start(self, config: Mapping[str, Any], state: Mapping[str, Any], first_epoch: int) -> None:
        before = read_record(self.folder)
        known = before.id if before else state.get("wandb_run_id")
        self.record.id = os.environ.get("WANDB_RUN_ID") or known or runid.generate_id()
        if first_epoch >= config["epochs"]:
            self._deliver_what_is_left(before)
            return
        if self.mode != "disabled":
            self._keep_record()  # before the run opens: it may be killed there
        self._keep_media(start=True)
        writer = self._writer = self._open(config)
        if writer is None:
            return
        say(self._where(writer))
        if self.mode != "disabled":
            self.record.config = {key: v for key, v in dict(writer.run.config).items() if key not in config}
            self.record.entity = writer.run.entity or self.record.entity
            self._keep_record()
        if self.code and (reason := within(finish_timeout_s(), lambda: log_code(writer.run))):
            say(f"W&B did not take the code ({reason})")
        if writer.online:
            try:
                self._catch_up(writer, first_epoch)
            except Exception as error:
                say(
                    f"W&B did not take up the earlier epochs ({first_line(error)}); "
                    f"send them later with `{command(self.folder)}`"
                )

    def _keep_media(self, *, start: bool = False) -> None:
        """New pictures in the run's folder, from where the writer takes them."""
        if self._source is None:
            return
        from tracking import pictures  # here: it imports torch, and a run without pictures needs none

        try:
            if start:
                self._pictures = pictures.at_the_start(self._source)
            else:
                self._pictures = pictures.after_an_epoch(self._source, self._pictures)
            self._pictures.write(self.folder)
        except Exception as error:  # pictures are not worth a training
            say(f"{self.folder}: no pictures of this run from here on ({first_line(error)})")
            self._source = None

    def _keep_record(self) -> None:
        try:
            self.record.write(self.folder)
        except OSError as error:  # a full disk must not end a training
            say(f"{self.folder}: which W&B run it is could not be kept ({error.strerror or error})")

    def _open(self, config: Mapping[str, Any]) -> RunWriter | None:
        """The run at W&B, offline where the server does not answer; None where not even that works."""
        try:
            return self._open_as(self.mode, config)
        except Exception as error:  # the SDK raises many kinds here, not all of them wandb.Error
            said = (
                f"did not answer ({first_line(error)})"
                if has_account()
                else "has no key here; run `wandb login`"
            )
            say(f"W&B {said}; logging offline instead")
        close_sdk()  # else the same id counts as in use
        self.mode = "offline"
        try:
            return self._open_as(self.mode, config)
        except Exception as error:
            say(f"W&B is off for this run ({first_line(error)}); {self.folder}/metrics.jsonl has every row")
            return None

    def _open_as(self, mode: Mode, config: Mapping[str, Any]) -> RunWriter:
        directory = Path(os.environ.get("WANDB_DIR") or self.folder)
        settings = sdk_settings(self.machine_info)
        settings.stop_fn = lambda: self._stop()  # no method: the SDK copies settings deeply
        return RunWriter(self.folder, config, self.record, mode=mode, directory=directory, settings=settings)

    def _catch_up(self, writer: RunWriter, first_epoch: int) -> None:
        """Send what the server lacks of the epochs before this start. `log` skips what it has of those after.

        A run that the server does not know may have earlier epochs too: it was offline then.
        """
        if reason := within(finish_timeout_s(), writer.consume):
            say(f"W&B did not take up what the run goes on from ({reason})")
        if writer.run.resumed:
            found: list[set[int]] = []
            if reason := within(finish_timeout_s(), lambda: found.append(set(delivered(self.record).epochs))):
                raise TimeoutError(reason)
            (writer.have,) = found
        for row in read_rows(self.folder):
            if row["epoch"] < first_epoch:
                self.log(row)

    def _deliver_what_is_left(self, record: RunRecord | None) -> None:
        """Nothing is left to train, but a process that was killed at the end of the run may have left a row unsent."""
        if record is None or self.mode not in ONLINE:
            return
        limit = finish_timeout_s() + INIT_TIMEOUT_S
        if reason := within(limit, lambda: say(f"W&B: {deliver(self.folder).sentence}")):
            say(f"W&B did not answer ({reason}); see what it lacks with `{command(self.folder)}`")

    def log(self, row: Row) -> None:
        if self._writer is None:
            return
        try:
            self._writer.send(row)
            self._send_table_aside(self._writer, int(row["epoch"]) + 1)
        except Exception as error:  # a tracker that breaks must not break training
            if not self._broken:
                say(f"W&B stopped taking rows ({first_line(error)}); {self.folder}/metrics.jsonl goes on")
            self._broken = True

    def _send_table_aside(self, writer: RunWriter, epochs: int) -> None:
        """The tables, when they are due: in a thread, since it asks the server, and never two at a time."""
        due = self.table_every and epochs % self.table_every == 0 and epochs < writer.config["epochs"]
        if not due or self._table.is_alive():
            return
        self._keep_media()
        if not writer.online:
            return
        self._table = threading.Thread(
            target=within, args=(finish_timeout_s(), writer.send_table), daemon=True
        )
        self._table.start()

    def alert(self, alert: Alert) -> None:
        """W&B sends it as the account's settings say, by mail or Slack; W&B itself holds back repetitions."""
        if self._writer is None:
            return
        try:
            self._writer.run.alert(title=alert.title, text=alert.text, level="WARN")
        except Exception as error:
            say(f"W&B did not take an alert ({first_line(error)})")

    def state_dict(self) -> dict[str, Any]:
        return {"wandb_run_id": self.record.id}

    def finish(self, exit_code: int) -> None:
        if self._writer is None:
            return
        self.record.exit_code = exit_code
        self.record.preempted = exit_code == PREEMPTED and not self._ended_on_purpose(self._writer)
        if self.mode != "disabled":
            self._keep_record()
        self._keep_media()
        self._close(self._writer, exit_code)

    def _stop(self) -> None:
        """W&B was told to end the run; the SDK calls this in a thread of its own."""
        self._stopped.set()
        say("W&B was told to stop this run")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _ended_on_purpose(self, writer: RunWriter) -> bool:
        """Whether a SIGTERM came because the run is not wanted any more. Then it must not go back in the queue.

        A machine that goes away and an agent that ends a trial look the same from here, so W&B is asked. The SDK's own
        look at it comes every 15 s, which is too late.
        """
        if self._stopped.is_set() or not writer.online:
            return self._stopped.is_set()
        answers: list[bool] = []
        if reason := within(ASK_S, lambda: answers.append(told_to_stop(self.record))):
            say(f"W&B did not say whether the run was stopped on purpose ({reason}); it counts as preempted")
        return any(answers)

    def _close(self, writer: RunWriter, exit_code: int) -> None:
        try:
            # tables and artifacts ask the server before they are sent, which may hang
            limit = min(finish_timeout_s(), STOPPED_S) if self.record.preempted else finish_timeout_s()
            if reason := within(limit, lambda: self._last_words(writer, exit_code)):
                say(f"W&B did not take the table ({reason}): send it with `{command(self.folder)}`")
            writer.finish(exit_code, preempted=self.record.preempted)
        except Exception as error:
            say(
                f"W&B did not take everything within {finish_timeout_s():g} s ({first_line(error)}): "
                f"send the rest with `{command(self.folder)}`"
            )
            return
        if self.mode == "offline":
            look = shlex.join(["wandb", "leet", str(writer.directory)])
            say(f"W&B: look at it with `{look}`, send it with `{command(self.folder)}`")

    def _last_words(self, writer: RunWriter, exit_code: int) -> None:
        if self._table.is_alive():
            self._table.join()  # an older table must not come last
        writer.send_table()
        if exit_code == 0 and self.record.artifacts:
            writer.send_artifacts()

    def _where(self, writer: RunWriter) -> str:
        if self.mode == "offline":
            return (
                "W&B: offline (no account needed); `wandb login` or WANDB_MODE=online sends runs to a server"
            )
        return "W&B: disabled" if self.mode == "disabled" else f"W&B: online at {writer.run.url}"


def _require_names(record: RunRecord) -> None:
    """Raises Refused for a name that W&B would not take."""
    require("--wandb_project", "project", record.project)
    require("--wandb_tags", "run_tags", record.tags)
    if len(record.name) > NAME_LIMIT:
        raise Refused(
            f"--run_name {record.name[:40]}...: W&B takes names of at most {NAME_LIMIT} characters, "
            f"this one has {len(record.name)}"
        )
    if record.artifacts:
        require_artifact_names(record.name)
