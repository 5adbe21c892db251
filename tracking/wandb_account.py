"""Whether W&B is online, offline or off, found out without asking anybody."""

from __future__ import annotations

import netrc
import os
import sys
from pathlib import Path
from typing import Literal, cast, get_args
from urllib.parse import urlsplit

import wandb

Mode = Literal["online", "offline", "disabled"]
MODES = ("auto", *get_args(Mode))


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


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
