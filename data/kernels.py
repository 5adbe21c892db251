"""The views of `data.augment` on a GPU, by two Triton kernels: a whole strong view takes at most a dozen launches.

One program makes one image. It keeps the image's three channels in registers through all rounds, and branches to the
operation that the image drew: the whole program takes the same branch, so no thread waits for another's. The draws are
those of the slow twin (`data.randaugment`, `data.augment`), which passes every image through every operation in some
two hundred launches; so is every pixel. Arithmetic is float32 in the twin's order. Contraction to fused multiply-adds
is off, because a grey level is cut off and not rounded.

Under TRITON_INTERPRET=1 the kernels run on a CPU, slowly, for tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from data.augment import CUTOUT_GREY, CUTOUT_PARTS, Move
from data.randaugment import (
    AFFINE,
    AUTOCONTRAST,
    BRIGHTNESS,
    CODE,
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

# Kernels see globals of this type alone.
_AFFINE, _TONE, _BRIGHTNESS = tl.constexpr(AFFINE), tl.constexpr(TONE), tl.constexpr(BRIGHTNESS)
_CONTRAST, _SHARPNESS = tl.constexpr(CONTRAST), tl.constexpr(SHARPNESS)
_AUTOCONTRAST, _EQUALIZE, _SQUARE = (
    tl.constexpr(AUTOCONTRAST),
    tl.constexpr(EQUALIZE),
    tl.constexpr(SQUARE),
)
_CUTOUT_PARTS, _CUTOUT_GREY = tl.constexpr(CUTOUT_PARTS), tl.constexpr(CUTOUT_GREY)
_SQUARE_RED, _SQUARE_GREEN, _SQUARE_BLUE = map(tl.constexpr, SQUARE_COLOUR)
_THIRTEENTH = tl.constexpr(1 / 13)

PIXELS_A_WARP = 512  # of one channel: 16 registers a thread for each of the three


def rand_augmented(
    sources: Sequence[tuple[Tensor, Tensor]], drawn: Operations, *, magnitude: int, which: str, size: int
) -> Tensor:
    """`rand_augment` of images[index] of each source, one after the other, with the operations that were drawn.

    sources: pairs of images, uint8 [n, 3, H, W], and index, int64 [b]. Returns uint8 [B, 3, H, W]; where `size` is
    another than H, float32 [B, 3, size, size] that `moved_views` rounds.
    """
    _, _, height, width = sources[0][0].shape
    device = sources[0][0].device
    rounds, batch = drawn.codes.shape
    grows = height != size
    kept = torch.float32 if grows else torch.uint8
    out = torch.empty(batch, 3, height, width, dtype=kept, device=device)
    first = 0
    for images, index in sources:
        launch(
            _augment,
            len(index),
            height * width,
            images,
            index.contiguous(),
            drawn.codes,
            drawn.negative,
            drawn.centres,
            *_tables(which, magnitude, height, width, device),
            out,
            batch,
            first,
            ROUNDS=rounds,
            HEIGHT=height,
            WIDTH=width,
        )
        first += len(index)
    if grows:
        return functional.interpolate(out, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return out


def moved_views(
    sources: Sequence[tuple[Tensor, Tensor | None]],
    move: Move,
    centre: Tensor | None,
    *,
    normal: Tensor,
    augment: str,
) -> Tensor:
    """Moved, mirrored, cut out where there is a `centre`, normalised: float32 [B, 3, H, W] of the sources' images.

    sources: pairs of images, uint8 [n, 3, H, W] or what `rand_augmented` gave, and index, int64 [b], or None for all of
    them; centre: float32 [2, B, 1], see `data.augment.draw_centre`; normal: float32 [3, 256], what each value becomes.
    """
    batch = move.shift.shape[1]
    _, _, height, width = sources[0][0].shape
    out = torch.empty(batch, 3, height, width, device=normal.device)
    first = 0
    for images, index in sources:
        rows = len(images) if index is None else len(index)
        launch(
            _finish,
            rows,
            height * width,
            images,
            index,
            move.shift,
            move.mirrored,
            centre,
            normal,
            out,
            batch,
            first,
            HEIGHT=height,
            WIDTH=width,
            REFLECT=augment == "fixmatch",
        )
        first += rows
    return out


def launch(kernel: Any, programs: int, pixels: int, *arguments: Any, **constants: Any) -> None:
    """Start `programs` programs, each of which holds `pixels` pixels of a channel; the first argument is a tensor."""
    block = triton.next_power_of_2(pixels)
    warps = min(max(block // PIXELS_A_WARP, 4), 32)
    with torch.cuda.device_of(arguments[0]):  # Triton launches on the current device, whatever it is handed
        kernel[(programs,)](*arguments, BLOCK=block, **constants, num_warps=warps, enable_fp_fusion=False)


@lru_cache(maxsize=8)
def _tables(which: str, magnitude: int, height: int, width: int, device: torch.device) -> tuple[Any, ...]:
    """Of each operation: kind, coefficients by sign, factor, result by value; and the side of CutoutAbs."""
    kinds = torch.tensor([KINDS.get(name, TONE) for name in CODE[which]], dtype=torch.int32, device=device)
    side = value_of(which, "CutoutAbs", magnitude) if which == "published" else 0.0
    return (
        kinds,
        affine_table(which, magnitude, height, width, device),
        blend_table(which, magnitude, device)[:, 0].contiguous(),
        tone_table(which, magnitude, device).to(torch.uint8),
        side / 2,
        int(side),
    )


@triton.jit(do_not_specialize=["half_side", "side", "batch", "first"])
def _augment(
    images,
    index,
    codes,
    negative,
    centres,
    kinds,
    affine,
    factors,
    tones,
    half_side,
    side,
    out,
    batch,
    first,
    ROUNDS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Row first + program of `out` [batch, 3, H, W]: images[index[program]] after its operations of each round."""
    pixels: tl.constexpr = HEIGHT * WIDTH
    row = first + tl.program_id(0)
    pixel = tl.arange(0, BLOCK)
    inside = pixel < pixels  # what lies behind the last pixel is never stored, and no reduction may see it
    source = images + tl.load(index + tl.program_id(0)) * (3 * pixels) + pixel
    red = tl.load(source, mask=inside, other=0)
    green = tl.load(source + pixels, mask=inside, other=0)
    blue = tl.load(source + 2 * pixels, mask=inside, other=0)
    for round_ in range(ROUNDS):
        code = tl.load(codes + round_ * batch + row).to(tl.int32)
        kind = tl.load(kinds + code)
        factor = tl.load(factors + code)
        if kind == _AFFINE:
            sign = tl.load(negative + round_ * batch + row).to(tl.int32)
            came_from, outside = _source(affine + (code * 2 + sign) * 6, HEIGHT, WIDTH, BLOCK)
            red = tl.where(outside, 0, tl.gather(red, came_from, 0)).to(tl.uint8)
            green = tl.where(outside, 0, tl.gather(green, came_from, 0)).to(tl.uint8)
            blue = tl.where(outside, 0, tl.gather(blue, came_from, 0)).to(tl.uint8)
        elif kind == _TONE:
            table = tones + code * 256
            red = tl.load(table + red.to(tl.int32))
            green = tl.load(table + green.to(tl.int32))
            blue = tl.load(table + blue.to(tl.int32))
        elif kind == _AUTOCONTRAST:
            red = _stretched(red, inside)
            green = _stretched(green, inside)
            blue = _stretched(blue, inside)
        elif kind == _EQUALIZE:
            red = _equalized(red, inside, pixels, BLOCK)
            green = _equalized(green, inside, pixels, BLOCK)
            blue = _equalized(blue, inside, pixels, BLOCK)
        elif kind == _SHARPNESS:
            red = _sharpened(red, factor, HEIGHT, WIDTH, BLOCK)
            green = _sharpened(green, factor, HEIGHT, WIDTH, BLOCK)
            blue = _sharpened(blue, factor, HEIGHT, WIDTH, BLOCK)
        elif kind == _SQUARE:
            # Only the list `published` has this operation and draws centres; the other's are None, a constant here.
            if centres is not None:
                centre = centres + (round_ * batch + row) * 2
                top = tl.floor(tl.maximum(tl.load(centre) * HEIGHT - half_side, 0.0)).to(tl.int32)
                left = tl.floor(tl.maximum(tl.load(centre + 1) * WIDTH - half_side, 0.0)).to(tl.int32)
                y = pixel // WIDTH
                x = pixel % WIDTH
                square = (y >= top) & (y <= top + side) & (x >= left) & (x <= left + side)
                red = tl.where(square, _SQUARE_RED, red).to(tl.uint8)
                green = tl.where(square, _SQUARE_GREEN, green).to(tl.uint8)
                blue = tl.where(square, _SQUARE_BLUE, blue).to(tl.uint8)
        else:
            # Luma of ITU-R 601-2, as Pillow's conversion to greyscale.
            luma = red.to(tl.float32) * 0.299 + green.to(tl.float32) * 0.587 + blue.to(tl.float32) * 0.114
            plain = tl.floor(luma + 0.5)
            if kind == _CONTRAST:
                total = tl.sum(tl.where(inside, plain, 0.0).to(tl.int32), 0)
                mean = (2 * total + pixels) // (2 * pixels)  # rounded
                plain = tl.zeros([BLOCK], tl.float32) + mean
            elif kind == _BRIGHTNESS:
                plain = tl.zeros([BLOCK], tl.float32)
            red = _blended(red, plain, factor)
            green = _blended(green, plain, factor)
            blue = _blended(blue, plain, factor)
    target = out + row * (3 * pixels) + pixel
    tl.store(target, red, mask=inside)
    tl.store(target + pixels, green, mask=inside)
    tl.store(target + 2 * pixels, blue, mask=inside)


