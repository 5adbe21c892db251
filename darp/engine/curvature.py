"""Solving with the curvature of the dual: K x K dense, or through its products alone.

The Hessian of -g is the Laplacian of a graph over the classes, H = diag(M 1) - M with the coupling
M = X^T diag(h) X >= 0 off its diagonal. Its diagonal is taken as the sum of the others, never as a difference, so
that a class of probability 1 - 1e-12 keeps its digits. H 1 = 0: the duals are free up to a common constant.
`solve` returns d with (H + damping * diag(H)) d = rhs for a right-hand side that sums to zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

UNDERFLOW = float(np.finfo(np.float64).tiny)  # its inverse is still finite
EPSILON = float(np.finfo(np.float64).eps)
# Log of the factor, beyond the wanted one, by which a step may change one of many sums.
REACH = 1.0  # half: random + 11 %; twice: 300 classes + 50 % (python -m benchmarks.constants)


class Curvature(Protocol):
    """The curvature of the dual at one point."""

    degree: np.ndarray  # [K] diagonal of H
    total_entropy: float  # sum over the rows of their entropy
    lasting: bool  # whether it is still there after the next pass over the table

    def solve(self, rhs: np.ndarray, damping: float, tol: float) -> np.ndarray:
        """d [K] with (H + damping diag(H)) d = rhs [K], to `tol` of the right-hand side's norm or better."""

    def within_reach(self, move: np.ndarray, sums: np.ndarray, log_ratio: np.ndarray) -> np.ndarray:
        """The move [K] of the duals, no class going further than its column sum can be foretold.

        `sums` [K] are the column sums and log_ratio [K] their distance to the target.
        """


def least_shift(num_classes: int) -> float:
    """Of the unit diagonal of a scaled Hessian: what its rounding may leave below zero (Higham 2002, theorem 10.7).

    Where a factorisation fails all the same, the step is zero and the caller tries one with damping.
    """
    return num_classes * EPSILON


class DenseCurvature:
    """The K x K coupling on the host."""

    lasting = True

    def __init__(self, coupling: np.ndarray) -> None:
        from darp.engine.passes import scaled_laplacian

        self.total_entropy = float(coupling.sum())
        self.degree, self.scale = np.empty(len(coupling)), np.empty(len(coupling))
        self.matrix = np.empty_like(coupling)
        scaled_laplacian(coupling, UNDERFLOW, self.degree, self.scale, self.matrix)
        self.diagonal = self.matrix.reshape(-1)[:: len(coupling) + 1]  # a view
        self.unshifted = self.diagonal + 1.0

    def solve(self, rhs: np.ndarray, damping: float, tol: float) -> np.ndarray:
        """d [K] with (H + damping diag(H)) d = rhs; exact, so `tol` is not used. Zero where that fails."""
        from scipy.linalg.lapack import dposv  # here: a run without DARP need not wait for scipy

        self.diagonal[:] = self.unshifted + max(least_shift(len(rhs)), damping)
        _, scaled, failed = dposv(self.matrix, self.scale * rhs, lower=1)
        found: np.ndarray = np.zeros_like(rhs) if failed else self.scale * scaled
        return found

    def within_reach(self, move: np.ndarray, sums: np.ndarray, log_ratio: np.ndarray) -> np.ndarray:
        return move


class DeviceCurvature:
    """The same on an accelerator, for many classes: what goes to the host are vectors."""

    lasting = True

    def __init__(self, coupling: Tensor) -> None:
        self.total_entropy = float(coupling.sum())
        coupling = coupling.clone().fill_diagonal_(0)
        degree = coupling.sum(1)
        self.degree = degree.cpu().numpy()
        self.scale = torch.where(degree > 0, degree.clamp_min(UNDERFLOW).rsqrt(), 0.0)
        root = degree.sqrt() / degree.sum().sqrt().clamp_min(UNDERFLOW)
        self.matrix = torch.outer(root, root) - self.scale[:, None] * coupling * self.scale

    def solve(self, rhs: np.ndarray, damping: float, tol: float) -> np.ndarray:
        """d [K] with (H + damping diag(H)) d = rhs; exact, so `tol` is not used. Zero where that fails."""
        scaled = (self.scale * torch.from_numpy(rhs).to(self.scale.device))[:, None]
        shift = 1 + max(least_shift(len(rhs)), damping)
        factor, failed = torch.linalg.cholesky_ex(self.matrix + torch.diag_embed(self.scale * 0 + shift))
        found: np.ndarray = (self.scale * torch.cholesky_solve(scaled, factor)[:, 0]).cpu().numpy()
        return np.zeros_like(rhs) if int(failed) else found

    def within_reach(self, move: np.ndarray, sums: np.ndarray, log_ratio: np.ndarray) -> np.ndarray:
        return move


class ProductCurvature:
    """The coupling through its products with a vector; conjugate gradients, preconditioned by the degree."""

    lasting = False  # the next pass leaves its own Y

    def __init__(self, degree: np.ndarray, product: Callable[[np.ndarray], np.ndarray]) -> None:
        self.degree, self.product = degree, product
        # X^T h through the product, so that H 1 = 0 holds to the rounding of the stored Y.
        self.weight = product(np.ones_like(degree))
        self.total_entropy = float(self.weight.sum())
        self.anchor = int(np.argmax(self.weight))

    def _apply(self, vector: np.ndarray) -> np.ndarray:
        """H v. The vector is shifted to 0 at the largest class, where cancellation would cost most."""
        shifted = vector - vector[self.anchor]
        image: np.ndarray = self.weight * shifted - self.product(shifted)
        return image

    def solve(self, rhs: np.ndarray, damping: float, tol: float) -> np.ndarray:
        """d [K] with (H + damping diag(H)) d = rhs, to `tol` of the right-hand side's norm."""
        degree = np.where(self.degree > 0, self.degree, np.inf)
        found, left = np.zeros_like(rhs), rhs.copy()
        preconditioned = left / degree
        direction = preconditioned.copy()
        size = first = float(left @ preconditioned)
        for _ in rhs:  # without rounding, so many steps are exact
            if not size > tol * tol * first:
                break
            image = self._apply(direction) + damping * self.degree * direction
            bend = float(direction @ image)
            if not bend > 0:
                break
            found += size / bend * direction
            left -= size / bend * image
            preconditioned = left / degree
            size, before = float(left @ preconditioned), size
            direction = preconditioned + size / before * direction
        return found if found.any() else rhs / degree

    def within_reach(self, move: np.ndarray, sums: np.ndarray, log_ratio: np.ndarray) -> np.ndarray:
        """The move with no class going further than its sum can be foretold.

        With many classes some hold next to nothing but rows that are sure of them. Their curvature is nearly zero and
        the step for them long, and on the way they meet rows that they did not see from here. A sum grows at most as
        exp(h move) of its rows does, where the mean h of the rows that make it up now stands for them all.
        """
        mean_entropy = self.weight / np.maximum(sums, UNDERFLOW)
        reach = (np.abs(log_ratio) + REACH) / np.maximum(mean_entropy, UNDERFLOW)
        away = move - self.degree @ move / max(float(self.degree.sum()), UNDERFLOW)
        return np.clip(away, -reach, reach)
