"""The table of one process on a CPU: chunks of rows, handed to the fused passes on as many threads as torch uses.

Chunks depend on the shape of the table alone and their sums are added in order, so that the same input gives the
same bits whatever the number of threads. Plain Python threads run the chunks (the passes release the GIL): Numba's
own thread pools do not survive a fork and clash with the one of torch.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darp.kernels_curvature import DenseCurvature, ProductCurvature

CHUNK_ELEMENTS = 1 << 16  # 65,536 probabilities take about 0.1 ms, ten times what starting a task costs
MAX_CHUNKS = 16  # each holds its own K x K sums
WIDE_CLASSES = 256  # from here on conjugate gradients beat the dense curvature


class CpuTable:
    """Rows `probs` [N, K] and the output `refined` [N, K], which is scratch until `write`.

    The entropy of each row is kept in `refined`, at the front of the part that belongs to its chunk.
    """

    def __init__(self, probs: Tensor, refined: Tensor, *, dense: bool) -> None:
        self.probs, self.refined = probs.numpy(), refined.numpy()
        rows, self.num_classes = self.probs.shape
        self.wide = self.num_classes > WIDE_CLASSES and not dense
        wanted = min(MAX_CHUNKS, max(1, rows * self.num_classes // CHUNK_ELEMENTS))
        size = max(1, -(-rows // wanted))
        self.chunks = [slice(i, min(i + size, rows)) for i in range(0, rows, size)]
        threads = min(torch.get_num_threads(), len(self.chunks))
        self.pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self.entropy_known = False
        self.fine = True

    def close(self) -> None:
        """Stop the threads."""
        if self.pool is not None:
            self.pool.shutdown()

    def _each(self, work: Callable[[int], Any]) -> list[Any]:
        numbers = range(len(self.chunks))
        return list(self.pool.map(work, numbers) if self.pool is not None else map(work, numbers))

    def measure(self, duals: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, Tensor | ProductCurvature]:
        """Column sums [K] at these duals, and X^T diag(h) X [K, K] or, for many classes, its products."""
        if self.wide:
            sums, degree = self._wide_pass(duals, active, write=False)
            return sums, ProductCurvature(degree, self._product)
        sums, coupling = self._narrow_pass(duals, active, couple=True, write=False)
        return sums, torch.from_numpy(coupling)

    def write(self, duals: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Fill `refined`; return the column sums [K] of what was written."""
        if self.wide:
            return self._wide_pass(duals, active, write=True)[0]
        return self._narrow_pass(duals, active, couple=False, write=True)[0]

    def _narrow_pass(
        self, duals: np.ndarray, active: np.ndarray, *, couple: bool, write: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        from darp import kernels_numba as kernels

        k = self.num_classes
        padded = -(-k // kernels.BLOCK) * kernels.BLOCK if couple else 1
        tile = kernels.TILE if k <= 128 else kernels.WIDE_TILE
        sums = np.zeros((len(self.chunks), k))
        coupling = np.zeros((len(self.chunks), padded, padded))
        fresh, self.entropy_known = not self.entropy_known, not write

        def work(i: int) -> bool:
            rows = self.chunks[i]
            out = self.refined[rows]
            entropy = out.reshape(-1)[: len(out)]
            if write:  # the row written first would overwrite the entropies of the next
                entropy = entropy.copy()
            return kernels.chunk_pass(
                self.probs[rows], entropy, fresh, duals, active, tile, sums[i], couple, coupling[i], write, out
            )

        self.fine = all(self._each(work)) and self.fine
        return sums.sum(0), _symmetric(coupling.sum(0)[:k, :k])

    def _wide_pass(
        self, duals: np.ndarray, active: np.ndarray, *, write: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        from darp import kernels_wide as kernels

        sums = np.zeros((len(self.chunks), self.num_classes))
        degree = np.zeros_like(sums)

        def work(i: int) -> bool:
            rows = self.chunks[i]
            return kernels.chunk_rows(
                self.probs[rows], duals, active, sums[i], degree[i], write, self.refined[rows]
            )

        self.fine = all(self._each(work)) and self.fine
        return sums.sum(0), degree.sum(0)

    def _product(self, vector: np.ndarray) -> np.ndarray:
        """X^T diag(h) X v from the Y that the last pass left in `refined`."""
        from darp import kernels_wide as kernels

        product = np.zeros((len(self.chunks), self.num_classes))
        v = vector.astype(self.probs.dtype)

        def work(i: int) -> None:
            kernels.chunk_product(self.refined[self.chunks[i]], v, np.empty_like(v), product[i])

        self._each(work)
        return product.sum(0)


def _symmetric(lower: np.ndarray) -> np.ndarray:
    return np.tril(lower) + np.tril(lower, -1).T


__all__ = ["CpuTable", "DenseCurvature"]
