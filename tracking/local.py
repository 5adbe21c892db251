"""A run's own folder: config.yaml and metrics.jsonl. Nothing in it needs a network or this program to be read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tracking.base import Row


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that a crash leaves the old file or the new, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def encode_row(row: Row) -> str:
    """One line of JSON. Numbers that JSON does not know (nan, inf) become null."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(finite) + "\n"


class LocalTracker:
    """Writes `folder/config.yaml` at the start and one line of `folder/metrics.jsonl` an epoch, flushed to disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, config: Mapping[str, Any], state: Mapping[str, Any], first_epoch: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))
        metrics = self.folder / "metrics.jsonl"
        if (
            metrics.exists()
        ):  # epochs after the checkpoint run again: their old rows go, so that none is doubled
            write_atomically(
                metrics, "".join(f"{line}\n" for line in kept_lines(metrics.read_text(), first_epoch))
            )

    def log(self, row: Row) -> None:
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(encode_row(row))
            file.flush()
            os.fsync(file.fileno())

    def state_dict(self) -> dict[str, Any]:
        return {}

    def finish(self, exit_code: int) -> None:
        pass


def kept_lines(text: str, first_epoch: int) -> list[str]:
    """The lines of epochs before `first_epoch`; a torn last line (no newline after it) is not a row."""
    lines = [line for line in text.split("\n")[:-1] if line]
    return [line for line in lines if json.loads(line)["epoch"] < first_epoch]
