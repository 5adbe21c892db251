"""One W&B run beside the local folder. Only the modules wandb_* and workspace import wandb.

Training never depends on it: what goes wrong here is said once, in one line, and training goes on. What could not be
sent stays in the run's folder, and the message names the `wandb sync` command that sends it later: the whole run, so
rows that the server has already come again with the same values.

Bounds: a server that cannot be reached delays the start by at most INIT_TIMEOUT_S and some 12 s, an epoch by nothing,
and the end by FINISH_TIMEOUT_S twice, once for tables and once for rows. WANDB_INIT_TIMEOUT and WANDB_FINISH_TIMEOUT
set them.
"""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from wandb.sdk.lib import runid

from tracking.alerts import Alert
from tracking.base import Row
from tracking.local import read_rows
from tracking.online.account import (
    NAME_LIMIT,
    Mode,
    Refused,
    finish_timeout_s,
    first_line,
    require,
    resolve_mode,
    said,
    say,
    sdk_settings,
    told,
)
from tracking.online.artifacts import log_artifacts, require_artifact_names
from tracking.online.charts import custom_chart
from tracking.online.estimate import consume_estimate
from tracking.online.long_table import CHARTS, COLUMNS, TABLE_KEY, long_table
from tracking.online.timeout import within
from tracking.regime import regime_name

