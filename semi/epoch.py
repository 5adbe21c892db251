"""What an epoch in progress has summed up so far; a checkpoint in its middle keeps it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from semi.device import Stopwatch
from semi.distributed import Ranks
from semi.methods import Losses


class EpochSoFar:
    """Sums over the steps of one epoch, on `device`: nothing waits for it until they are read.

    Attributes:
        step: number of steps that are done.
        watch: charges the time of each step.
    """

    def __init__(self, device: torch.device, state: Mapping[str, Any] | None = None) -> None:
        state = state or {}
        self.step = int(state.get("step", 0))
        self.watch = Stopwatch(device)
        self._sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=device))
        self._sums.update({name: total.to(device) for name, total in state.get("sums", {}).items()})
        self._seconds: dict[str, float] = defaultdict(float, state.get("seconds", {}))
        self._begin = time.perf_counter() - float(state.get("elapsed", 0.0))

    def add(self, losses: Losses) -> None:
        for part in fields(losses):
            if (value := getattr(losses, part.name)) is not None:
                self._sums[part.name] += value.detach()
        self.step += 1

    def losses(self, ranks: Ranks) -> dict[str, float]:
        """The mean of each loss over the steps and processes. Waits for the device."""
        totals = ranks.sum_(torch.stack(list(self._sums.values()))).tolist()
        return {
            name: total / (self.step * ranks.size) for name, total in zip(self._sums, totals, strict=True)
        }

    def total(self) -> Tensor:
        """Sum of the losses that were minimised, on the device; not finite as soon as one of them was not."""
        return self._sums["total"]

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Charge the time of the block to `name`, and none of it to a part of the step."""
        begin = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - begin
        self.watch.start()

    def seconds(self) -> dict[str, float]:
        """Time that was charged to each name: the parts of the step, and `timed` blocks. Waits for the device."""
        for name, value in self.watch.read().items():
            self._seconds[name] += value
        return dict(self._seconds)

    def elapsed(self) -> float:
        """Seconds since the epoch began, without those between a kill and the resume."""
        return time.perf_counter() - self._begin

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "sums": dict(self._sums),
            "seconds": self.seconds(),
            "elapsed": self.elapsed(),
        }
