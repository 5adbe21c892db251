"""Checkpoints: written whole or not at all, read without running anything that they hold."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

FORMAT = 2  # 2: another shortcut in WRN-28-2, another order of the unlabeled images


class CheckpointError(ValueError):
    """A checkpoint that cannot be used. The message is one line and names file and remedy."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, plain values, lists and dicts); a crash leaves the old file or the new, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        torch.save({"format": FORMAT, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def link(path: Path, name: Path) -> None:
    """Let `name` be the file at `path` as it is now; `save` puts a new file in place and leaves this one alone."""
    temporary = name.with_name(name.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, temporary)
    os.replace(temporary, name)


def load(path: Path, said: str = "--resume ") -> dict[str, Any]:
    """The state that `save` wrote, on the CPU. Only tensors and plain values are read, never pickled objects.

    `said` stands before the path in an error's message: the flag that named it.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{said}{path}: no such file; use a run's checkpoint.pt") from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{said}{path}: not a readable checkpoint ({reason}); use a checkpoint.pt of this tool"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{said}{path}: not a checkpoint of this tool's format {FORMAT}")
    return state


def random_state() -> dict[str, Any]:
    """State of torch's global generators, CPU and every visible GPU. Nothing else draws random numbers here."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
