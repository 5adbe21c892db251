"""Compile now what the first refinement of a training would wait for.

    python -m darp

Solves small tables of every kind that a training has: few classes and many, passes in float32 and float64, noise
removal of distinct and of equal entries; then reads the metrics of a large one. Numba keeps the machine code beside the
sources, or under NUMBA_CACHE_DIR.
"""

from __future__ import annotations

import time

import torch

from darp.noise import remove_noise
from darp.pseudo_labels import COMPILED, pseudo_label_metrics
from darp.solver import solve


def main() -> None:
    start = time.perf_counter()
    for classes in (10, 200):
        counts = torch.full((classes,), 400 / classes)
        probs = torch.softmax(torch.randn(400, classes, generator=torch.Generator().manual_seed(0)), 1)
        remove_noise(torch.full_like(probs, 1 / classes), counts, 2.0)
        for tol in (1e-6, 1e-7):  # 1e-7 is too little for float32
            solve(remove_noise(probs, counts, 2.0), counts, tol=tol)
    table = torch.full((COMPILED, 2), 0.5)
    pseudo_label_metrics(table, table, table[:, 0] > 0, None, None, 0.95)
    print(f"the solver's passes are ready ({time.perf_counter() - start:.1f} s)")


if __name__ == "__main__":
    main()
