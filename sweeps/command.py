"""The command line of a trial: W&B's macros, filled in as `wandb agent` 0.31.0 fills them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
ARGUMENTS = (
    "args",
    "args_no_boolean_flags",
    "args_no_hyphens",
    "args_no_equals",
    "args_append_hydra",
    "args_override_hydra",
    "args_json",
    "args_json_file",
)
MACROS = ("${env}", "${interpreter}", "${program}", *(f"${{{name}}}" for name in ARGUMENTS))
VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")


def refuse_command(command: Any, program: str) -> None:
    """Raises ValueError, one line, for a command that no agent could start."""
    scalar = (str, int, float)
    if not isinstance(command, list) or not command or not all(isinstance(part, scalar) for part in command):
        raise ValueError("command: use a list, one item for each word")
    for part in map(str, command):
        if "\0" in part:
            raise ValueError("command: a word holds a NUL character; take it out")
        if "${" in VARIABLE.sub("", part) and part not in MACROS:
            raise ValueError(
                f"command: {part}: a macro must be a whole item, one of {' '.join(MACROS)}; "
                "only ${envvar:NAME} may stand within one"
            )
    if "${program}" in command and not program:
        raise ValueError("the key program is missing: the command has ${program}")


def as_flags(trial: Mapping[str, Any], *, boolean_flags: bool = True) -> list[str]:
    """The words that an agent passes: `--name=value`; with `boolean_flags`, true is `--name` and false is nothing."""
    words = []
    for name, value in trial.items():
        if boolean_flags and isinstance(value, bool):
            words += [f"--{name}"] if value else []
        else:
            words.append(f"--{name}={value}")
    return words


def command_of(
    command: tuple[str, ...],
    program: str,
    trial: Mapping[str, Any],
    interpreter: str,
    json_file: Path | None = None,
) -> list[str]:
    """The words of a trial's command.

    json_file: where ${args_json_file} points; the caller writes `as_json(trial)` there.
    """
    flags = as_flags(trial, boolean_flags=False)
    filled: dict[str, list[str]] = {
        "${env}": ["/usr/bin/env"],
        "${interpreter}": [interpreter],
        "${program}": [program],
        "${args}": flags,
        "${args_no_boolean_flags}": as_flags(trial),
        "${args_no_hyphens}": [flag[2:] for flag in flags],
        "${args_no_equals}": [word for name, value in trial.items() for word in (f"--{name}", str(value))],
        "${args_append_hydra}": [f"+{flag[2:]}" for flag in flags],
        "${args_override_hydra}": [f"++{flag[2:]}" for flag in flags],
        "${args_json}": [as_json(trial)],
        "${args_json_file}": [str(json_file)],
    }
    return [
        word for part in command for word in (filled[part] if part in filled else [_with_variables(part)])
    ]


def as_json(trial: Mapping[str, Any]) -> str:
    return json.dumps(trial)


def _with_variables(part: str) -> str:
    """${envvar:NAME} becomes the variable's value; the name alone where there is none, as with an agent."""
    return VARIABLE.sub(lambda found: os.environ.get(found[1], found[1]), part)
