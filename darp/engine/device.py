"""The same pass in eager torch, for accelerators: chunks of rows, no transfer to the host inside a pass.

It is also the slow twin that the fused passes are tested against.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from darp.engine.curvature import Curvature, DenseCurvature, DeviceCurvature
from darp.engine.table import total, total_of_pass

# Neither was measured: that needs an accelerator.
CHUNK_ELEMENTS = 1 << 24  # 128 MiB of float64; small chunks would starve an accelerator
HOST_CLASSES = 256  # larger systems are left on the device: 0.5 MB and more would travel at each pass


class DeviceTable:
    """Rows `probs` [N, K] and the output `refined` [N, K], which is scratch until `write`."""

    products = 0  # conjugate gradients are for many classes on a CPU

    def __init__(self, probs: Tensor, refined: Tensor, group: dist.ProcessGroup | None = None) -> None:
        self.probs, self.refined, self.group = probs, refined, group
        self.num_classes = probs.shape[1]
        self.device = probs.device
        self.chunk = max(1, CHUNK_ELEMENTS // self.num_classes)
        self.entropy_known = False
        self.bad_rows = torch.zeros((), dtype=torch.int64, device=probs.device)

    def measure(self, duals: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, Curvature]:
        """See `Table`. The curvature is dense, and on the device where that solves with it faster."""
        k = self.num_classes
        sums = torch.zeros(k + 2, dtype=torch.float64, device=self.device)
        coupling = torch.zeros(k, k, dtype=torch.float64, device=self.device)
        for _, x, h, value in self._chunks(duals, active):
            sums[:k] += x.sum(0, dtype=torch.float64)
            sums[k] += value
            coupling += x.T @ (h * x)
        sums[-1] = self.bad_rows
        self.entropy_known = True
        on_host = self.device.type == "cpu" or k <= HOST_CLASSES
        found, together = total_of_pass(sums, coupling, self.group, host=on_host)
        return found, DenseCurvature(together.numpy()) if on_host else DeviceCurvature(together)

    def write(self, duals: np.ndarray, active: np.ndarray) -> np.ndarray:
        """See `Table`."""
        k = self.num_classes
        sums = torch.zeros(k + 2, dtype=torch.float64, device=self.device)
        for rows, x, _, value in self._chunks(duals, active):
            rounded = x.to(self.refined.dtype)
            sums[:k] += rounded.sum(0, dtype=torch.float64)
            sums[k] += value
            self.refined[rows] = rounded
        self.entropy_known = False
        return total(sums, self.group).cpu().numpy()

    def _chunks(
        self, duals: np.ndarray, active: np.ndarray
    ) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Rows, X [n, K], h [n, 1] and the dual's part of each chunk; X and h in the type of the duals."""
        nu = torch.from_numpy(duals).to(self.device, non_blocking=True)
        allowed = torch.from_numpy(active).to(self.device, non_blocking=True) > 0
        for first in range(0, len(self.probs), self.chunk):
            rows = slice(first, min(first + self.chunk, len(self.probs)))
            a = self.probs[rows].to(nu.dtype)
            scratch = self.refined[rows].reshape(-1)[: len(a)]
            if not self.entropy_known:
                scratch.copy_(self._entropy(a))
            h = scratch.to(nu.dtype)[:, None]
            logits = torch.where(allowed, torch.log(a) - h * nu, -torch.inf)
            log_z = torch.logsumexp(logits, 1, keepdim=True)
            stuck = torch.isinf(log_z)  # every class that the row knows has target 0: it stays as it is
            x = torch.where(stuck, a, torch.exp(logits - torch.where(stuck, 0.0, log_z)))
            still = h == 0
            part = torch.where(still, -(x @ nu)[:, None], log_z / torch.where(still, 1.0, h))
            yield rows, x, h, torch.where(stuck, 0.0, part).sum(dtype=torch.float64)

    def _entropy(self, a: Tensor) -> Tensor:
        total = a.sum(1)
        distribution = (a.min(1).values >= 0) & ((total - 1).abs() <= 1e-3)  # False for NaN too
        self.bad_rows += (~distribution).sum()
        return (torch.log(total) - torch.xlogy(a, a).sum(1) / total).clamp_min(0)
