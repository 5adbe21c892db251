"""The table of one process on a CPU: chunks of rows, handed to the fused passes on as many threads as torch uses.

Chunks depend on the shape of the table alone and their sums are added in order, so that the same input gives the
same bits whatever the number of threads. Plain Python threads run the chunks (the passes release the GIL): Numba's
own thread pools do not survive a fork and clash with the one of torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from darp.engine.curvature import Curvature, DenseCurvature, ProductCurvature
from darp.engine.table import total, total_of_pass

# Half and twice of each: python -m benchmarks.constants, in processor time.
CHUNK_ELEMENTS = (
    1 << 18
)  # so many take about 0.2 ms a pass, and to wake a thread may take longer; half: + 4 %
MAX_CHUNKS = 16  # each has its own sums; half, twice: within 2 %
# From here on conjugate gradients replace the dense curvature, which costs K^2 a row. Half: 100 classes read the table
# 3.4 times as often; twice: 150 classes read it less than half as often, and 2 fewer of the small ones are lost.
WIDE_CLASSES = 128


@lru_cache(maxsize=4)
def _threads(count: int) -> ThreadPoolExecutor:
    """Threads that wait between solves; starting them costs as much as a pass over a small table."""
    return ThreadPoolExecutor(count, thread_name_prefix="darp")


os.register_at_fork(after_in_child=_threads.cache_clear)  # a forked child has none of its parent's threads


class Chunks:
    """Rows 0..N-1 in chunks, and work on all of them at once."""

    def __init__(self, rows: int, num_classes: int) -> None:
        wanted = max(1, min(MAX_CHUNKS, rows * num_classes // CHUNK_ELEMENTS))
        size = max(1, -(-rows // (1 << (wanted.bit_length() - 1))))
        self.rows = [slice(i, min(i + size, rows)) for i in range(0, rows, size)]

    def __len__(self) -> int:
        return len(self.rows)

    def each(self, work: Callable[[int], Any]) -> list[Any]:
        """work(i) for every chunk i; this thread takes its share, each other one a fixed part of the chunks."""
        threads = min(torch.get_num_threads(), len(self.rows))
        if threads < 2:
            return [work(i) for i in range(len(self.rows))]
        results: list[Any] = [None] * len(self.rows)

        def share(first: int) -> None:
            for i in range(first, len(self.rows), threads):
                results[i] = work(i)

        others = [_threads(threads - 1).submit(share, first) for first in range(1, threads)]
        share(0)
        for other in others:
            other.result()
        return results


class CpuTable:
    """Rows `probs` [N, K] and the output `refined` [N, K], which is scratch until `write`.

    With few classes the entropy of each row is kept in `refined`, at the front of the part that belongs to its chunk.
    """

    device = torch.device("cpu")

    def __init__(self, probs: Tensor, refined: Tensor, group: dist.ProcessGroup | None = None) -> None:
        self.probs, self.refined, self.group = probs.numpy(), refined.numpy(), group
        rows, self.num_classes = self.probs.shape
        self.wide = self.num_classes > WIDE_CLASSES and group is None
        self.chunks = Chunks(rows, self.num_classes)
        self.entropy = np.empty(rows if self.wide else 0, self.probs.dtype)
        self.entropy_known = False
        self.products = 0

    def measure(self, duals: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, Curvature]:
        """See `Table`. With many classes the curvature is there through its products alone, until the next pass."""
        if self.wide:
            sums, degree = self._wide_pass(duals, active, write=False)
            return sums, ProductCurvature(degree, self._product)
        sums, coupling = self._narrow_pass(duals, active, couple=True, write=False)
        if self.group is not None:
            sums, together = total_of_pass(
                torch.from_numpy(sums), torch.from_numpy(coupling), self.group, host=True
            )
            coupling = together.numpy()
        return sums, DenseCurvature(coupling)

    def write(self, duals: np.ndarray, active: np.ndarray) -> np.ndarray:
        """See `Table`."""
        if self.wide:
            return self._wide_pass(duals, active, write=True)[0]
        sums, _ = self._narrow_pass(duals, active, couple=False, write=True)
        return total(torch.from_numpy(sums), self.group).numpy()

    def _narrow_pass(
        self, duals: np.ndarray, active: np.ndarray, *, couple: bool, write: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        from darp.engine import passes as kernels

        k = self.num_classes
        padded = -(-k // kernels.BLOCK) * kernels.BLOCK if couple else 1
        tile = kernels.tile_rows(k)
        active = active.astype(duals.dtype)
        sums = np.zeros((len(self.chunks), k + 2))
        coupling = np.zeros((len(self.chunks), padded, padded))
        fresh, self.entropy_known = not self.entropy_known, not write

        def work(i: int) -> bool:
            rows = self.chunks.rows[i]
            out = self.refined[rows]
            entropy = out.reshape(-1)[: len(out)]
            if write:  # the row written first would overwrite the entropies of the next
                entropy = entropy.copy()
            return kernels.chunk_pass(
                self.probs[rows],
                entropy,
                fresh,
                duals,
                active,
                tile,
                sums[i],
                couple,
                coupling[i],
                write,
                out,
            )

        sums[:, -1] = np.logical_not(self.chunks.each(work))
        full = np.empty((k, k))
        if couple:
            kernels.add_couplings(coupling, full)
        return sums.sum(0), full

    def _wide_pass(
        self, duals: np.ndarray, active: np.ndarray, *, write: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        from darp.engine import passes_wide as kernels

        sums = np.zeros((len(self.chunks), self.num_classes + 2))
        degree = np.zeros((len(self.chunks), self.num_classes))
        active = active.astype(duals.dtype)
        fresh, self.entropy_known = not self.entropy_known, True

        def work(i: int) -> bool:
            rows = self.chunks.rows[i]
            return kernels.chunk_rows(
                self.probs[rows],
                self.entropy[rows],
                fresh,
                duals,
                active,
                sums[i],
                degree[i],
                write,
                self.refined[rows],
            )

        sums[:, -1] = np.logical_not(self.chunks.each(work))
        return sums.sum(0), degree.sum(0)

    def _product(self, vector: np.ndarray) -> np.ndarray:
        """X^T diag(h) X v from the Y that the last pass left in `refined`."""
        from darp.engine import passes_wide as kernels

        product = np.zeros((len(self.chunks), self.num_classes))
        v = vector.astype(self.probs.dtype)

        def work(i: int) -> None:
            kernels.chunk_product(self.refined[self.chunks.rows[i]], v, np.empty_like(v), product[i])

        self.chunks.each(work)
        self.products += 1
        return product.sum(0)
