"""The views of `data.augment` on a CPU, compiled: each image goes through the operations that it drew and no others.

A GPU is handed whole batches, so there every image passes through every operation (`data.randaugment`). That is the
slow twin of this file: the draws are the same and so is every pixel. Both take the tables of an operation's values from
`data.randaugment`. Arithmetic is float32 in the twin's order, and never contracted, because a grey level is cut off
and not rounded.

Importing this module imports Numba and loads the machine code from a cache on disk; `python -m data` fills that ahead.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numba
import numpy as np
import torch
from numba.core import event
from torch import Tensor

from data.augment import CUTOUT_GREY, CUTOUT_PARTS, Move, resize
from data.randaugment import (
    AFFINE,
    AUTOCONTRAST,
    CODE,
    COLOR,
    CONTRAST,
    EQUALIZE,
    KINDS,
    SHARPNESS,
    SQUARE,
    SQUARE_COLOUR,
    TONE,
    Operations,
    affine_table,
    blend_table,
    tone_table,
    value_of,
)

COMPILING = "data: compiling the views, once (about 10 s); from then on they come from a cache on disk"

F = np.float32  # a bare constant is float64 to Numba
ZERO, HALF, WHITE = F(0), F(0.5), F(255)
RED, GREEN, BLUE = F(0.299), F(0.587), F(0.114)
FOUR, THIRTEENTH = F(4), F(1 / 13)

_compiled: Any = numba.njit(nogil=True, cache=True)


class _Listener(event.Listener):
    """Says once that something of this module is being compiled; a cache that is read is not heard of."""

    said = False

    def on_start(self, event: Any) -> None:
        function = getattr(event.data["dispatcher"], "py_func", None)
        if not self.said and getattr(function, "__module__", "") == __name__:
            self.said = True
            print(COMPILING, file=sys.stderr, flush=True)

    def on_end(self, event: Any) -> None: ...


event.register("numba:compile", _Listener())


def rand_augmented(
    sources: Sequence[tuple[Tensor, Tensor]], drawn: Operations, *, magnitude: int, which: str, size: int
) -> Tensor:
    """`rand_augment` of images[index] of each source, one after the other, with the operations that were drawn.

    sources: pairs of images, uint8 [n, 3, H, W], and index, int64 [b]. Returns uint8 [B, 3, size, size].
    """
    _, channels, height, width = sources[0][0].shape
    sizes = [len(index) for _, index in sources]
    out = torch.empty(sum(sizes), channels, height, width, dtype=torch.uint8)
    for (images, index), part, target in zip(sources, drawn.split(sizes), out.split(sizes), strict=True):
        centres = np.zeros((len(part.codes), 0, 2), F) if part.centres is None else _array(part.centres)
        _augment_all(
            images.numpy(),
            index.numpy(),
            _array(part.codes),
            _array(part.negative),
            centres,
            *_tables(which, magnitude, height, width),
            target.numpy(),
        )
    return out if height == size else resize(out, size)


def moved_views(
    sources: Sequence[tuple[Tensor, Tensor | None]],
    move: Move,
    centre: Tensor | None,
    *,
    normal: Tensor,
    augment: str,
) -> Tensor:
    """Moved, mirrored, cut out where there is a `centre`, normalised: float32 [B, 3, H, W] of the sources' images.

    sources: pairs of images, uint8 [n, 3, H, W], and index, int64 [b], or None for all of them; centre: float32
    [2, B, 1], see `data.augment.draw_centre`; normal: float32 [3, 256], what each value becomes.
    """
    sizes = [len(images) if index is None else len(index) for images, index in sources]
    out = torch.empty(sum(sizes), *sources[0][0].shape[1:])
    table = normal.numpy()
    # The mean colour, which is zero after normalising, or grey.
    fill = np.zeros(3, F) if augment == "published" else np.ascontiguousarray(table[:, CUTOUT_GREY])
    centres = [None] * len(sizes) if centre is None else centre.split(sizes, 1)
    for (images, index), size, part, middle, target in zip(
        sources, sizes, move.split(sizes), centres, out.split(sizes), strict=True
    ):
        _finish_all(
            images.numpy(),
            np.arange(size) if index is None else index.numpy(),
            _array(part.shift.view(2, size)),
            np.zeros(0, np.bool_) if part.mirrored is None else part.mirrored.view(size).numpy(),
            augment != "published",
            np.zeros((2, 0), F) if middle is None else _array(middle.view(2, size)),
            fill,
            table,
            target.numpy(),
        )
    return out


def _array(part: Tensor) -> np.ndarray:
    """As Numba wants it: a slice of a larger tensor would be another type, and compiled a second time."""
    return np.ascontiguousarray(part.numpy())


@lru_cache(maxsize=8)
def _tables(which: str, magnitude: int, height: int, width: int) -> tuple[Any, ...]:
    """Of each operation: kind, coefficients by sign, factor, result by value; and the side of CutoutAbs."""
    cpu = torch.device("cpu")
    kinds = np.array([KINDS.get(name, TONE) for name in CODE[which]])
    side = value_of(which, "CutoutAbs", magnitude) if which == "published" else 0.0
    return (
        kinds,
        affine_table(which, magnitude, height, width, cpu).numpy(),
        np.ascontiguousarray(blend_table(which, magnitude, cpu)[:, 0].numpy()),
        tone_table(which, magnitude, cpu).to(torch.uint8).numpy(),
        F(side / 2),
        F(int(side)),
        np.array(SQUARE_COLOUR, np.uint8),
    )


@_compiled
def _augment_all(
    images: Any,
    index: Any,
    codes: Any,
    negative: Any,
    centres: Any,
    kinds: Any,
    affine: Any,
    factors: Any,
    tones: Any,
    half_side: Any,
    side: Any,
    colour: Any,
    out: Any,
) -> None:
    rounds, batch = codes.shape
    spare = np.empty(out.shape[1:], np.uint8)
    table = np.empty(256, np.uint8)
    for b in range(batch):
        image, other, swapped = out[b], spare, False
        image[:] = images[index[b]]
        for r in range(rounds):
            code = codes[r, b]
            kind, factor = kinds[code], factors[code]
            if kind == AFFINE:
                _affine(image, other, affine[code, negative[r, b]])
                image, other, swapped = other, image, not swapped
            elif kind == SHARPNESS:
                _sharpness(image, other, factor)
                image, other, swapped = other, image, not swapped
            elif kind == COLOR:
                _color(image, factor)
            elif kind == SQUARE:
                _square(image, centres[r, b], half_side, side, colour)
            elif kind == TONE:
                for channel in range(3):
                    _look_up(image[channel], tones[code])
            elif kind in (AUTOCONTRAST, EQUALIZE):
                for channel in range(3):
                    if kind == EQUALIZE:
                        _equalized(image[channel], table)
                    else:
                        _stretched(image[channel], table)
                    _look_up(image[channel], table)
            else:
                plain = _mean_grey(image) if kind == CONTRAST else ZERO
                for value in range(256):
                    table[value] = _blend(F(value), plain, factor)
                for channel in range(3):
                    _look_up(image[channel], table)
        if swapped:
            out[b] = image


@_compiled
def _affine(image: Any, out: Any, coefficients: Any) -> None:
    """The pixel at (x, y) comes from (a x + b y + c, d x + e y + f), nearest, black outside."""
    _, height, width = image.shape
    a, b, c, d, e, f = coefficients
    for y in range(height):
        row_centre = F(y) + HALF
        across, down = b * row_centre + c, e * row_centre + f
        for x in range(width):
            column_centre = F(x) + HALF
            column = int(np.floor(a * column_centre + across))
            row = int(np.floor(d * column_centre + down))
            if 0 <= column < width and 0 <= row < height:
                out[0, y, x] = image[0, row, column]
                out[1, y, x] = image[1, row, column]
                out[2, y, x] = image[2, row, column]
            else:
                out[0, y, x] = out[1, y, x] = out[2, y, x] = 0


@_compiled
def _blend(value: Any, plain: Any, factor: Any) -> Any:
    """factor * value + (1 - factor) * plain, cut off to a grey level."""
    return np.uint8(min(max((value - plain) * factor + plain, ZERO), WHITE))


@_compiled
def _grey(image: Any, y: int, x: int) -> Any:
    """Luma of ITU-R 601-2, as Pillow's conversion to greyscale."""
    luma = F(image[0, y, x]) * RED + F(image[1, y, x]) * GREEN + F(image[2, y, x]) * BLUE
    return np.floor(luma + HALF)


