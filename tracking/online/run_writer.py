"""Fills one W&B run from a run's folder: rows, the long table, artifacts, how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import wandb

from tracking.base import Row
from tracking.local import read_rows
from tracking.media import Media, read_media
from tracking.online import media
from tracking.online.account import Mode
from tracking.online.artifacts import log_artifacts
from tracking.online.charts import show_charts
from tracking.online.estimate import consume_estimate
from tracking.online.long_table import COLUMNS, TABLE_KEY, long_table
from tracking.online.run_record import RunRecord
from tracking.regime import regime_name
from tracking.row import is_among_few

ONLINE = ("online", "shared")
CONSTANT = (
    "target",
    "true",
)  # their shares do not change: hidden, so that W&B opens no panel for a flat line

# Of config.yaml: for those who read run folders. W&B records the machine itself.
KEPT_HERE = ("field_kinds", "starts")


class RunWriter:
    """One open W&B run. Rows that the server has (`have`) are not sent again.

    Args:
        folder: the run's folder, whose metrics.jsonl the long table is made of.
        config: the whole configuration, as in config.yaml.
        directory: where W&B's own files go.

    Raises one of many kinds of errors of the SDK where the run cannot be opened.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        record: RunRecord,
        *,
        mode: Mode,
        directory: Path,
        settings: wandb.Settings,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.folder, self.config, self.record, self.mode = folder, config, record, mode
        self.have: set[int] = set()
        self._open_row = False
        self.run = wandb.init(
            project=record.project,
            entity=record.entity or None,
            id=record.id,
            resume="allow",
            mode=mode,
            dir=str(directory),
            name=record.name,
            group=record.group or regime_name(config),
            job_type=record.job_type,
            notes=record.notes or None,
            tags=[*record.tags, *own_tags(config)],
            config={k: v for k, v in config.items() if v is not None and k not in KEPT_HERE} | record.config,
            settings=settings,
        )
        self.run.define_metric("epoch", hidden=True)
        self.run.define_metric("*", step_metric="epoch")
        for key in self._constant():
            self.run.define_metric(key, step_metric="epoch", hidden=True)
        for key, kind in record.summary.items():
            self.run.define_metric(key, step_metric="epoch", summary=kind)
        if record.charts and self.online:
            show_charts(self.run)

    @property
    def online(self) -> bool:
        return self.mode in ONLINE

    @property
    def directory(self) -> Path:
        """W&B's files of this run."""
        return Path(self.run.dir).parent.resolve()

    def consume(self) -> None:
        """Record the lineage: the checkpoint that the run goes on from, and the estimate that it aims at."""
        if self.record.consumed:
            self.run.use_artifact(self.record.consumed)
        if estimate := self.config.get("estimate"):
            consume_estimate(self.run, estimate)

    def send(self, row: Row) -> None:
        """One epoch. The last one stays open for the table, which `send_table` adds to it."""
        if row["epoch"] in self.have:
            return
        last = row["epoch"] == self.config["epochs"] - 1
        views = media.views(self._media()) if not self.have else {}  # once, with the first row of the run
        self.run.log(self._sent(row) | views, commit=not last)
        self.have.add(int(row["epoch"]))
        self._open_row = last

    def send_table(self) -> None:
        """The long table and the tables of the pictures, new and whole: with the last row while that is open, else in
        the summary.

        Asks the server, which may hang.
        """
        long = wandb.Table(columns=list(COLUMNS), data=table_lines(self.folder, self.config))
        tables = {TABLE_KEY: long} | media.tables(self._media(), self.config["class_names"])
        media.show_confusions(self.run, tables)
        if self._open_row:
            self._open_row = False
            self.run.log(tables)
        else:
            self.run.summary.update(tables)

    def _media(self) -> Media:
        """The newest pictures in the run's folder, where the run is to show them."""
        return read_media(self.folder) if self.record.media else Media()

    def send_summary(self, row: Row) -> None:
        """The values of the last epoch, where other rows were sent after it."""
        last = {key: value for key, value in self._sent(row).items() if key not in self.record.summary}
        self.run.summary.update(last)

    def _constant(self) -> list[str]:
        """Keys of shares that stay what they are. By name: W&B's core does not hand a pattern's `hidden` on."""
        keys = (f"pseudo/{table}/{k}" for table in CONSTANT for k in range(len(self.config["class_names"])))
        return [key for key in keys if self._sends(key)]

    def _sends(self, key: str) -> bool:
        return self.record.per_class == "all" or is_among_few(key, len(self.config["class_names"]))

    def _sent(self, row: Row) -> dict[str, Any]:
        """What of a row the run gets, as W&B takes it."""
        return {key: encode(value) for key, value in row.items() if self._sends(key)}

    def send_artifacts(self) -> None:
        log_artifacts(self.run, self.folder, self.config["run_name"])

    def finish(self, exit_code: int, *, preempted: bool = False) -> None:
        if preempted:
            self.run.mark_preempting()  # a sweep puts the trial back in its queue
        self.run.finish(exit_code=exit_code)


def table_lines(folder: Path, config: Mapping[str, Any]) -> list[list[Any]]:
    """The lines of the long table of a run's folder."""
    return long_table(read_rows(folder), config["class_names"], regime_name(config), config["refine"])


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
