"""What the user told W&B, and whether it is online, offline or off: found out without asking anybody."""

from __future__ import annotations

import netrc
import os
import sys
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import wandb
from wandb.sdk import wandb_setup

from tracking.online.timeout import first_line

Mode = Literal["online", "shared", "offline", "disabled"]
OLD_MODES = {"dryrun": "offline", "run": "online"}  # names that W&B still takes
VARIABLES = {
    "run_name": "WANDB_NAME",
    "run_notes": "WANDB_NOTES",
    "run_tags": "WANDB_TAGS",
    "run_job_type": "WANDB_JOB_TYPE",
}
NAME_LIMIT = 128  # characters in a run's name, by the service's own rule; the SDK does not check it
INIT_TIMEOUT_S = 15
FINISH_TIMEOUT_S = 60
FLUSH_S = 1.0  # a killed run loses at most about this much; the SDK's own interval is 15 s


class Refused(ValueError):
    """A value that W&B does not take. The message is one line: where it stands, the value, W&B's reason."""


def told() -> wandb.Settings:
    """What `wandb.init()` will go by: the WANDB_* variables, then the settings files of this folder and this user.

    `wandb init`, `wandb offline`, `wandb disabled` and `wandb login` write those files.

    Raises Refused when a variable holds what W&B does not take.
    """
    try:
        return wandb_setup.singleton().settings
    except (ValueError, wandb.errors.UsageError) as error:
        raise Refused(_variable_of(error) + reason(error)) from None


def said(setting: str, flag: str | None, default: str | None = None) -> str | None:
    """A setting by who may speak first: its WANDB_* variable, the flag, W&B's settings files, the default."""
    known: str | None = getattr(told(), setting)
    variable = VARIABLES.get(setting, f"WANDB_{setting.upper()}")
    return known if os.environ.get(variable) else flag or known or default


def require(spoken: str, setting: str, value: Any) -> None:
    """Raises Refused where the SDK's own rules refuse the value. `spoken` names the flag that gave it."""
    try:
        wandb.Settings(**{setting: value})
    except (ValueError, wandb.errors.UsageError) as error:
        raise Refused(f"{spoken}: {reason(error)}") from None


def _variable_of(error: Exception) -> str:
    """`WANDB_TAGS: ` where the SDK's validation names a setting; its other errors name the value themselves."""
    if not hasattr(error, "errors"):
        return ""
    setting = str(error.errors()[0]["loc"][0])
    return f"{VARIABLES.get(setting, f'WANDB_{setting.upper()}')}: "


def reason(error: Exception) -> str:
    """Why the SDK refused a setting, in one line."""
    if hasattr(error, "errors"):
        found = error.errors()[0]
        return f"{str(found['msg']).removeprefix('Value error, ')}, not {str(found['input'])[:80]!r}"
    return first_line(error)


def resolve_mode(mode: str) -> Mode:
    """The mode of WANDB_MODE, else the flag's, else of W&B's settings files, else online where a key is stored.

    Without a key `auto` never becomes online: there is no prompt.
    """
    settings = told()
    if os.environ.get("WANDB_MODE") or (
        mode == "auto" and settings.mode in ("offline", "dryrun", "disabled")
    ):
        mode = settings.mode
    elif mode == "auto":
        mode = settings.mode if has_account() else "offline"
    return cast(Mode, OLD_MODES.get(mode, mode))


def has_account() -> bool:
    """Whether W&B credentials are at hand: in the environment, or stored by `wandb login`. Asks no server."""
    settings = told()
    if settings.api_key or settings.identity_token_file:
        return True
    stored = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        return netrc.netrc(stored).authenticators(urlsplit(settings.base_url).hostname or "") is not None
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
