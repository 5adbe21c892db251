"""A refinery of one file: guesses divided by a power of their own running mean.

python3 train.py --plugin examples/power_refinery.py --refine power --config configs/digits_regime_few.yaml

    targets   norm(p / m^STRENGTH),   norm(v) = v / sum v
    m      <- MOMENTUM m + (1 - MOMENTUM) mean of the batch's p       from uniform on

A class that the network says often is asked more of. DebiasPL and ReMixMatch's alignment are of this kind; this one is
here to be read, no paper stands behind it.
"""

from __future__ import annotations

from torch import Tensor

from darp.refineries.base import SMALLEST, Batchwise, Setting, normalized, per_class
from darp.store import PseudoLabelStore
from semi.names import REFINERIES

STRENGTH, MOMENTUM = 0.5, 0.99


class Power(Batchwise):
    label = "power"

    def __init__(self, store: PseudoLabelStore, setting: Setting) -> None:
        super().__init__(store, setting)
        self.state["mean"] = self.uniform()  # checkpointed, and on every process the same

    def rule(self, probs: Tensor, epoch: int, step: int) -> Tensor:
        targets = normalized(probs / self.state["mean"].clamp(min=SMALLEST) ** STRENGTH)
        self.follow(self.state["mean"], probs, MOMENTUM)  # in place, of the whole batch
        return targets

    def health(self) -> dict[str, float]:
        return super().health() | per_class("mean", self.state["mean"])


REFINERIES["power"] = Power
