"""The losses of a method as one module, so that one forward pass of it belongs to one backward pass."""

from __future__ import annotations

from dataclasses import fields

from torch import Tensor, nn

from data import Batch
from models import Classifier
from semi.methods import Losses, Method


class Learner(nn.Module):
    """A method's losses of its network; the parameters are the network's.

    Methods call the network several times in a step. What synchronises gradients (`Ranks.replicated`) counts forward
    passes of its module, so the module is the whole loss.
    """

    def __init__(self, method: Method, model: Classifier) -> None:
        super().__init__()
        self.method, self.model = method, model

    def forward(self, batch: Batch, targets: Tensor, progress: Tensor) -> dict[str, Tensor]:
        """The losses that the method has, by their names in `Losses`; targets [B, K], progress from 0 to 1."""
        losses = self.method.losses(self.model, batch, targets, progress)
        named = {part.name: getattr(losses, part.name) for part in fields(Losses)}
        return {name: value for name, value in named.items() if value is not None}
