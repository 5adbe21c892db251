"""The class distribution q of unlabeled data, from what a classifier says of it.

Problem (Lipton, Wang and Smola 2018, section 3; used by Kim et al. 2020, section 3.3): images of one class look alike
in both sets, only the classes' shares differ. With C[j, k] the mean prediction for class j over images of class k, and
p the mean prediction over the unlabeled images, C q = p. C is measured on held-out labeled images.

Here q is the least-squares solution on the simplex, with bootstrap intervals. `published_estimate` is DARP's own
recipe, the inverse of C averaged over the epochs in which it gives a distribution.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributed import ProcessGroup

from darp.engine.table import total

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """`dist` [K] sums to 1; [low, high] is the 95 % bootstrap interval of each class. A failure has its `reason`."""

    dist: Array
    low: Array
    high: Array
    condition: float
    identifiable: bool
    reason: str


def confusion_matrix(probs: Array, labels: NDArray[np.int64]) -> Array:
    """C [K, K], columns sum to 1: column k is the mean of probs [n, K] over the rows whose label [n] is k.

    A class without a row has a column of nan.
    """
    num_classes = probs.shape[1]
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.zeros((num_classes, num_classes))
    np.add.at(sums, labels, probs)
    with np.errstate(invalid="ignore"):
        return (sums / counts[:, None]).T


def simplex_least_squares(confusion: Array, mean_prediction: Array) -> Array:
    """argmin |C q - p|^2 over q >= 0, sum(q) = 1, for C [K, K] and p [K], by one non-negative least squares.

    With A = C - p 1^T it is |A q|^2 on the simplex. Solving [A; 1^T] q = [0; 1] over q >= 0 gives the same q up to its
    scale: for q = s u with u on the simplex, the best s leaves |A u|^2 / (1 + |A u|^2), which grows with |A u|^2.
    """
    from scipy.optimize import nnls  # here, because importing it takes half a second

    num_classes = len(mean_prediction)
    system = np.vstack([confusion - mean_prediction[:, None], np.ones(num_classes)])
    q, _ = nnls(system, np.append(np.zeros(num_classes), 1.0))
    return np.asarray(q / q.sum())


def estimate(
    heldout_probs: Array,
    heldout_labels: NDArray[np.int64],
    unlabeled_probs: Array,
    *,
    max_condition: float = 100.0,
    num_bootstrap: int = 200,
    seed: int = 0,
    group: ProcessGroup | None = None,
) -> Estimate:
    """Estimate q from predictions [n, K] on held-out images with labels [n] and predictions [N, K] on unlabeled ones.

    The bootstrap draws held-out images anew within each class; the mean over the unlabeled images, of which there are
    many, is drawn from its normal approximation. Not identifiable (a value, not an error): a class without a held-out
    image, or C so near to singular that its condition number reaches `max_condition`.

    group: processes that call this together. Each has all held-out images and rows [N, K] of its own of the unlabeled
        ones, which may be none; K + 1 and K^2 numbers are summed.
    """
    num_classes = heldout_probs.shape[1]
    nothing = np.full(num_classes, np.nan)
    confusion = confusion_matrix(heldout_probs, heldout_labels)
    if np.isnan(confusion).any():
        missing = np.flatnonzero(np.isnan(confusion).any(axis=0)).tolist()
        return Estimate(
            nothing,
            nothing,
            nothing,
            np.inf,
            False,
            f"no held-out image of class {missing}; label more of it",
        )
    condition = float(np.linalg.cond(confusion))
    sums = np.append(unlabeled_probs.sum(axis=0), len(unlabeled_probs))
    *predicted, count = total(torch.from_numpy(sums), group).tolist()
    p = np.array(predicted) / count
    dist = simplex_least_squares(confusion, p)
    generator = np.random.default_rng(seed)
    away = unlabeled_probs - p
    spread = total(torch.from_numpy(away.T @ away), group).numpy() / (count - 1) / count
    rows_of_class = [np.flatnonzero(heldout_labels == k) for k in range(num_classes)]
    draws = []
    for _ in range(num_bootstrap):
        rows = np.concatenate([generator.choice(rows, len(rows)) for rows in rows_of_class])
        resampled = confusion_matrix(heldout_probs[rows], heldout_labels[rows])
        drawn = generator.multivariate_normal(p, spread, check_valid="ignore", method="eigh")
        draws.append(simplex_least_squares(resampled, drawn))
    low, high = np.quantile(draws, [0.025, 0.975], axis=0) if draws else (nothing, nothing)
    reason = ""
    if condition >= max_condition:
        reason = (
            f"the condition number of the confusion matrix is {condition:.0f}, at or above {max_condition:g}: the "
            "classifier confuses classes too much to tell their shares; label more images or train it longer"
        )
    return Estimate(dist, low, high, condition, not reason, reason)


def published_estimate(
    epochs: Iterable[tuple[Array, Array]], *, max_condition: float = 100.0
) -> tuple[Array | None, int]:
    """DARP's recipe: q = C^-1 p for each epoch's (C [K, K], p [K]), accepted if no entry is negative and
    cond(C) < max_condition; (mean of the accepted, how many they are), None where there are none."""
    accepted = []
    for confusion, mean_prediction in epochs:
        if np.isnan(confusion).any() or np.linalg.cond(confusion) >= max_condition:
            continue
        q = np.linalg.solve(confusion, mean_prediction)
        if (q >= 0).all():
            accepted.append(q / q.sum())
    return (np.mean(accepted, axis=0) if accepted else None), len(accepted)
