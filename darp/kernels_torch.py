"""One pass over the table in eager torch: any device, any K, memory O(chunk x K). The slow twin of the Numba pass."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 20


class TorchTable:
    """The rows of this process and what the solver asks of them."""

    def __init__(self, probs: Tensor, refined: Tensor) -> None:
        self.probs, self.refined = probs, refined
        self.num_rows, self.num_classes = probs.shape
        self.chunk = max(1, CHUNK_ELEMENTS // self.num_classes)
        self.entropy = torch.empty(self.num_rows, dtype=torch.float64, device=probs.device)

    def start(self) -> None:
        for rows in self._chunks():
            a = self.probs[rows].double()
            a = a / a.sum(1, keepdim=True)
            self.entropy[rows] = -torch.xlogy(a, a).sum(1).clamp_max(0)

    def _chunks(self) -> list[slice]:
        return [slice(i, min(i + self.chunk, self.num_rows)) for i in range(0, self.num_rows, self.chunk)]

    def _rows(self, rows: slice, duals: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        a, h = self.probs[rows].double(), self.entropy[rows, None]
        logits = torch.where(active, torch.log(a) - h * duals, -torch.inf)
        top = logits.max(1, keepdim=True).values
        stuck = torch.isinf(top)  # the whole support has target zero: the row stays
        x = torch.exp(logits - torch.where(stuck, 0.0, top))
        x = torch.where(stuck, a, x)
        return x / x.sum(1, keepdim=True), h

    def measure(self, duals: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """Column sums [K] and the off-diagonal of X^T diag(h) X [K, K] at these duals."""
        sums = torch.zeros(self.num_classes, dtype=torch.float64, device=self.probs.device)
        coupling = torch.zeros(self.num_classes, self.num_classes, dtype=torch.float64, device=self.probs.device)
        for rows in self._chunks():
            x, h = self._rows(rows, duals, active)
            sums += x.sum(0)
            coupling += x.T @ (h * x)
        return sums, coupling.fill_diagonal_(0)

    def write(self, duals: Tensor, active: Tensor) -> Tensor:
        """Fill `refined`; return the column sums of what was written."""
        sums = torch.zeros(self.num_classes, dtype=torch.float64, device=self.probs.device)
        for rows in self._chunks():
            x, _ = self._rows(rows, duals, active)
            self.refined[rows] = x.to(self.refined.dtype)
            sums += self.refined[rows].double().sum(0)
        return sums
