"""Removal of noisy entries before a solve (Kim et al., NeurIPS 2020, section 3.2; `alpha` is the paper's delta).

For each class k the int(alpha c_k) most confident entries of column k are kept and the others are set to zero. The
column is then scaled by (c_k + 1e-6) / (sum of the kept + 1e-6), 1e-6 is added to every entry, and the rows are
normalised. Entries that tie for the last place are kept in the order of their rows, so that exactly int(alpha c_k)
survive, on one process or several.

Finding a column's j-th largest entry needs no sort: the bits of floats that are not negative order as the floats
do, and counting leads from the highest bits to the lowest. Counts of several processes add up, so that the table is
not gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from darp.engine.cpu import Chunks

NOISE = 1e-6  # added to every entry, and to both sides of the rescaling, as published
# Shift and number of bins of each level, by the size of an entry. A first bin is an eighth or a quarter of an octave;
# the last one of them starts at 1.875 or 1.75 and holds what no probability is.
BIT_LEVELS = {
    4: ((20, 1 << 10), (10, 1 << 10), (0, 1 << 10)),
    8: ((50, 1 << 12), (38, 1 << 12), (25, 1 << 13), (12, 1 << 13), (0, 1 << 12)),
}
MOST_CANDIDATES = 4  # a quarter of the table; half, twice: no change (python -m benchmarks.constants)
# Counters of 4 bytes, one line of 64 bytes of the cache, or the same bin of all classes would share one set of it.
PADDING = 16


def remove_noise(
    probs: Tensor,
    target_counts: Tensor | Sequence[float],
    alpha: float,
    *,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """A new table with the int(alpha c_k) surest entries of each class k; `probs` is left as it is.

    Args:
        probs: [N, K] float32 or float64, no entry negative; with `group`, this process's rows of one table.
        target_counts: [K], at least 0.
        alpha: how many times its target count of entries a class keeps; at least 0.
        group: processes that hold the rows between them, in the order of their ranks.

    Returns:
        [N, K], type and device of `probs`, rows sum to 1, every entry above 0.

    Raises:
        ValueError: wrong shapes or types, negative or non-finite values.
    """
    if probs.ndim != 2 or probs.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"probs is {probs.dtype} of shape {tuple(probs.shape)}: give a float32 or float64 table of rows x classes"
        )
    counts = torch.as_tensor(target_counts, dtype=torch.float64).detach().cpu().numpy()
    if counts.shape != (probs.shape[1],):
        raise ValueError(
            f"target_counts has shape {counts.shape}: give {probs.shape[1]} numbers, one per class"
        )
    if not (np.isfinite(counts).all() and (counts >= 0).all()):
        raise ValueError(f"target_counts {counts.tolist()}: counts must be finite and at least 0")
    if not (np.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"alpha {alpha}: use a finite number of at least 0; the paper's is 2")
    wanted = np.floor(alpha * counts)
    table = probs.detach().contiguous()
    if probs.device.type == "cpu":
        return _on_cpu(table, counts, wanted, group)
    return _on_device(table, torch.from_numpy(counts).to(table.device), torch.from_numpy(wanted), group)


def _shared(values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    if group is not None:
        dist.all_reduce(values, group=group)
    return values


def _before(values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Sum of `values` over the processes that come before this one."""
    if group is None:
        return torch.zeros_like(values)
    rank = dist.get_rank(group)
    every = values.new_zeros(dist.get_world_size(group), *values.shape)
    every[rank] = values
    dist.all_reduce(every, group=group)
    return every[:rank].sum(0)