@_compiled
def _color(image: Any, factor: Any) -> None:
    _, height, width = image.shape
    for y in range(height):
        for x in range(width):
            grey = _grey(image, y, x)
            for channel in range(3):
                image[channel, y, x] = _blend(F(image[channel, y, x]), grey, factor)


@_compiled
def _mean_grey(image: Any) -> Any:
    _, height, width = image.shape
    total = ZERO  # exact: whole numbers below 2**24, up to 256 x 256 pixels
    for y in range(height):
        for x in range(width):
            total += _grey(image, y, x)
    return np.floor(total / F(height * width) + HALF)


@_compiled
def _sharpness(image: Any, out: Any, factor: Any) -> None:
    """Against the image smoothed by a 3 x 3 kernel of ones with 5 in the middle, over 13; border pixels stay."""
    _, height, width = image.shape
    for channel in range(3):
        plane, target = image[channel], out[channel]
        target[:] = plane
        for y in range(1, height - 1):
            for x in range(1, width - 1):
                box = 4 * int(plane[y, x])
                for dy in range(-1, 2):
                    for dx in range(-1, 2):
                        box += plane[y + dy, x + dx]
                smooth = np.floor(F(box) * THIRTEENTH + HALF)
                target[y, x] = _blend(F(plane[y, x]), smooth, factor)


