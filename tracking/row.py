"""The row of an epoch: its keys, and how those about pseudo-labels are computed.

The keys are an interface: sweeps, charts and reports are built on them, and a test holds them against `ROW`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

_SHARES = "share of each class in"
ROW: dict[str, str] = {
    "epoch": "number of the epoch, from 0",
    "lr": "learning rate",
    "loss/{total,x,u,r,e}": "mean over the epoch's steps: total, labeled, unlabeled, rotation, first strong view",
    "test/{acc,bacc,gm,many,medium,few,loss}": "averaged weights: accuracy, mean recall, geometric mean, thirds",
    "test/recall/<class>": "recall of each class on the test set",
    "last20/{bacc,gm}": "mean of the last 20 epochs (the paper's figure)",
    "last10/{bacc,gm}": "mean of the last 10 epochs, of a retrained head alone (the published figure of cRT)",
    "best/bacc": "largest test/bacc so far",
    "pseudo/{orig,refined}/<class>": f"{_SHARES} the raw and the refined pseudo-labels: mean probability, sums to 1",
    "pseudo/{target,true}/<class>": f"{_SHARES} the refinement's target and the true labels of the unlabeled set",
    "pseudo/{orig_hard,refined_hard}/<class>": "share of argmax",
    "pseudo/selected/<class>": "share of argmax among refined rows whose confidence reaches tau; absent when none does",
    "pseudo/{orig,refined}/tv_{uniform,true,target}": "total-variation distance of the shares to uniform, true, target",
    "pseudo/{orig,refined}/kl_true": "KL(true || shares), nats",
    "pseudo/{orig,refined}/entropy": "entropy of the shares, nats",
    "pseudo/{orig,refined}/imbalance": "largest share over smallest",
    "pseudo/{orig,refined}/accuracy": "share of rows whose argmax is the true label",
    "pseudo/{orig,refined}/{precision,recall}/<class>": "of argmax against the true labels; absent where undefined",
    "pseudo/mask_rate": "share of refined rows whose confidence reaches tau",
    "pseudo/coverage": "share of rows guessed so far; the others are uniform and flatter pseudo_orig",
    "pseudo_{orig,refined,target,true}": "the shares as histograms whose bins are the classes, counts sum to N",
    "darp/{residual,iterations,seconds,solves,unconverged}": "worst residual, mean passes, seconds, number, failures",
    "time/{data,step,refine,eval,epoch}": "seconds of this epoch",
    "time/{log,checkpoint}": "seconds that logging and checkpointing took after the previous epoch",
    "data_time": "mean seconds a step waited for its batch",
    "throughput/images_per_s": "labeled and unlabeled images trained on, a second of training",
}


def _pattern(key: str) -> str:
    parts = re.split(r"(\{[^}]*\}|<class>)", key)
    as_regex = [
        r"\d+"
        if p == "<class>"
        else f"(?:{'|'.join(p[1:-1].split(','))})"
        if p.startswith("{")
        else re.escape(p)
        for p in parts
    ]
    return "".join(as_regex)


_KNOWN = re.compile("|".join(_pattern(key) for key in ROW))


def is_known(key: str) -> bool:
    """Whether `key` is one that a row may have."""
    return _KNOWN.fullmatch(key) is not None


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