def _on_cpu(probs: Tensor, counts: np.ndarray, wanted: np.ndarray, group: dist.ProcessGroup | None) -> Tensor:
    from darp.engine import select as kernels

    table = probs.numpy()
    bits = table.view(np.uint32 if probs.element_size() == 4 else np.uint64)
    chunks = Chunks(len(table), len(counts))
    total_rows = len(table) if group is None else int(_shared(torch.tensor(len(table)), group))
    keep = np.minimum(wanted, total_rows).astype(np.int64)
    selected = None if group is not None else _few_candidates(table, bits, chunks, keep)
    threshold, ties, kept = selected or _level_by_level(table, bits, chunks, keep, group)
    out = torch.empty_like(probs)
    refined = out.numpy()
    scale = (counts + NOISE) / (kept + NOISE)

    def write(i: int) -> None:
        rows = chunks.rows[i]
        kernels.keep_entries(bits[rows], table[rows], threshold, ties[i], scale, NOISE, refined[rows])

    chunks.each(write)
    return out


def _first_level(bits: np.ndarray, chunks: Chunks, num_classes: int) -> np.ndarray:
    """Counts [chunks, K, bins + padding] of the entries by their highest bits."""
    from darp.engine import select as kernels

    shift, size = BIT_LEVELS[bits.itemsize][0]
    histogram = np.zeros((len(chunks), num_classes, size + PADDING), np.int32)
    chunks.each(partial(_count, kernels.count_top, bits, chunks, histogram, (bits.dtype.type(shift),)))
    return histogram


