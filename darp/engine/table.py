"""What a step of the solver asks of the table that it refines; `cpu.py` and `device.py` are its two forms."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from darp.engine.curvature import Curvature


class Table(Protocol):
    """This process's rows of a table [N, K], and room for their refinement.

    Both methods take duals [K] >= 0, float32 or float64, and active [K] float64, 1 for a class whose target is above 0
    and else 0. A pass computes in the type of the duals and sums in float64. The sums that they return are float64
    [K + 2] on the host: the K column sums, the rows' part of the dual function, and the number of faults found in the
    table (any above 0 means that a row is no distribution). With a `group` they are those of all its processes.
    """

    num_classes: int
    device: torch.device
    group: dist.ProcessGroup | None
    products: int  # readings of the table for conjugate gradients so far

    def measure(self, duals: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, Curvature]:
        """The sums at `duals`, and the curvature of the dual there, ready to solve with."""

    def write(self, duals: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Fill the output with the refinement at `duals`; the sums are those of what was written."""


def total(values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """`values` summed over the processes of `group`, in place."""
    if group is not None:
        dist.all_reduce(values, group=group)
    return values


def total_of_pass(
    sums: Tensor, coupling: Tensor, group: dist.ProcessGroup | None, *, host: bool
) -> tuple[np.ndarray, Tensor]:
    """What a pass found, summed over the processes. The coupling stays on its device unless `host`."""
    packed = total(torch.cat([sums, coupling.reshape(-1)]), group)
    if host:
        packed = packed.cpu()
    return packed[: len(sums)].cpu().numpy(), packed[len(sums) :].reshape(coupling.shape)
