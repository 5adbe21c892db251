"""Solving with the curvature of the dual: K x K dense, or through its products alone.

The Hessian of -g is the Laplacian of a graph over the classes, H = diag(M 1) - M with the coupling
M = X^T diag(h) X >= 0 off its diagonal. Its diagonal is taken as the sum of the others, never as a difference, so
that a class of probability 1 - 1e-12 keeps its digits. H 1 = 0: the duals are free up to a common constant.
`solve` returns d with (H + damping * diag(H)) d = rhs for a right-hand side that sums to zero.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

JITTER = 1e-13


class DenseCurvature:
    """The K x K coupling, solved on the device that it is given on."""

    host_classes = 256  # up to here the host solves faster than an accelerator, and one transfer brings all

    def __init__(self, coupling: Tensor) -> None:
        self.total_entropy = float(coupling.sum())
        coupling = coupling.clone().fill_diagonal_(0)
        degree = coupling.sum(1)
        self.degree = degree.cpu().numpy()
        moving = degree > 0
        self.scale = torch.where(moving, degree.clamp_min(1e-300).rsqrt(), 0.0)
        root = degree.sqrt()
        root = root / root.norm().clamp_min(1e-300)
        matrix = -self.scale[:, None] * coupling * self.scale + torch.outer(root, root)
        self.matrix = matrix + torch.eye(len(degree), dtype=matrix.dtype, device=matrix.device)

    def solve(self, rhs: np.ndarray, damping: float, tol: float) -> np.ndarray:
        """d [K] with (H + damping diag(H)) d = rhs; exact, so `tol` is not used."""
        scaled = self.scale * torch.from_numpy(rhs).to(self.scale)
        jitter = max(JITTER, damping)
        for _ in range(4):
            if self.matrix.device.type == "cpu":
                found = _cholesky_solve(self.matrix.numpy(), jitter, scaled.numpy())
            else:
                factor, info = torch.linalg.cholesky_ex(
                    self.matrix + jitter * torch.eye(len(scaled)).to(self.matrix)
                )
                solved = torch.cholesky_solve(scaled[:, None], factor)[:, 0]
                found = solved.cpu().numpy() if int(info) == 0 else None
            if found is not None and np.isfinite(found).all():
                return self.scale.cpu().numpy() * found
            jitter *= 1e3
        return np.zeros_like(rhs)


def _cholesky_solve(matrix: np.ndarray, jitter: float, rhs: np.ndarray) -> np.ndarray | None:
    shifted = matrix + jitter * np.eye(len(matrix))
    factor, info = scipy.linalg.lapack.dpotrf(shifted, lower=1, overwrite_a=1)
    if info != 0:
        return None
    solved, info = scipy.linalg.lapack.dpotrs(factor, rhs, lower=1)
    return solved if info == 0 else None


class ProductCurvature:
    """The coupling through its products with a vector; conjugate gradients, preconditioned by the degree."""

    max_products = 200

    def __init__(self, degree: np.ndarray, product: Callable[[np.ndarray], np.ndarray]) -> None:
        self.degree, self.product = degree, product
        self.products = 1
        # X^T h through the product, so that H 1 = 0 holds to the rounding of the stored Y.
        self.weight = product(np.ones_like(degree))
        self.total_entropy = float(self.weight.sum())
        self.anchor = int(np.argmax(self.weight))

    def _apply(self, vector: np.ndarray) -> np.ndarray:
        """H v. The vector is shifted to 0 at the largest class, where cancellation would cost most."""
        shifted = vector - vector[self.anchor]
        out = self.weight * shifted - self.product(shifted)
        out[self.anchor] -= out.sum()
        self.products += 1
        return out

    def solve(self, rhs: np.ndarray, damping: float, tol: float) -> np.ndarray:
        """d [K] with (H + damping diag(H)) d = rhs, to `tol` of the right-hand side's norm."""
        degree = np.where(self.degree > 0, self.degree, np.inf)
        found, left = np.zeros_like(rhs), rhs.copy()
        preconditioned = left / degree
        direction = preconditioned.copy()
        size = first = float(left @ preconditioned)
        for _ in range(self.max_products):
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
