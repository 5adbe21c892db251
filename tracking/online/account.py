"""Whether W&B is online, offline or off, found out without asking anybody."""

from __future__ import annotations

import netrc
import os
import sys
from pathlib import Path
from typing import Any, Literal, cast, get_args
from urllib.parse import urlsplit

import wandb

Mode = Literal["online", "offline", "disabled"]
MODES = ("auto", *get_args(Mode))
INIT_TIMEOUT_S = 15
FINISH_TIMEOUT_S = 60
FLUSH_S = 1.0  # a killed run loses at most about this much; the SDK's own interval is 15 s


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


def sdk_settings(machine_info: bool) -> wandb.Settings:
    """Bounds on how long the SDK may wait, rows written each second, no banner; without `machine_info`, what would
    tell of this machine stays here."""
    settings: dict[str, Any] = {
        "init_timeout": float(os.environ.get("WANDB_INIT_TIMEOUT") or INIT_TIMEOUT_S),
        "finish_timeout": finish_timeout_s(),
        "finish_timeout_raises": True,
        "x_transaction_log_flush_interval": FLUSH_S,
        "x_file_stream_transmit_interval": FLUSH_S,
        "silent": True,  # this program says where the run is, in one line
    }
    if not machine_info:
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


def finish_timeout_s() -> float:
    return float(os.environ.get("WANDB_FINISH_TIMEOUT") or FINISH_TIMEOUT_S)


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