@triton.jit
def _source(coefficients, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Where each pixel comes from, (a x + b y + c, d x + e y + f), nearest; and whether that is outside."""
    pixel = tl.arange(0, BLOCK)
    x = (pixel % WIDTH).to(tl.float32) + 0.5
    y = (pixel // WIDTH).to(tl.float32) + 0.5
    a, b, c = tl.load(coefficients), tl.load(coefficients + 1), tl.load(coefficients + 2)
    d, e, f = tl.load(coefficients + 3), tl.load(coefficients + 4), tl.load(coefficients + 5)
    column = tl.floor(a * x + (b * y + c))
    row = tl.floor(d * x + (e * y + f))
    outside = (column < 0) | (column >= WIDTH) | (row < 0) | (row >= HEIGHT)
    source = tl.where(outside, 0.0, row * WIDTH + column).to(tl.int32)
    return source, outside


@triton.jit
def _blended(values, plain, factor):
    """factor * values + (1 - factor) * plain, cut off to grey levels."""
    mixed = (values.to(tl.float32) - plain) * factor + plain
    return tl.minimum(tl.maximum(mixed, 0.0), 255.0).to(tl.int32).to(tl.uint8)


@triton.jit
def _stretched(values, inside):
    """AutoContrast: the smallest value becomes 0 and the largest 255."""
    value = values.to(tl.int32)
    low = tl.min(tl.where(inside, value, 255), 0)
    high = tl.max(tl.where(inside, value, 0), 0)
    span = high - low
    stretched = (value - low) * 255 // tl.maximum(span, 1)
    return tl.where(span > 0, stretched, value).to(tl.uint8)


@triton.jit
def _equalized(values, inside, PIXELS: tl.constexpr, BLOCK: tl.constexpr):
    """Equalize: the table that makes the histogram as even as it can; none where its steps are below one pixel."""
    value = tl.where(inside, values.to(tl.int32), 0)
    level = tl.arange(0, 256)
    counts = tl.histogram(value, 256) - tl.where(level == 0, BLOCK - PIXELS, 0)
    largest = tl.max(value, 0)
    step = (PIXELS - tl.sum(tl.where(level == largest, counts, 0), 0)) // 255
    below = tl.cumsum(counts, 0) - counts  # pixels of a smaller value
    safe = tl.maximum(step, 1)
    table = tl.minimum((below + safe // 2) // safe, 255)
    return tl.where(step > 0, tl.gather(table, value, 0), value).to(tl.uint8)


@triton.jit
def _sharpened(values, factor, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Against the image smoothed by a 3 x 3 kernel of ones with 5 in the middle, over 13; border pixels stay."""
    pixel = tl.arange(0, BLOCK)
    x = pixel % WIDTH
    y = pixel // WIDTH
    border = (x == 0) | (x >= WIDTH - 1) | (y == 0) | (y >= HEIGHT - 1)
    value = values.to(tl.int16)  # the sums are below 2**15, and what is gathered goes through shared memory
    across = value + tl.gather(values, tl.maximum(pixel - 1, 0), 0)
    across += tl.gather(values, tl.minimum(pixel + 1, BLOCK - 1), 0)
    box = across + tl.gather(across, tl.maximum(pixel - WIDTH, 0), 0)
    box += tl.gather(across, tl.minimum(pixel + WIDTH, BLOCK - 1), 0)
    smooth = tl.floor((box + 4 * value).to(tl.float32) * _THIRTEENTH + 0.5)
    return tl.where(border, values, _blended(values, smooth, factor)).to(tl.uint8)


@triton.jit(do_not_specialize=["batch", "first"])
def _finish(
    images,
    index,
    shift,
    mirrored,
    centre,
    normal,
    out,
    batch,
    first,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    REFLECT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Row first + program of `out` [batch, 3, H, W]: images[index[program]] moved, mirrored, cut out, normalised."""
    pixels: tl.constexpr = HEIGHT * WIDTH
    row = first + tl.program_id(0)
    pixel = tl.arange(0, BLOCK)
    inside = pixel < pixels
    y = pixel // WIDTH
    x = pixel % WIDTH
    down = tl.load(shift + row).to(tl.int32)
    across = tl.load(shift + batch + row).to(tl.int32)
    from_left = x
    if mirrored is not None:
        from_left = tl.where(tl.load(mirrored + row) != 0, WIDTH - 1 - x, x)
    source_y, source_x = y + down, from_left + across
    outside = (source_y < 0) | (source_y >= HEIGHT) | (source_x < 0) | (source_x >= WIDTH)
    if REFLECT:
        source_y, source_x = tl.abs(source_y), tl.abs(source_x)
        source_y = tl.minimum(source_y, 2 * (HEIGHT - 1) - source_y)
        source_x = tl.minimum(source_x, 2 * (WIDTH - 1) - source_x)
    seen = inside if REFLECT else inside & ~outside
    if centre is not None:
        side: tl.constexpr = WIDTH // _CUTOUT_PARTS
        top = tl.floor(tl.load(centre + row) * HEIGHT).to(tl.int32) - side // 2
        left = tl.floor(tl.load(centre + batch + row) * WIDTH).to(tl.int32) - side // 2
        square = (y >= top) & (y < top + side) & (x >= left) & (x < left + side)
    position = tl.program_id(0).to(tl.int64)
    if index is not None:
        position = tl.load(index + tl.program_id(0))
    for channel in tl.static_range(3):
        value = tl.load(
            images + (position * 3 + channel) * pixels + source_y * WIDTH + source_x, mask=seen, other=0
        )
        if value.dtype == tl.float32:
            value = _rounded(value)
        table = normal + channel * 256
        result = tl.load(table + value.to(tl.int32))
        if centre is not None:
            # The mean colour, which is zero after normalising, or grey.
            fill = tl.load(table + _CUTOUT_GREY) if REFLECT else 0.0
            result = tl.where(square, fill, result)
        tl.store(out + (row * 3 + channel) * pixels + pixel, result, mask=inside)


@triton.jit
def _rounded(values):
    """To the nearest whole number, halves to the even one, as `torch.round` does."""
    low = tl.floor(values)
    part = values - low
    odd = low - 2 * tl.floor(low * 0.5)
    return low + tl.where((part > 0.5) | ((part == 0.5) & (odd == 1.0)), 1.0, 0.0)
