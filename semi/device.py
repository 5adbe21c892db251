"""Which device, what time passed on it, and what else figures depend on beside the configuration."""

from __future__ import annotations

import os
import platform
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy
import torch

from semi.config import require_gpu
from tracking.local import checkout_commit


def pick_device(gpu: str) -> tuple[torch.device, str]:
    """(device, a sentence to print, empty when the wish was met). `gpu` counts among the visible devices.

    Raises ConfigError where it is no number.
    """
    require_gpu(gpu)
    if gpu in ("", "cpu"):
        return torch.device("cpu"), ""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        return torch.device("cpu"), f"--gpu {gpu}: no GPU is visible here; using the CPU instead"
    if int(gpu) >= count:
        return torch.device(
            "cuda", 0
        ), f"--gpu {gpu}: {count} GPU(s) visible here, numbered from 0; using GPU 0 instead"
    return torch.device("cuda", int(gpu)), ""


def choose_algorithms(device: torch.device, deterministic: bool) -> None:
    """The fastest convolutions for the shapes at hand, or those that give the same bits each time. For a GPU alone."""
    if device.type != "cuda":
        return
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what CUDA's matrix products ask for
        torch.use_deterministic_algorithms(True, warn_only=True)


def computes_in_bf16(amp: str, device: torch.device) -> bool:
    """Whether the network computes in bfloat16 under `--amp`: `auto` takes it where a GPU has it."""
    has_it = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return amp == "bf16" or (amp == "auto" and has_it)


def about_bf16(amp: str, device: torch.device, arch: str) -> str:
    """One sentence where another `--amp` may be faster, or the one that was asked for is slow; empty elsewhere."""
    if device.type == "cuda":
        has_it = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_it = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if amp == "bf16" and not has_it:
        return f"--amp bf16: {device} has no bfloat16 arithmetic, which makes this slower than --amp off"
    if amp == "auto" and has_it and device.type == "cpu" and arch == "wrn28_2":
        return (
            "this CPU has bfloat16 arithmetic, which --amp bf16 would use: a step of wrn28_2 took half the time on an "
            "AMD Zen 4 and 1.0 to 1.3 times as long on an Intel Xeon, so try both for an epoch"
        )
    return ""


def conditions(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """What a run's figures depend on beside its configuration, as plain values."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "commit": checkout_commit(Path(__file__).parents[1]),  # ends in -dirty where files differ from it
        "threads": torch.get_num_threads(),
        "device": name,
        "processes": processes,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
    }


class Stopwatch:
    """Charges the time since the last mark to a name. On a GPU the marks are events on its stream: no waiting.

    Its making is the first mark on a CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event]] = []
        self._last = time.perf_counter()

    def start(self) -> None:
        self.charge("")

    def charge(self, name: str) -> None:
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self.device))
            self._events.append((name, event))
        else:
            now = time.perf_counter()
            self._seconds[name] += now - self._last
            self._last = now

    def read(self) -> dict[str, float]:
        """Seconds by name since the last reading. On a GPU this waits once for the marks to be reached."""
        if self._events:
            self._events[-1][1].synchronize()
            for (_, before), (name, after) in zip(self._events, self._events[1:], strict=False):
                self._seconds[name] += before.elapsed_time(after) / 1000
        seconds = {name: value for name, value in self._seconds.items() if name}
        self._events, self._seconds = [], defaultdict(float)
        return seconds


class NoStopwatch(Stopwatch):
    """Takes no time, for what is recorded on a GPU: a mark there would be part of the recording."""

    def __init__(self) -> None:
        pass

    def charge(self, name: str) -> None:
        pass
