"""Flags of a training on the command line of a program that reads a finished run.

The original's scripts ask for the training's flags again. Here the checkpoint holds them, so they are only compared.
"""

from __future__ import annotations

from collections.abc import Sequence

from semi.cli import given_values
from semi.config import Config, ConfigError, fields_of_kind


def refuse_contradictions(words: Sequence[str], config: Config, ours: str) -> None:
    """Accept flags that say what the run's `config` says.

    Args:
        words: the command line without the program's own flags.
        config: of the run.
        ours: what the program does instead of following such flags, for the message.

    Raises ConfigError, one line: for a flag that nobody knows, for one that the run has no answer to (`--out`,
    `--resume`), or for a value that is not the run's.
    """
    given, unknown = given_values(words, Config)
    if unknown:
        raise ConfigError(f"unknown argument {unknown[0]}; {ours}")
    for name in fields_of_kind(Config, "incidental"):
        if name in given:
            raise ConfigError(f"--{name} {given[name]}: not used here, leave it out; {ours}")
    for name, value in given.items():
        if value != getattr(config, name):
            raise ConfigError(
                f"--{name} {value}: the run was trained with {getattr(config, name)}; leave it out, {ours}"
            )