PREEMPTED = 128 + signal.SIGTERM  # the exit code of a run that was asked to stop


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
        machine_info: False keeps host name, hardware, paths, git remote and console output on this machine.
        artifacts: True uploads checkpoints and pseudo-labels when the run ended as planned.
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
        machine_info: bool = True,
        artifacts: bool = False,
        charts: bool = False,
        consumed: str = "",
    ) -> None:
        self.folder = folder
        self.mode = resolve_mode(mode)
        self.project = said("project", project, "darp")
        self.entity = said("entity", entity)
        self.group = said("run_group", group)
        self.name = said("run_name", folder.name) or ""
        self.job_type = said("run_job_type", "", "train")
        self.tags = [*(told().run_tags or ()), *tags]
        require("--wandb_project", "project", self.project)
        require("--wandb_tags", "run_tags", self.tags)
        if len(self.name) > NAME_LIMIT:
            raise Refused(
                f"--run_name {self.name[:40]}...: W&B takes names of at most {NAME_LIMIT} characters, "
                f"this one has {len(self.name)}"
            )
        if artifacts:
            require_artifact_names(self.name)
        self.machine_info = machine_info
        self.artifacts = artifacts
        self.charts = charts
        self.consumed = consumed
        self._config: Mapping[str, Any] = {}
        self._sent = -1  # the last epoch that the server has
        self._last = False  # whether the last row is on its way
        self._run: wandb.Run | None = None
        self._id = ""
        self._broken = False

    @property
    def online(self) -> bool:
        return self.mode in ("online", "shared")

    def start(self, config: Mapping[str, Any], state: Mapping[str, Any], first_epoch: int) -> None:
        self._config = config
        self._id = os.environ.get("WANDB_RUN_ID") or state.get("wandb_run_id") or runid.generate_id()
        try:
            self._run = self._init(config, self.mode)
        except Exception as error:  # the SDK raises many kinds here, not all of them wandb.Error
            say(f"W&B did not answer ({first_line(error)}); logging offline instead")
            wandb.teardown()  # else the same id counts as in use
            self.mode = "offline"
            try:
                self._run = self._init(config, self.mode)
            except Exception as second:
                say(
                    f"W&B is off for this run ({first_line(second)}); {self.folder}/metrics.jsonl has every row"
                )
                return
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")
        say(self._where())
        try:
            self._catch_up(first_epoch)
        except Exception as error:
            say(
                f"W&B did not take up the earlier epochs ({first_line(error)}); {self.folder}/metrics.jsonl has them"
            )

    def _catch_up(self, first_epoch: int) -> None:
        """After a resume, send what the server missed of the epochs before; `log` skips what it has of those after."""
        assert self._run is not None
        if self.consumed and self.online:
            self._run.use_artifact(self.consumed)
        if (estimate := self._config.get("estimate")) and self.online:
            run = self._run
            if reason := within(finish_timeout_s(), lambda: consume_estimate(run, estimate)):
                say(f"W&B did not take up the estimate ({reason}); it is in {estimate}")
        if not self._run.resumed:
            return
        epoch = self._run.summary.get("epoch")
        self._sent = int(epoch) if epoch is not None else -1
        for row in read_rows(self.folder):
            if row["epoch"] < first_epoch:
                self.log(row)

    def _init(self, config: Mapping[str, Any], mode: Mode) -> wandb.Run:
        directory = os.environ.get("WANDB_DIR") or str(self.folder)
        Path(directory).mkdir(parents=True, exist_ok=True)
        return wandb.init(
            project=self.project,
            entity=self.entity,
            id=self._id,
            resume="allow",
            mode=mode,
            dir=directory,
            name=self.name,
            group=self.group or regime_name(config),
            job_type=self.job_type,
            tags=[*self.tags, *own_tags(config)],
            config={k: v for k, v in config.items() if v is not None},
            settings=sdk_settings(self.machine_info),
        )

    def log(self, row: Row) -> None:
        if self._run is None or row["epoch"] <= self._sent:
            return
        try:
            encoded = {k: encode(v) for k, v in row.items()}
            self._last = row["epoch"] == self._config["epochs"] - 1
            self._run.log(
                encoded, commit=not self._last
            )  # the last row waits for the table, which `finish` adds
        except Exception as error:  # a tracker that breaks must not break training
            if not self._broken:
                say(f"W&B stopped taking rows ({first_line(error)}); {self.folder}/metrics.jsonl goes on")
            self._broken = True

    def _table(self) -> dict[str, Any]:
        """The long table of the whole run, and the charts that draw from it."""
        assert self._run is not None
        config = self._config
        lines = long_table(
            read_rows(self.folder),
            config["class_names"],
            regime_name(config),
            config["refine"],
        )
        table = wandb.Table(columns=list(COLUMNS), data=lines)
        if not (self.charts and self.online):
            return {TABLE_KEY: table}
        charts = {f"charts/{chart.name}": custom_chart(table, chart, self._run.entity) for chart in CHARTS}
        return {TABLE_KEY: table, **charts}

    def alert(self, alert: Alert) -> None:
        """W&B sends it as the account's settings say, by mail or Slack; W&B itself holds back repetitions."""
        if self._run is None:
            return
        try:
            self._run.alert(title=alert.title, text=alert.text, level="WARN")
        except Exception as error:
            say(f"W&B did not take an alert ({first_line(error)})")

    def state_dict(self) -> dict[str, Any]:
        return {"wandb_run_id": self._id}

    def finish(self, exit_code: int) -> None:
        if self._run is None:
            return
        directory = Path(self._run.dir).parent.resolve()
        online = "--no-skip-online " if self.online else ""  # sync takes offline runs only, unless told
        sync = f"wandb sync {online}{shlex.quote(str(directory))}"
        try:
            if exit_code == PREEMPTED:
                self._run.mark_preempting()  # a sweep puts the trial back in its queue
            else:
                # tables and artifacts ask the server before they are sent, which may hang
                if reason := within(finish_timeout_s(), lambda: self._finish_tables(exit_code)):
                    say(
                        f"W&B did not take the table of pseudo-labels ({reason}); {self.folder} has its figures"
                    )
            self._run.finish(exit_code=exit_code)
        except Exception as error:
            say(f"W&B did not take everything within {finish_timeout_s():g} s ({first_line(error)}): {sync}")
            return
        if self.mode == "offline":
            say(f"W&B: look at it with `wandb leet {shlex.quote(str(directory))}`, send it with `{sync}`")

    def _finish_tables(self, exit_code: int) -> None:
        """The long table, with the last row or, of a run that ended early, in the summary; and the artifacts."""
        assert self._run is not None
        if self._last:
            self._run.log(self._table())
        else:
            self._run.summary.update(self._table())
        if exit_code == 0 and self.artifacts:
            log_artifacts(self._run, self.folder, self._config["run_name"])

    def _where(self) -> str:
        assert self._run is not None
        if self.mode == "offline":
            return (
                "W&B: offline (no account needed); `wandb login` or WANDB_MODE=online sends runs to a server"
            )
        return "W&B: disabled" if self.mode == "disabled" else f"W&B: online at {self._run.url}"


def encode(value: Any) -> Any:
    """A list of class counts becomes a histogram whose bins are the classes; W&B re-bins nothing."""
    if isinstance(value, list):
        return wandb.Histogram(np_histogram=(np.array(value), np.arange(len(value) + 1) - 0.5))
    return value


def own_tags(config: Mapping[str, Any]) -> list[str]:
    """Data set, method and refinement; `capped` where a class had fewer images than were asked for."""
    capped = any(
        config.get(f"{name}_counts_asked") != config.get(f"{name}_counts")
        for name in ("labeled", "unlabeled")
    )
    tags = [config["dataset"], config["semi_method"], config["refine"]]
    return [*tags, "capped"] if capped else tags
