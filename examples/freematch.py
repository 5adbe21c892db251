"""FreeMatch's self-adaptive threshold (Wang et al., ICLR 2023) as a method of one file.

python3 train.py --plugin examples/freematch.py --semi_method free --config configs/digits_regime_few.yaml --darp

FixMatch counts a pseudo-label whose confidence reaches a fixed tau. Here the threshold follows the network: its global
part is the running mean of the confidence, and a class that is guessed less often than others has a lower one.

    tau_t    = lambda tau_{t-1} + (1 - lambda) mean_b max_c q_b(c)          from 1 / K on
    p_t(c)   = lambda p_{t-1}(c) + (1 - lambda) mean_b q_b(c)               from 1 / K on
    tau_t(c) = tau_t p_t(c) / max_c p_t(c)

q_b are the guesses for the weak views of the batch. The paper's other part, its fairness loss, is left out: DARP
is there for the class distribution.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from data import Batch
from models import Classifier
from semi.config import Config
from semi.distributed import Ranks
from semi.methods.fixmatch import FixMatch
from semi.names import METHODS

DECAY = 0.999  # lambda, as published


class FreeMatch(FixMatch):
    """FixMatch with a threshold of its own for each class. --tau has no effect."""

    label = "FreeMatch"
    threshold = "the threshold of its class"
    own_metrics: ClassVar[dict[str, str]] = {
        "threshold": "global threshold, the running mean of the confidence",
        "threshold/<class>": "threshold of each class",
    }

    def __init__(self, num_classes: int, ranks: Ranks) -> None:
        self.ranks = ranks
        self.confidence = torch.full((), 1 / num_classes, device=ranks.device)
        self.shares = torch.full((num_classes,), 1 / num_classes, device=ranks.device)

    @classmethod
    def from_config(cls, config: Config, target_counts: Tensor, ranks: Ranks) -> FreeMatch:
        return cls(len(target_counts), ranks)

    @torch.no_grad()
    def guess(self, model: Classifier, batch: Batch) -> Tensor:
        probs = super().guess(model, batch)
        means = torch.cat([probs.mean(dim=0), probs.amax(dim=1).mean().unsqueeze(0)])
        means = self.ranks.sum_(means) / self.ranks.size  # of the whole batch, on all processes
        self.shares.lerp_(
            means[:-1].to(self.shares), 1 - DECAY
        )  # in place: a step may be recorded and replayed
        self.confidence.lerp_(means[-1].to(self.confidence), 1 - DECAY)
        return probs

    def thresholds(self) -> Tensor:
        """[K]"""
        return self.confidence * self.shares / self.shares.max()

    def selects(self, confidence: Tensor, label: Tensor) -> Tensor:
        own = self.shift.threshold  # of a refinery that has one
        return confidence >= (self.thresholds()[label] if own is None else own)

    def metrics(self) -> dict[str, float]:
        of_classes = {f"threshold/{k}": value for k, value in enumerate(self.thresholds().tolist())}
        return {"threshold": float(self.confidence)} | of_classes

    def state_dict(self) -> dict[str, Any]:
        return {"confidence": self.confidence, "shares": self.shares}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.confidence.copy_(state["confidence"])
        self.shares.copy_(state["shares"])


METHODS["free"] = FreeMatch
