"""What the row of an epoch says of the pseudo-labels: class shares, their distances, agreement with the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PSI_FLOOR = 1e-4  # of a class's share, as is usual with the index
BLOCK = 256  # rows that are summed in float32: a relative error of 1e-6 at most
COMPILED = 1 << 14  # rows of a table from which on a compiled pass is worth loading
PIECE = 1 << 16  # rows that a thread reads at a time


def pseudo_label_metrics(
    orig: Tensor,
    refined: Tensor,
    visited: Tensor,
    target_counts: Sequence[float] | None,
    true_labels: Tensor | None,
    tau: float,
    total: Callable[[Tensor], Tensor] = lambda values: values,
    confusions: dict[str, Tensor] | None = None,
    selects: Callable[[Tensor, Tensor], Tensor | None] | None = None,
) -> dict[str, float | list[float]]:
    """The `pseudo...` part of the row.

    Args:
        orig, refined: pseudo-labels [N, K], rows sum to 1; where several processes hold them, this one's rows.
        visited: [N] bool.
        target_counts: [K], sums to N, to that of all processes; None where there is none, and the row then has nothing
            about it.
        true_labels: int64 [N], for diagnosis alone; None where they are unknown.
        tau: confidence threshold.
        total: sums a tensor over the processes that hold the rows; the row is then that of them all.
        confusions: gets `orig` and `refined`, counts int64 [K, K] (row: true class, column: argmax), where the truth
            is known.
        selects: which rows count, bool [N], by their largest entry [N] and its class [N]; None, or where it gives
            None: those whose largest entry reaches `tau`.
    """
    num_classes = orig.shape[1]
    target = None
    if target_counts is not None:
        target = torch.tensor(target_counts, dtype=torch.float64) / sum(target_counts)
    there = total(torch.stack([visited.new_tensor(len(orig), dtype=torch.int64), visited.sum()]))
    num_rows, num_visited = there.tolist()
    true = None
    if true_labels is not None:
        true = total(torch.bincount(true_labels, minlength=num_classes)).double().cpu() / num_rows
    row: dict[str, float | list[float]] = {"pseudo/coverage": num_visited / num_rows}

    read = _read(orig)
    for name, table in (("orig", orig), ("refined", refined)):
        read = read if table is orig else _read(table)  # they are one table until the first refinement
        share = total(read.sums.clone()).cpu() / num_rows
        hard = total(torch.bincount(read.label, minlength=num_classes)).double().cpu() / num_rows
        row |= _per_class(f"pseudo/{name}", share)
        row |= _per_class(f"pseudo/{name}_hard", hard)
        row |= {
            f"pseudo/{name}/{key}": value for key, value in distribution_metrics(share, target, true).items()
        }
        row[f"pseudo_{name}"] = (share * num_rows).tolist()
        if true_labels is not None:
            cells = torch.bincount(true_labels * num_classes + read.label, minlength=num_classes**2)
            counts = total(cells).cpu().reshape(num_classes, num_classes)
            row |= {f"pseudo/{name}/{k}": v for k, v in _agreement(counts.double()).items()}
            if confusions is not None:
                confusions[name] = counts
    # Of the refined table, which came last.
    counted = selects(read.confidence, read.label) if selects else None
    counted = read.confidence >= tau if counted is None else counted
    selected = total(torch.bincount(read.label[counted], minlength=num_classes)).cpu()
    num_selected = int(selected.sum())
    row["pseudo/mask_rate"] = num_selected / num_rows
    if num_selected:
        row |= _per_class("pseudo/selected", selected.double() / num_selected)
    for name, known in (("target", target), ("true", true)):
        if known is not None:
            row |= _per_class(f"pseudo/{name}", known)
            row[f"pseudo_{name}"] = (known * num_rows).tolist()
    return row


class _Read(NamedTuple):
    """What one reading of a table [N, K] gives."""

    sums: Tensor  # [K] float64, of the rows
    label: Tensor  # int64 [N], argmax of each row, the first where several are largest
    confidence: Tensor  # [N], the largest entry of each row


def _read(table: Tensor) -> _Read:
    """Nothing as large as the table is made: at 1e6 x 100 a float64 copy takes 800 MB and most of a second."""
    if table.device.type == "cpu" and table.dtype == torch.float32 and len(table) >= COMPILED:
        return _compiled_read(table.contiguous())
    label = table.argmax(dim=1)
    return _Read(_column_sums(table), label, table.gather(1, label.unsqueeze(1)).squeeze(1))


def _compiled_read(table: Tensor) -> _Read:
    """Each piece of a table on the CPU is read once; torch reads it three times, its argmax an entry at a time."""
    from darp.engine.read import read_rows  # here, because numba takes a second to import

    label = torch.empty(len(table), dtype=torch.int64)
    confidence = torch.empty(len(table))

    def read(start: int) -> NDArray[np.float64]:
        piece = slice(start, start + PIECE)
        rows, sums = table[piece].numpy(), np.zeros(table.shape[1])
        read_rows(rows, rows.view(np.int32), BLOCK, sums, label[piece].numpy(), confidence[piece].numpy())
        return sums

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        sums = sum(pool.map(read, range(0, len(table), PIECE)), np.zeros(table.shape[1]))
    return _Read(torch.from_numpy(sums), label, confidence)


def _column_sums(table: Tensor) -> Tensor:
    """Sums [K] in float64 of float32 sums over BLOCK rows each."""
    blocks, num_classes = len(table) // BLOCK, table.shape[1]
    whole = table[: blocks * BLOCK].reshape(blocks, BLOCK, num_classes)
    return whole.sum(dim=1).double().sum(dim=0) + table[blocks * BLOCK :].double().sum(dim=0)


def distribution_metrics(share: Tensor, target: Tensor | None, true: Tensor | None) -> dict[str, float]:
    """Distances of a class distribution [K] to uniform, to the target and to the truth; all float64 on the CPU.

    `effective` is the effective number of classes: exp of the entropy (Hill 1973). `psi` is the population stability
    index: the sum of (p - q) log(p / q), with shares below PSI_FLOOR counted as that, because it has no bound where a
    class is gone. `js` is the Jensen-Shannon divergence, from 0 to log 2 nats.
    """
    positive = share.clamp(min=1e-30)
    entropy = -(share * positive.log()).sum()
    metrics = {
        "tv_uniform": float((share - 1 / len(share)).abs().sum() / 2),
        "entropy": float(entropy),
        "effective": float(entropy.exp()),
        "imbalance": float(share.max() / positive.min()),
    }
    for name, other in (("target", target), ("true", true)):
        if other is not None:
            metrics[f"tv_{name}"] = float((share - other).abs().sum() / 2)
            metrics[f"js_{name}"] = float(_divergence(share, other))
            p, q = share.clamp(min=PSI_FLOOR), other.clamp(min=PSI_FLOOR)
            metrics[f"psi_{name}"] = float(((p - q) * (p / q).log()).sum())
    if true is not None:
        metrics["kl_true"] = float(torch.special.xlogy(true, true / positive).sum())
    return metrics


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon, in nats."""
    middle = ((p + q) / 2).clamp(min=1e-30)
    return (torch.special.xlogy(p, p / middle).sum() + torch.special.xlogy(q, q / middle).sum()) / 2


def _per_class(prefix: str, values: Tensor) -> dict[str, float]:
    return {f"{prefix}/{k}": value for k, value in enumerate(values.tolist())}


def _agreement(counts: Tensor) -> dict[str, float]:
    """Accuracy, and each class's precision and recall where it is defined, of counts [K, K]: true class, argmax."""
    num_classes = len(counts)
    hit, there, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
    row = {"accuracy": float(hit.sum() / counts.sum())}
    row |= {f"precision/{k}": float(hit[k] / predicted[k]) for k in range(num_classes) if predicted[k] > 0}
    row |= {f"recall/{k}": float(hit[k] / there[k]) for k in range(num_classes) if there[k] > 0}
    return row
