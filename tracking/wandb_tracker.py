"""One W&B run beside the local folder. The only module that imports wandb, besides tracking.workspace.

Training never depends on it: what goes wrong here is said once, in one line, and training goes on. What could not be
sent stays in the run's folder, and the message names the `wandb sync` command that sends it later.
"""

from __future__ import annotations

import netrc
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args
from urllib.parse import urlsplit

import numpy as np
import wandb
from wandb.sdk.lib import runid

from tracking.base import Row

Mode = Literal["online", "offline", "disabled"]
MODES = ("auto", *get_args(Mode))
INIT_TIMEOUT_S = 15
FINISH_TIMEOUT_S = 60
FLUSH_S = 1.0  # a killed run loses at most about this much; the SDK's own interval is 15 s


class WandbTracker:
    """Logs each row in one call, with the epoch as step metric, and class shares also as histograms.

    The environment's WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, WANDB_RUN_GROUP, WANDB_NAME, WANDB_TAGS, WANDB_JOB_TYPE,
    WANDB_RUN_ID and WANDB_DIR win over the arguments: agents and schedulers speak through them.

    Args:
        folder: the run's folder; W&B's own files go to `folder/wandb`.
        mode: online, offline, disabled, or auto: online with an account (a stored key), else offline.
        project, entity: empty for W&B's own default (entity) or "darp" (project).
        group: empty for the regime: data set, ratio, num_max and imbalance.
        tags: beside the run's own (data set, method, refinement).
        machine_info: False keeps host name, hardware, paths, git remote and console output on this machine.
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
    ) -> None:
        self.folder = folder
        self.mode = resolve_mode(os.environ.get("WANDB_MODE") or mode)
        self.project = os.environ.get("WANDB_PROJECT") or project or "darp"
        self.entity = os.environ.get("WANDB_ENTITY") or entity or None
        self.group = os.environ.get("WANDB_RUN_GROUP") or group
        self.tags = tags
        self.machine_info = machine_info
        self._run: wandb.Run | None = None
        self._id = ""
        self._broken = False

    def start(self, config: Mapping[str, Any], state: Mapping[str, Any], first_epoch: int) -> None:
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
                say(f"W&B is off for this run ({first_line(second)}); {self.folder}/metrics.jsonl has every row")
                return
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")
        say(self._where())

    def _init(self, config: Mapping[str, Any], mode: Mode) -> wandb.Run:
        directory = os.environ.get("WANDB_DIR") or str(self.folder)
        Path(directory).mkdir(parents=True, exist_ok=True)
        environment_tags = [t for t in os.environ.get("WANDB_TAGS", "").split(",") if t]
        return wandb.init(
            project=self.project,
            entity=self.entity,
            id=self._id,
            resume="allow",
            mode=mode,
            dir=directory,
            name=os.environ.get("WANDB_NAME") or config["run_name"],
            group=self.group or regime_name(config),
            job_type=os.environ.get("WANDB_JOB_TYPE") or "train",
            tags=[*environment_tags, *self.tags, *own_tags(config)],
            config={k: v for k, v in config.items() if v is not None},
            settings=self._settings(),
        )

    def _settings(self) -> wandb.Settings:
        settings: dict[str, Any] = {
            "init_timeout": INIT_TIMEOUT_S,
            "finish_timeout": FINISH_TIMEOUT_S,
            "finish_timeout_raises": True,
            "x_transaction_log_flush_interval": FLUSH_S,
            "x_file_stream_transmit_interval": FLUSH_S,
            "silent": True,  # this class says where the run is, in one line
        }
        if not self.machine_info:
            settings |= {
                "x_disable_meta": True,
                "x_disable_stats": True,
                "x_disable_machine_info": True,
                "x_save_requirements": False,
                "program": Path(sys.argv[0]).name,
                "disable_git": True,
                "disable_code": True,
                "console": "off",
            }
        return wandb.Settings(**settings)

    def log(self, row: Row) -> None:
        if self._run is None:
            return
        try:
            self._run.log({key: encode(value) for key, value in row.items()})
        except Exception as error:  # a tracker that breaks must not break training
            if not self._broken:
                say(f"W&B stopped taking rows ({first_line(error)}); {self.folder}/metrics.jsonl goes on")
            self._broken = True

    def state_dict(self) -> dict[str, Any]:
        return {"wandb_run_id": self._id}

    def finish(self, exit_code: int) -> None:
        if self._run is None:
            return
        directory = Path(self._run.dir).parent
        try:
            self._run.finish(exit_code=exit_code)
        except Exception as error:
            say(f"W&B did not take everything within {FINISH_TIMEOUT_S} s ({first_line(error)}): wandb sync {directory}")
            return
        if self.mode == "offline":
            say(f"W&B: look at it with `wandb leet {directory}`, send it with `wandb sync {directory}`")

    def _where(self) -> str:
        assert self._run is not None
        if self.mode == "offline":
            return "W&B: offline (no account needed); `wandb login` or WANDB_MODE=online sends runs to a server"
        return "W&B: disabled" if self.mode == "disabled" else f"W&B: online at {self._run.url}"


def resolve_mode(mode: str) -> Mode:
    """`auto` becomes online where a key is stored, else offline: there is never a prompt."""
    if mode == "dryrun":  # an old name that W&B still takes
        return "offline"
    if mode not in MODES:
        say(f"WANDB_MODE {mode}: not one of {', '.join(MODES)}; logging offline")
        return "offline"
    if mode != "auto":
        return cast(Mode, mode)
    return "online" if has_account() else "offline"


def has_account() -> bool:
    """Whether W&B credentials are at hand: in the environment, or stored by `wandb login`. Asks no server."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    stored = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    host = urlsplit(wandb.Settings().base_url).hostname or ""
    try:
        return netrc.netrc(stored).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def encode(value: Any) -> Any:
    """A list of class counts becomes a histogram whose bins are the classes; W&B re-bins nothing."""
    if isinstance(value, list):
        return wandb.Histogram(np_histogram=(np.array(value), np.arange(len(value) + 1) - 0.5))
    return value


def regime_name(config: Mapping[str, Any]) -> str:
    """Runs of one regime share it: data set, labels and imbalance, whatever the method, refinement or seed."""
    reversed_u = "rev" if config["imb_ratio_u_reversed"] else ""
    return (
        f"{config['dataset']}_r{config['ratio']:g}_n{config['num_max']}"
        f"_il{config['imb_ratio_l']:g}_iu{config['imb_ratio_u']:g}{reversed_u}"
    )


def own_tags(config: Mapping[str, Any]) -> list[str]:
    return [config["dataset"], config["semi_method"], "darp" if config["darp"] else "plain"]


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr)
