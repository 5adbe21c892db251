"""Checkpoints: written whole or not at all, checked bit by bit, read without running anything that they hold."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from tracking.local import replacing, temporary_name

FORMAT = 3  # 2: another shortcut in WRN-28-2, another order of the unlabeled images; 3: also in the middle of an epoch
READABLE_FORMATS = (2, 3)
CHECKPOINT_FILE, PREVIOUS_FILE, BEST_FILE = "checkpoint.pt", "checkpoint.prev.pt", "best.pt"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used. The message is one line and names file and remedy."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, plain values, lists and dicts); a crash leaves the old file or the new, never a part.

    Raises OSError when it cannot be written; the old file is then as it was.
    """
    content = io.BytesIO()  # torch turns the OSError of a full disk into a RuntimeError of its own
    torch.save({"format": FORMAT, **state}, content)
    with replacing(path) as file:
        file.write(content.getbuffer())


def link(path: Path, name: Path) -> None:
    """Let `name` be the file at `path` as it is now; `save` puts a new file in place and leaves this one alone."""
    temporary = temporary_name(name)
    try:
        try:
            os.link(path, temporary)
        except FileNotFoundError:
            raise
        except OSError:  # a file system without hard links
            shutil.copyfile(path, temporary)
        os.replace(temporary, name)
    finally:
        temporary.unlink(missing_ok=True)  # it is there after an error, and where both were one file already


def load(path: Path, said: str = "--resume ") -> dict[str, Any]:
    """The state that `save` wrote, on the CPU. Only tensors and plain values are read, never pickled objects.

    `said` stands before the path in an error's message: the flag that named it.
    """
    try:
        _check_sums(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{said}{path}: no such file; use a run's {CHECKPOINT_FILE}") from None
    except OSError as error:
        raise CheckpointError(
            f"{said}{path}: not a readable checkpoint ({error.strerror or error}); "
            f"use a {CHECKPOINT_FILE} of this tool"
        ) from None
    except (
        Exception
    ) as error:  # a damaged or foreign file fails anywhere in the readers of zip files and pickles
        raise CheckpointError(
            f"{said}{path}: not a readable checkpoint ({_reason(error)}); use a {CHECKPOINT_FILE} of this tool"
        ) from None
    if not isinstance(state, dict) or state.get("format") not in READABLE_FORMATS:
        raise CheckpointError(
            f"{said}{path}: not a checkpoint of this tool's format {FORMAT}; use a {CHECKPOINT_FILE} that it wrote"
        )
    return state


def peek(path: Path) -> dict[str, Any]:
    """What `load` gives, without reading or checking the tensors; of a file that `save` has just written."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return state


def _check_sums(path: Path) -> None:
    """Compare every record with the CRC-32 that torch wrote beside it and does not read back."""
    with zipfile.ZipFile(path) as records:
        if (damaged := records.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged!r} does not fit")


def _reason(error: Exception) -> str:
    """What is wrong with the file. torch's own text is not passed on: it advises to switch its protection off."""
    if isinstance(error, zipfile.BadZipFile):
        return f"damaged: {str(error).splitlines()[0]}" if str(error) else "damaged"
    return f"it holds other things than tensors and plain values, or is damaged: {type(error).__name__}"


def random_state() -> dict[str, Any]:
    """State of torch's global generators, CPU and every visible GPU. Nothing else draws random numbers here."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
