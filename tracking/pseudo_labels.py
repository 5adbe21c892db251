"""How the row of an epoch (`tracking.row`) describes the pseudo-labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pseudo_label_metrics(
    orig: Tensor,
    refined: Tensor,
    visited: Tensor,
    target_counts: Sequence[float],
    true_labels: Tensor | None,
    tau: float,
) -> dict[str, float | list[float]]:
    """The `pseudo...` part of the row.

    Args:
        orig, refined: pseudo-labels [N, K], rows sum to 1.
        visited: [N] bool.
        target_counts: [K], sums to N.
        true_labels: int64 [N], for diagnosis alone; None where they are unknown.
        tau: confidence threshold.
    """
    num_rows, num_classes = orig.shape
    target = torch.tensor(target_counts, dtype=torch.float64) / sum(target_counts)
    true = None
    if true_labels is not None:
        true = torch.bincount(true_labels, minlength=num_classes).double().cpu() / num_rows
    row: dict[str, float | list[float]] = {"pseudo/coverage": float(visited.double().mean())}

    for name, table in (("orig", orig), ("refined", refined)):
        confidence, label = table.max(dim=1)
        share = table.double().mean(dim=0).cpu()
        row |= _per_class(f"pseudo/{name}", share)
        row |= _per_class(f"pseudo/{name}_hard", _class_share(label, num_classes))
        row |= {
            f"pseudo/{name}/{key}": value for key, value in distribution_metrics(share, target, true).items()
        }
        row[f"pseudo_{name}"] = (share * num_rows).tolist()
        if true_labels is not None:
            row |= {f"pseudo/{name}/{k}": v for k, v in _agreement(label, true_labels, num_classes).items()}
    selected = label[confidence >= tau]  # of the refined table, which came last
    row["pseudo/mask_rate"] = len(selected) / num_rows
    if len(selected):
        row |= _per_class("pseudo/selected", _class_share(selected, num_classes))
    row |= _per_class("pseudo/target", target)
    row["pseudo_target"] = (target * num_rows).tolist()
    if true is not None:
        row |= _per_class("pseudo/true", true)
        row["pseudo_true"] = (true * num_rows).tolist()
    return row


def distribution_metrics(share: Tensor, target: Tensor, true: Tensor | None) -> dict[str, float]:
    """Distances of a class distribution [K] to uniform, to the target and to the truth; all float64 on the CPU."""
    positive = share.clamp(min=1e-30)
    metrics = {
        "tv_uniform": float((share - 1 / len(share)).abs().sum() / 2),
        "tv_target": float((share - target).abs().sum() / 2),
        "entropy": float(-(share * positive.log()).sum()),
        "imbalance": float(share.max() / positive.min()),
    }
    if true is not None:
        metrics["tv_true"] = float((share - true).abs().sum() / 2)
        metrics["kl_true"] = float(torch.special.xlogy(true, true / positive).sum())
    return metrics


def _per_class(prefix: str, values: Tensor) -> dict[str, float]:
    return {f"{prefix}/{k}": value for k, value in enumerate(values.tolist())}


def _class_share(labels: Tensor, num_classes: int) -> Tensor:
    return torch.bincount(labels, minlength=num_classes).double().cpu() / len(labels)


def _agreement(label: Tensor, true: Tensor, num_classes: int) -> dict[str, float]:
    """Accuracy, and each class's precision and recall where it is defined."""
    hit = torch.bincount(true[label == true], minlength=num_classes).double().cpu()
    predicted = torch.bincount(label, minlength=num_classes).double().cpu()
    there = torch.bincount(true, minlength=num_classes).double().cpu()
    row = {"accuracy": float(hit.sum() / len(true))}
    row |= {f"precision/{k}": float(hit[k] / predicted[k]) for k in range(num_classes) if predicted[k] > 0}
    row |= {f"recall/{k}": float(hit[k] / there[k]) for k in range(num_classes) if there[k] > 0}
    return row