def _few_candidates(
    table: np.ndarray, bits: np.ndarray, chunks: Chunks, keep: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """`_level_by_level` in two readings of the table: the entries in the bin of each threshold are set aside.

    None where these are many, as in a table with many equal entries.
    """
    from darp.engine import select as kernels

    num_classes = len(keep)
    (shift, size), *_ = BIT_LEVELS[bits.itemsize]
    histogram = _first_level(bits, chunks, num_classes)
    missing, bins = keep.copy(), np.zeros(num_classes, np.int64)
    together = histogram[:, :, :size].sum(0, dtype=np.int64)
    _refuse_impossible(together)
    kernels.find_bins(together, missing, bins)
    inside = histogram[:, np.arange(num_classes), bins] * (keep > 0)  # [chunks, K]
    if inside.sum(dtype=np.int64) > table.size / MOST_CANDIDATES:
        return None
    start = np.zeros((len(chunks) + 1, num_classes), np.int64)
    np.cumsum(inside, 0, out=start[1:])
    found = np.empty(int(start[-1].sum()), bits.dtype)
    start[:, 1:] += start[-1, :-1].cumsum()
    prefix = np.where(keep > 0, bins, np.iinfo(bits.dtype).max).astype(bits.dtype)
    sums = np.zeros((len(chunks), num_classes))

    def collect(i: int) -> None:
        rows = chunks.rows[i]
        kernels.collect_bin(
            bits[rows], table[rows], bits.dtype.type(shift), prefix, sums[i], found, start[i].copy()
        )

    chunks.each(collect)
    threshold = np.full(num_classes, np.iinfo(bits.dtype).max, bits.dtype)
    ties, kept = np.zeros((len(chunks), num_classes), np.int64), sums.sum(0)
    kernels.select_found(found, found.view(table.dtype), start, missing, threshold, ties, kept)
    return threshold, ties, kept


def _level_by_level(
    table: np.ndarray, bits: np.ndarray, chunks: Chunks, keep: np.ndarray, group: dist.ProcessGroup | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What survives of each class: the bits [K] of its last entry, how many equal it in each chunk, the sum [K]."""
    from darp.engine import select as kernels

    threshold, ties = _thresholds(bits, chunks, keep, group)
    sums = np.zeros((len(chunks), len(keep)))

    def add(i: int) -> None:
        kernels.sum_above(bits[chunks.rows[i]], table[chunks.rows[i]], threshold, sums[i])

    chunks.each(add)
    value = np.where(keep > 0, threshold, 0).astype(bits.dtype).view(table.dtype).astype(np.float64)
    return threshold, ties, _shared(torch.from_numpy(sums.sum(0) + ties.sum(0) * value), group).numpy()


def _refuse_impossible(together: np.ndarray) -> None:
    """ValueError if the last bin of the first level, where no probability is, holds anything."""
    bad = together[:, -1]
    if bad.any():
        raise ValueError(
            f"probs has {bad.sum()} entries that are negative, not finite or far above 1, the first in class "
            f"{np.flatnonzero(bad)[0]}: give probabilities, such as a softmax"
        )


def _thresholds(
    bits: np.ndarray, chunks: Chunks, keep: np.ndarray, group: dist.ProcessGroup | None
) -> tuple[np.ndarray, np.ndarray]:
    """Bits [K] of the last of the keep [K] largest entries, and how many that equal it each chunk keeps [chunks, K]."""
    from darp.engine import select as kernels

    unsigned = bits.dtype.type
    missing, bins = keep.copy(), np.zeros(len(keep), np.int64)
    prefix = np.zeros(len(keep), bits.dtype)
    above = 0
    for level, (shift, size) in enumerate(BIT_LEVELS[bits.itemsize]):
        if level == 0:
            histogram = _first_level(bits, chunks, len(keep))
        else:
            histogram = np.zeros((len(chunks), len(keep), size + PADDING), np.int32)
            known = (prefix, unsigned(above), unsigned(shift))
            chunks.each(partial(_count, kernels.count_below, bits, chunks, histogram, known))
        together = _shared(torch.from_numpy(histogram[:, :, :size].sum(0, dtype=np.int64)), group).numpy()
        if level == 0:
            _refuse_impossible(together)
        kernels.find_bins(together, missing, bins)
        prefix = (prefix << unsigned(size.bit_length() - 1)) | bins.astype(bits.dtype)
        above = shift
    mine = np.take_along_axis(histogram, bins[None, :, None], 2)[:, :, 0].astype(np.int64)  # ties [chunks, K]
    earlier = _before(torch.from_numpy(mine.sum(0)), group).numpy() + mine.cumsum(0) - mine
    ties = np.where(keep > 0, np.clip(missing - earlier, 0, mine), 0)
    return np.where(keep > 0, prefix, np.iinfo(prefix.dtype).max), ties


def _count(
    kernel: Callable[..., None],
    bits: np.ndarray,
    chunks: Chunks,
    histogram: np.ndarray,
    known: tuple[Any, ...],
    i: int,
) -> None:
    """Chunk i of `bits` into its histogram, whose last bin goes to the kernel after what is `known` of the column."""
    kernel(bits[chunks.rows[i]], *known, bits.dtype.type(histogram.shape[2] - PADDING - 1), histogram[i])


def _on_device(probs: Tensor, counts: Tensor, wanted: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The same in torch operations, with a bisection over the bits in place of histograms and no wait for the device.

    Also runs on a CPU, where tests compare the two.
    """
    bits = probs.view(torch.int32 if probs.element_size() == 4 else torch.int64)
    total_rows = _shared(torch.tensor(len(probs), device=probs.device), group)
    keep = torch.minimum(wanted.to(probs.device).long(), total_rows)
    low = torch.zeros(probs.shape[1], dtype=bits.dtype, device=probs.device)  # count(bits >= low) >= keep
    for bit in range(probs.element_size() * 8 - 2, -1, -1):
        middle = low | (1 << bit)
        enough = _shared((bits >= middle).sum(0), group) >= keep
        low = torch.where(enough & (keep > 0), middle, low)
    low = torch.where(keep > 0, low, torch.iinfo(bits.dtype).max)
    larger = (bits > low).sum(0)
    equal = bits == low
    local = equal.sum(0)
    missing = keep - _shared(larger.clone(), group) - _before(local, group)
    chosen = (bits > low) | (equal & (equal.cumsum(0) <= missing))
    kept = torch.where(chosen, probs, 0.0).double()
    scale = (counts + NOISE) / (_shared(kept.sum(0), group) + NOISE)
    kept = kept * scale + NOISE
    return (kept / kept.sum(1, keepdim=True)).to(probs.dtype)
