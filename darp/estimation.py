"""The class distribution of unlabeled images, from a classifier that was not trained on them.

If a classifier errs in the same way on labeled and unlabeled images (label shift), then with C_ij the mean
probability that it gives to class i on held-out images of class j, and p the mean of its predictions on the unlabeled
ones, C q = p for their class distribution q (Lipton, Wang & Smola, ICML 2018, "Detecting and correcting for label
shift with black box predictors"; Kim et al., NeurIPS 2020, appendix, use it for DARP's target).

The published rule inverts C each epoch, accepts the result if no entry is negative and the condition number of C is
below a limit, and takes the mean of the accepted. Here an epoch is solved by least squares on the simplex,

    minimise |C q - p|^2   subject to   q >= 0,  sum(q) = 1,

which equals the inverse where that is a distribution and needs no luck elsewhere. Where C does not determine q the
result says so: `identifiable` is False, with a reason and a remedy. That is an outcome, not an exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

Rule = Literal["least_squares", "published"]


@dataclass(frozen=True)
class Epoch:
    """What one epoch contributes."""

    confusion: Tensor  # [K, K] float64, columns sum to 1; a column of NaN for a class without held-out images
    prediction_sum: Tensor  # [K] float64, sum of the predictions over the unlabeled images


@dataclass(frozen=True)
class Interval:
    """Bootstrap percentiles of the estimated distribution, both [K] float64."""

    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class Estimate:
    """The class distribution of the unlabeled images, or word that it cannot be had."""

    dist: Tensor  # [K] float64, sums to 1; a best guess where not identifiable
    counts: Tensor  # [K] float64, sums to the number of unlabeled images
    low: Tensor | None  # [K] bounds of `dist` by the bootstrap; None without one
    high: Tensor | None
    condition: float  # smallest condition number of the epochs' confusion matrices
    accepted: int  # epochs whose estimates were averaged
    offered: int  # epochs looked at
    identifiable: bool
    reason: str = ""  # why not, and what to do; "" when identifiable


def confusion_matrix(probs: Tensor, labels: Tensor) -> Tensor:
    """C [K, K] float64: C_ij is the mean probability of class i over held-out images of true class j.

    Args:
        probs: [n, K] predictions on held-out labeled images.
        labels: [n] their classes.

    Returns:
        Columns that sum to 1; a class without images has a column of NaN.

    Raises:
        ValueError: the shapes do not fit, or a label is not a class.
    """
    if probs.ndim != 2 or labels.shape != probs.shape[:1]:
        raise ValueError(
            f"probs has shape {tuple(probs.shape)} and labels {tuple(labels.shape)}: give [n, K] and [n]"
        )
    num_classes = probs.shape[1]
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"labels run from {int(labels.min())} to {int(labels.max())}: use 0 to {num_classes - 1}"
        )
    member = torch.nn.functional.one_hot(labels.long(), num_classes).double()  # [n, K]
    total = probs.double().T @ member
    return total / total.sum(0)


def solve_simplex(confusion: Tensor, prediction_dist: Tensor) -> Tensor:
    """q [K] on the simplex that minimises |C q - p|^2.

    With A = C - p 1^T the objective is |A q|^2 on the simplex. Non-negative least squares of [A; 1^T] q = [0; 1] gives
    the same q up to its scale: for q = s u, u on the simplex, the best s leaves |A u|^2 / (1 + |A u|^2), which grows
    with |A u|^2.
    """
    c, p = confusion.double().cpu().numpy(), prediction_dist.double().cpu().numpy()
    system = np.vstack([c - p[:, None], np.ones(len(p))])
    found, _ = nnls(system, np.concatenate([np.zeros(len(p)), [1.0]]))
    return torch.from_numpy(found / found.sum())


def published_dist(epoch: Epoch, max_condition: float = 100.0) -> Tensor | None:
    """C^-1 p [K] of one epoch if the published rule accepts it: no negative entry and cond(C) < max_condition."""
    if not condition_number(epoch.confusion) < max_condition:
        return None
    dist = torch.linalg.solve(epoch.confusion, epoch.prediction_sum / epoch.prediction_sum.sum())
    return dist / dist.sum() if bool((dist >= 0).all()) else None


def condition_number(confusion: Tensor) -> float:
    """Condition number of C in the 2-norm; infinite if C has a column of NaN."""
    if not bool(torch.isfinite(confusion).all()):
        return float("inf")
    return float(np.linalg.cond(confusion.double().cpu().numpy()))


def estimate_counts(
    epochs: Sequence[Epoch] | Epoch,
    total: float,
    *,
    rule: Rule = "least_squares",
    max_condition: float = 100.0,
    interval: Interval | None = None,
) -> Estimate:
    """The mean of the estimates of the accepted epochs.

    Args:
        epochs: confusion matrix and prediction sum of each, or a single one.
        total: number of unlabeled images, which `counts` sums to.
        rule: "least_squares" solves on the simplex and accepts an epoch if cond(C) < max_condition; "published"
            inverts and also asks that no entry be negative.
        max_condition: the published limit is 100.
        interval: of `bootstrap`, to be reported with the estimate.

    Raises:
        ValueError: no epoch, shapes that do not fit, or an unknown rule.
    """
    epochs = [epochs] if isinstance(epochs, Epoch) else list(epochs)
    if not epochs:
        raise ValueError("epochs is empty: give at least one epoch's confusion matrix and prediction sum")
    if rule not in ("least_squares", "published"):
        raise ValueError(f"rule {rule!r}: use 'least_squares' or 'published'")
    for epoch in epochs:
        if epoch.prediction_sum.ndim != 1 or epoch.confusion.shape != epoch.prediction_sum.shape * 2:
            raise ValueError(
                f"confusion has shape {tuple(epoch.confusion.shape)} and prediction_sum "
                f"{tuple(epoch.prediction_sum.shape)}: give [K, K] and [K]"
            )
    conditions = [condition_number(epoch.confusion) for epoch in epochs]
    accepted = []
    for epoch, condition in zip(epochs, conditions, strict=True):
        if rule == "published":
            dist = published_dist(epoch, max_condition)
        else:
            dist = _least_squares(epoch) if condition < max_condition else None
        if dist is not None:
            accepted.append(dist)
    best = int(np.argmin(conditions))
    dist = torch.stack(accepted).mean(0) if accepted else _guess(epochs[best])
    return Estimate(
        dist=dist,
        counts=dist * total,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        condition=conditions[best],
        accepted=len(accepted),
        offered=len(epochs),
        identifiable=bool(accepted),
        reason="" if accepted else _reason(epochs, conditions[best], rule, max_condition),
    )


def _least_squares(epoch: Epoch) -> Tensor:
    return solve_simplex(epoch.confusion, epoch.prediction_sum / epoch.prediction_sum.sum())


def _guess(epoch: Epoch) -> Tensor:
    """A distribution to show where there is no estimate: least squares, or the predictions as they are."""
    if bool(torch.isfinite(epoch.confusion).all()):
        return _least_squares(epoch)
    return epoch.prediction_sum / epoch.prediction_sum.sum()


def _reason(epochs: Sequence[Epoch], condition: float, rule: Rule, max_condition: float) -> str:
    """Why no epoch was accepted, with a remedy."""
    empty = torch.isnan(epochs[0].confusion).any(0).nonzero().flatten().tolist()
    if empty:
        return (
            f"classes {empty} have no held-out image: hold out at least one image of each class (--num_val)"
        )
    if condition >= max_condition:
        return (
            f"none of {len(epochs)} epochs tells the classes apart well enough (the confusion matrix's condition "
            f"number is {condition:.3g} at best, the limit {max_condition:g}): train longer (--epochs), hold out more "
            "images of each class (--num_val), or use the labeled distribution instead"
        )
    return (
        f"the {rule} rule accepts none of {len(epochs)} epochs, because each inverse has a negative entry: "
        "use least squares, or hold out more images of each class (--num_val)"
    )


def bootstrap(
    probs: Tensor,
    labels: Tensor,
    probs_u: Tensor,
    *,
    replicates: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the least-squares distribution under resampling.

    Held-out images are drawn again with replacement within each class, which keeps every class present, and so are
    the unlabeled rows. It covers the chance in which images were seen, not a classifier that errs differently on the
    unlabeled ones.

    Args:
        probs: [n, K] predictions on held-out images; labels [n] their classes, each class at least once.
        labels: [n].
        probs_u: [N, K] predictions on the unlabeled images.
        replicates: number of resamplings.
        level: coverage, in (0, 1).
        seed: of the generator.

    Raises:
        ValueError: a level outside (0, 1), fewer than two replicates, or a class without held-out images.
    """
    if not 0 < level < 1 or replicates < 2:
        raise ValueError(
            f"level {level}, replicates {replicates}: use a level in (0, 1) and at least 2 replicates"
        )
    table, table_u = probs.double().cpu().numpy(), probs_u.double().cpu().numpy()
    num_classes = table.shape[1]
    members = [np.flatnonzero(labels.cpu().numpy() == k) for k in range(num_classes)]
    empty = [k for k, rows in enumerate(members) if len(rows) == 0]
    if empty:
        raise ValueError(f"labels: classes {empty} have no held-out image; hold out at least one of each")
    random = np.random.default_rng(seed)
    dists = np.empty((replicates, num_classes))
    for i in range(replicates):
        columns = [table[random.choice(rows, len(rows))].mean(0) for rows in members]
        times = np.bincount(random.integers(len(table_u), size=len(table_u)), minlength=len(table_u))
        mean = times @ table_u / len(table_u)
        dists[i] = solve_simplex(torch.from_numpy(np.stack(columns, 1)), torch.from_numpy(mean)).numpy()
    low, high = np.quantile(dists, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Interval(torch.from_numpy(low), torch.from_numpy(high))