@_compiled
def _look_up(plane: Any, table: Any) -> None:
    height, width = plane.shape
    for y in range(height):
        for x in range(width):
            plane[y, x] = table[plane[y, x]]


@_compiled
def _stretched(plane: Any, table: Any) -> None:
    """AutoContrast: the table that maps the smallest value to 0 and the largest to 255."""
    low, high = int(plane.min()), int(plane.max())
    span = high - low
    for value in range(256):
        stretched = (value - low) * 255 // span if span > 0 else value
        table[value] = min(max(stretched, 0), 255)


@_compiled
def _equalized(plane: Any, table: Any) -> None:
    """Equalize: the table that makes the histogram as even as it can; none where its steps are below one pixel."""
    height, width = plane.shape
    counts = np.zeros(256, np.int64)
    for y in range(height):
        for x in range(width):
            counts[plane[y, x]] += 1
    step = (height * width - counts[plane.max()]) // 255
    below = 0
    for value in range(256):
        table[value] = min((below + step // 2) // step, 255) if step > 0 else value
        below += counts[value]


@_compiled
def _square(image: Any, centre: Any, half_side: Any, side: Any, colour: Any) -> None:
    """CutoutAbs: near the top or left edge the square is moved into the image, near the other two it is cut."""
    _, height, width = image.shape
    top = int(np.floor(max(centre[0] * F(height) - half_side, ZERO)))
    left = int(np.floor(max(centre[1] * F(width) - half_side, ZERO)))
    for channel in range(3):
        for y in range(top, min(top + int(side) + 1, height)):
            for x in range(left, min(left + int(side) + 1, width)):
                image[channel, y, x] = colour[channel]


@_compiled
def _finish_all(
    images: Any,
    index: Any,
    shift: Any,
    mirrored: Any,
    reflect: bool,
    corner: Any,
    fill: Any,
    table: Any,
    out: Any,
) -> None:
    batch, _, height, width = out.shape
    columns = np.empty(width, np.int64)
    for b in range(batch):
        for x in range(width):
            from_left = width - 1 - x if mirrored.size and mirrored[b] else x
            columns[x] = _source(from_left + shift[1, b], width, reflect)
        top = left = height + width  # no square
        side = width // CUTOUT_PARTS
        if corner.shape[1]:
            top = int(np.floor(corner[0, b] * F(height))) - side // 2
            left = int(np.floor(corner[1, b] * F(width))) - side // 2
        for channel in range(3):
            plane, target, normal = images[index[b], channel], out[b, channel], table[channel]
            for y in range(height):
                row = _source(y + shift[0, b], height, reflect)
                for x in range(width):
                    inside = row >= 0 and columns[x] >= 0
                    target[y, x] = normal[plane[row, columns[x]] if inside else 0]
            for y in range(max(top, 0), min(top + side, height)):
                for x in range(max(left, 0), min(left + side, width)):
                    target[y, x] = fill[channel]


@_compiled
def _source(position: int, size: int, reflect: bool) -> int:
    """Where a pixel comes from: outside 0..size-1 mirrored at the border pixels, or -1 for black."""
    if reflect:
        position = abs(position)
        return min(position, 2 * (size - 1) - position)
    return position if 0 <= position < size else -1
