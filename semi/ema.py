"""The averaged weights that are evaluated."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Ema:
    """A copy of `model` whose parameters and float buffers follow it: new = decay * old + (1 - decay) * current.

    Integer buffers (batch norm's counters) are copied, not averaged.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self._averaged, self._averaged_from = self._tensors(model, floating=True)
        self._copied, self._copied_from = self._tensors(model, floating=False)

    def _tensors(self, model: nn.Module, *, floating: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Pairs of (own, source) tensors. The model's tensors are updated in place, so the lists stay valid."""
        own, source = self.model.state_dict(), model.state_dict()
        names = [name for name, tensor in own.items() if tensor.is_floating_point() == floating]
        return [own[name] for name in names], [source[name] for name in names]

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(self._averaged, self._averaged_from, 1 - self.decay)
        if self._copied:
            torch._foreach_copy_(self._copied, self._copied_from)
