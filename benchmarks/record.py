"""Keeps a benchmark's figures in benchmarks/results/NAME.json, with what they were taken on."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch

from semi.device import conditions

FOLDER = Path(__file__).parent / "results"


def processor() -> str:
    """The name of this machine's processor, as its system gives it."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def rounded(value: object) -> object:
    """Numbers to five digits, those inside of lists and mappings too: more would be noise."""
    if isinstance(value, list):
        return [rounded(one) for one in value]
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def keep(name: str, figures: Sequence[Mapping[str, object]], device: torch.device | str = "cpu") -> Path:
    """Write `figures`, one mapping a line of the table, and return the file. What an earlier run left is replaced."""
    content = {
        "command": " ".join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        **conditions(torch.device(device)),
        "figures": [{name: rounded(value) for name, value in line.items()} for line in figures],
    }
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)
    return path
