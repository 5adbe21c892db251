"""Compile now what the first batch of a training on a CPU would wait for.

    python -m data

Numba keeps the machine code beside the sources, or under NUMBA_CACHE_DIR.
"""

from __future__ import annotations

import time

import torch

from data.loader import Loader


def main() -> None:
    start = time.perf_counter()
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    loader = Loader(
        images,
        torch.arange(2),
        images,
        views_x=("weak",),
        views_u=("strong",),
        batch_size=2,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        flip=True,
        device="cpu",
        seed=0,
        prefetch=False,
    )
    loader.next()
    print(f"the views of a CPU are ready ({time.perf_counter() - start:.1f} s)")


if __name__ == "__main__":
    main()
