"""Makes the pictures of a run: picks the examples, counts the confusions, lays out the grid of views.

They are small: at most 2 x EXAMPLES images of SIDE x SIDE pixels, one grid, three matrices [K, K].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracking.media import Examples, Media, MediaSource

EXAMPLES = 64  # of each kind
SIDE = 64  # pixels; larger images are shrunk to it
GAP = 2  # pixels between the images of a grid


def at_the_start(source: MediaSource) -> Media:
    """The grid of views alone."""
    images, views = source.views()
    grid = grid_of([shrunk(shown) for shown in (images, *(view for _, view in views))])
    return Media(grid=grid, grid_rows=["image", *(kind for kind, _ in views)])


def after_an_epoch(source: MediaSource, start: Media) -> Media:
    """All of it, with the grid of the start."""
    orig, refined, visited, true = source.pseudo_labels()
    wrong, unsure = most_wrong(refined, true), least_sure(refined, visited)
    rows = torch.cat([wrong, unsure])
    examples = Examples(
        wrong=(torch.arange(len(rows)) < len(wrong)).numpy(),
        row=rows.cpu().numpy(),
        true=np.full(len(rows), -1) if true is None else true[rows].cpu().numpy(),
        image=shrunk(source.images(rows.cpu())).permute(0, 2, 3, 1).contiguous().numpy(),
        orig=orig[rows].float().cpu().numpy(),
        refined=refined[rows].float().cpu().numpy(),
    )
    return Media(
        grid=start.grid,
        grid_rows=start.grid_rows,
        confusions={name: counts.cpu().numpy() for name, counts in source.confusions().items()},
        examples=examples if len(rows) else None,
    )


def most_wrong(table: Tensor, true: Tensor | None) -> Tensor:
    """Rows int64 [n <= EXAMPLES] whose largest entry exceeds that of their true class [N] by most, most first."""
    if true is None:
        return torch.empty(0, dtype=torch.int64, device=table.device)
    largest, label = table.max(dim=1)
    excess = largest - table.gather(1, true.unsqueeze(1)).squeeze(1)
    wrong = (label != true).nonzero().squeeze(1)
    return wrong[excess[wrong].topk(min(EXAMPLES, len(wrong))).indices]


def least_sure(table: Tensor, visited: Tensor) -> Tensor:
    """Rows int64 [n <= EXAMPLES] with the smallest largest entry, smallest first. Unvisited rows are uniform, and none
    of these."""
    largest = table.amax(dim=1)
    guessed = visited.nonzero().squeeze(1)
    return guessed[largest[guessed].topk(min(EXAMPLES, len(guessed)), largest=False).indices]


def shrunk(images: Tensor) -> Tensor:
    """uint8 [n, 3, H, W] with no side longer than SIDE, by antialiased bilinear interpolation."""
    longest = max(images.shape[-2:])
    if longest <= SIDE or not len(images):
        return images
    size = [max(1, side * SIDE // longest) for side in images.shape[-2:]]
    smaller = torch.nn.functional.interpolate(images.float(), size, mode="bilinear", antialias=True)
    return smaller.round().clamp(0, 255).to(torch.uint8)


def grid_of(rows: Sequence[Tensor]) -> NDArray[np.uint8]:
    """One image [H, W, 3] of rows of images, each uint8 [n, 3, h, w], with white gaps."""
    framed = [torch.nn.functional.pad(row, (0, GAP, 0, GAP), value=255) for row in rows]
    lines = torch.cat([torch.cat(list(row), dim=2) for row in framed], dim=1)  # [3, H, W]
    return lines[:, :-GAP, :-GAP].permute(1, 2, 0).contiguous().numpy()
