"""The same pass in eager torch, for accelerators: chunks of rows in float64, no transfer to the host inside a pass.

It is also the slow twin that the fused passes are tested against.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 24  # 128 MiB of float64 on an accelerator, where small chunks would starve it
HOST_CHUNK_ELEMENTS = 1 << 20


class TorchTable:
    """Rows `probs` [N, K] and the output `refined` [N, K], which is scratch until `write`."""

    products = 0  # of conjugate gradients, which only the pass for many classes on a CPU needs

    def __init__(self, probs: Tensor, refined: Tensor) -> None:
        self.probs, self.refined = probs, refined
        self.num_classes = probs.shape[1]
        self.device = probs.device
        elements = HOST_CHUNK_ELEMENTS if probs.device.type == "cpu" else CHUNK_ELEMENTS
        self.chunk = max(1, elements // self.num_classes)
        self.entropy_known = False
        self.bad_rows = torch.zeros((), dtype=torch.int64, device=probs.device)

    def measure(self, duals: np.ndarray, active: np.ndarray) -> tuple[Tensor, Tensor]:
        """Column sums [K], the rows' part of the dual, faults in the table; and X^T diag(h) X [K, K]."""
        k = self.num_classes
        sums = torch.zeros(k + 2, dtype=torch.float64, device=self.probs.device)
        coupling = torch.zeros(k, k, dtype=torch.float64, device=self.probs.device)
        for _, x, h, value in self._chunks(duals, active):
            sums[:k] += x.sum(0)
            sums[k] += value
            coupling += x.T @ (h * x)
        sums[-1] = self.bad_rows
        self.entropy_known = True
        return sums, coupling

    def write(self, duals: np.ndarray, active: np.ndarray) -> Tensor:
        """Fill `refined`; return the same sums [K + 2], of what was written."""
        k = self.num_classes
        sums = torch.zeros(k + 2, dtype=torch.float64, device=self.probs.device)
        for rows, x, _, value in self._chunks(duals, active):
            rounded = x.to(self.refined.dtype)
            sums[:k] += rounded.sum(0, dtype=torch.float64)
            sums[k] += value
            self.refined[rows] = rounded
        self.entropy_known = False
        return sums

    def _chunks(
        self, duals: np.ndarray, active: np.ndarray
    ) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Rows, X [n, K], h [n, 1] and the dual's part of each chunk."""
        device = self.probs.device
        nu = torch.from_numpy(duals).to(device, non_blocking=True)
        allowed = torch.from_numpy(active).to(device, non_blocking=True) > 0
        for first in range(0, len(self.probs), self.chunk):
            rows = slice(first, min(first + self.chunk, len(self.probs)))
            a = self.probs[rows].double()
            scratch = self.refined[rows].reshape(-1)[: len(a)]
            if not self.entropy_known:
                scratch.copy_(self._entropy(a))
            h = scratch.double()[:, None]
            logits = torch.where(allowed, torch.log(a) - h * nu, -torch.inf)
            log_z = torch.logsumexp(logits, 1, keepdim=True)
            stuck = torch.isinf(log_z)  # every class that the row knows has target 0: it stays as it is
            x = torch.where(stuck, a, torch.exp(logits - torch.where(stuck, 0.0, log_z)))
            still = h == 0
            part = torch.where(still, -(x @ nu)[:, None], log_z / torch.where(still, 1.0, h))
            yield rows, x, h, torch.where(stuck, 0.0, part).sum()

    def _entropy(self, a: Tensor) -> Tensor:
        total = a.sum(1)
        distribution = (a.min(1).values >= 0) & ((total - 1).abs() <= 1e-3)  # False for NaN too
        self.bad_rows += (~distribution).sum()
        return (torch.log(total) - torch.xlogy(a, a).sum(1) / total).clamp_min(0)
