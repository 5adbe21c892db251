"""RandAugment (Cubuk et al. 2020) on whole batches, every image with its own draw.

A round draws one operation for each image. To group the images by operation, the host would have to know the draw.
So each round passes all images through four stages. An image whose operation is of another stage stays as it is:

1. geometric: the pixel at (x, y) is fetched from (a x + b y + c, d x + e y + f), nearest, black outside;
2. blend: factor * image + (1 - factor) * a plainer version of it (black, mean grey, greyscale, smoothed);
3. tone: a table of 256 entries for each image and channel;
4. square: a square of one colour (`published` alone).

Definitions are Pillow's (ImageOps, ImageEnhance, Image.transform), which the published code calls;
`data/pillow_augment.py` is the slow twin. The value of an operation is min + (max - min) * magnitude / 30:

| operation | `fixmatch` | at 4 | `published` | at 4 |
|---|---|---|---|---|
| Identity | | | not in the list | |
| Invert | not in the list | | every value v becomes 255 - v | |
| AutoContrast, Equalize | | | | |
| Rotate | 0..30 degrees, either way | 4 | the same | 4 |
| ShearX, ShearY | 0..0.3, either way | 0.04 | the same | 0.04 |
| TranslateX, TranslateY | 0..0.3 of the side, either way | 1.28 of 32 | 0..100 pixels, either way | 13.3 |
| Color, Contrast, Brightness, Sharpness | factor 0.1..1.9 | 0.34 | the same | 0.34 |
| Posterize | 4..8 bits kept, rounded down | 4 | 0..4 bits, rounded down, at least 1 | 1 |
| Solarize | 256..0: values from there on are inverted | 221 | 0..256 | 34.1 |
| SolarizeAdd | not in the list | | 0..110 is added, then values from 128 on are inverted | 14 |
| CutoutAbs | not in the list | | a grey square of 0..40 pixels, rounded down, plus one | 6 |

`fixmatch` is the list of FixMatch (Sohn et al. 2020, appendix). `published` is the list of 16 that the first public
implementation of DARP uses. A comparison with the paper's figures needs it. Its Solarize runs upwards, so magnitude 4
inverts everything but the darkest pixels. Its Posterize keeps no bit below magnitude 7.5. Old versions of Pillow then
gave a black image, today's refuses; here one bit is kept.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

FIXMATCH: dict[str, tuple[float, float]] = {  # operation: its value at magnitude 0 and at 30
    "Identity": (0, 0),
    "AutoContrast": (0, 0),
    "Equalize": (0, 0),
    "Posterize": (4, 8),
    "Solarize": (256, 0),
    "Brightness": (0.1, 1.9),
    "Color": (0.1, 1.9),
    "Contrast": (0.1, 1.9),
    "Sharpness": (0.1, 1.9),
    "Rotate": (0, 30),
    "ShearX": (0, 0.3),
    "ShearY": (0, 0.3),
    "TranslateX": (0, 0.3),
    "TranslateY": (0, 0.3),
}
PUBLISHED: dict[str, tuple[float, float]] = {
    "AutoContrast": (0, 0),
    "Equalize": (0, 0),
    "Invert": (0, 0),
    "Rotate": (0, 30),
    "Posterize": (0, 4),
    "Solarize": (0, 256),
    "SolarizeAdd": (0, 110),
    "Color": (0.1, 1.9),
    "Contrast": (0.1, 1.9),
    "Brightness": (0.1, 1.9),
    "Sharpness": (0.1, 1.9),
    "ShearX": (0, 0.3),
    "ShearY": (0, 0.3),
    "CutoutAbs": (0, 40),
    "TranslateXabs": (0, 100),
    "TranslateYabs": (0, 100),
}
LISTS: dict[str, dict[str, tuple[float, float]]] = {"fixmatch": FIXMATCH, "published": PUBLISHED}
MAX_MAGNITUDE = 30
SQUARE_COLOUR = (125, 123, 114)  # of CutoutAbs
CODE = {which: {name: code for code, name in enumerate(LISTS[which])} for which in LISTS}

# What an operation is to the passes that give each image its own operations alone (`data.compiled`, `data.kernels`).
AFFINE, TONE, BRIGHTNESS, COLOR, CONTRAST, SHARPNESS, AUTOCONTRAST, EQUALIZE, SQUARE = range(9)
KINDS = {
    "Rotate": AFFINE,
    "ShearX": AFFINE,
    "ShearY": AFFINE,
    "TranslateX": AFFINE,
    "TranslateY": AFFINE,
    "TranslateXabs": AFFINE,
    "TranslateYabs": AFFINE,
    "Brightness": BRIGHTNESS,
    "Color": COLOR,
    "Contrast": CONTRAST,
    "Sharpness": SHARPNESS,
    "AutoContrast": AUTOCONTRAST,
    "Equalize": EQUALIZE,
    "CutoutAbs": SQUARE,
}  # all others are a table of 256 entries that does not depend on the image


def value_of(which: str, name: str, magnitude: int) -> float:
    """What magnitude 0..30 means to an operation: bits, degrees, pixels, a threshold or a factor."""
    low, high = LISTS[which][name]
    return low + (high - low) * (magnitude / MAX_MAGNITUDE)


def require_in_range(num_ops: int, magnitude: int) -> None:
    """ValueError unless there are such a number and such a magnitude of operations."""
    if num_ops < 0 or not 0 <= magnitude <= MAX_MAGNITUDE:
        raise ValueError(
            f"num_ops {num_ops}, magnitude {magnitude}: use num_ops >= 0 and magnitude 0..{MAX_MAGNITUDE}"
        )


class Operations(NamedTuple):
    """What RandAugment does to each image of a batch, round by round."""

    codes: Tensor
    """Number of the operation in its list, int64 [rounds, B]."""
    negative: Tensor
    """1 turns a rotation, shear or translation the other way, int64 [rounds, B] of 0 and 1."""
    centres: Tensor | None
    """Where CutoutAbs puts its square, down and across, float32 [rounds, B, 2] in 0..1; None in a list without it."""

    def split(self, sizes: Sequence[int]) -> list[Operations]:
        """Those of the first sizes[0] images, of the next sizes[1], and so on."""
        none = [None] * len(sizes)
        centres = none if self.centres is None else self.centres.split(sizes, 1)
        parts = zip(self.codes.split(sizes, 1), self.negative.split(sizes, 1), centres, strict=True)
        return [Operations(*part) for part in parts]


def draw_operations(batch: int, generator: torch.Generator, *, num_ops: int, which: str) -> Operations:
    """`num_ops` operations in a row for each of `batch` images, each drawn uniformly from the list `which`."""
    shape, device = (num_ops, batch), generator.device
    codes = torch.randint(0, len(LISTS[which]), shape, generator=generator, device=device)
    negative = torch.randint(0, 2, shape, generator=generator, device=device)
    centres = torch.rand((*shape, 2), generator=generator, device=device) if which == "published" else None
    return Operations(codes, negative, centres)


def rand_augment(
    images: Tensor, generator: torch.Generator, *, num_ops: int, magnitude: int, which: str = "fixmatch"
) -> Tensor:
    """Apply `num_ops` operations in a row to each image, each drawn uniformly from the list `which`.

    images: uint8 [B, 3, H, W], the generator on the same device; magnitude 0..30. Returns uint8 of the same
    shape. Raises ValueError for a number of operations or a magnitude out of range.
    """
    require_in_range(num_ops, magnitude)
    drawn = draw_operations(len(images), generator, num_ops=num_ops, which=which)
    for round_, (codes, negative) in enumerate(zip(drawn.codes, drawn.negative, strict=True)):
        centre = None if drawn.centres is None else drawn.centres[round_]
        images = apply_operations(images, codes, negative, magnitude, which=which, centre=centre)
    return images


def apply_operations(
    images: Tensor,
    operations: Tensor,
    negative: Tensor,
    magnitude: int,
    *,
    which: str = "fixmatch",
    centre: Tensor | None = None,
) -> Tensor:
    """One round: operation number operations[b] of the list `which` on image b.

    images: uint8 [B, 3, H, W]; operations: int64 [B]; negative: int64 [B] of 0 and 1, where 1 turns a
    rotation, shear or translation the other way; centre: float32 [B, 2] in 0..1, down and across, where CutoutAbs
    puts its square (needed by `published` alone).
    """
    images = _geometric(images, operations, negative, magnitude, which)
    images = _blended(images, operations, magnitude, which)
    images = _toned(images, operations, magnitude, which)
    return images if centre is None else _squared(images, operations, magnitude, which, centre)


def take_pixels(images: Tensor, source: Tensor) -> Tensor:
    """[B, C, H, W] with the pixel at source[b, y, x] = row * W + column of image b put at (y, x)."""
    batch, channels, height, width = images.shape
    index = source.view(batch, 1, height * width).expand(-1, channels, -1)
    return images.reshape(batch, channels, height * width).gather(2, index).view_as(images)


# Stage 1


@functools.lru_cache(maxsize=32)
def affine_table(which: str, magnitude: int, height: int, width: int, device: torch.device) -> Tensor:
    """Coefficients a, b, c, d, e, f of each operation and sign, float32 [operations, 2, 6]; identity where not
    geometric.

    (x, y) are pixel centres. Shears leave the top or left edge in place, rotations the middle.
    """
    value = functools.partial(value_of, which, magnitude=magnitude)
    code = CODE[which]
    table = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0], dtype=torch.float64).repeat(len(code), 2, 1)
    for negative, sign in enumerate((1.0, -1.0)):
        angle = math.radians(value("Rotate"))
        cos, sin = math.cos(angle), sign * math.sin(angle)
        mid_x, mid_y = width / 2, height / 2
        rotation = [cos, -sin, mid_x - cos * mid_x + sin * mid_y, sin, cos, mid_y - sin * mid_x - cos * mid_y]
        table[code["Rotate"], negative] = torch.tensor(rotation, dtype=torch.float64)
        table[code["ShearX"], negative, 1] = sign * value("ShearX")
        table[code["ShearY"], negative, 3] = sign * value("ShearY")
        if which == "fixmatch":
            table[code["TranslateX"], negative, 2] = sign * value("TranslateX") * width
            table[code["TranslateY"], negative, 5] = sign * value("TranslateY") * height
        else:
            table[code["TranslateXabs"], negative, 2] = sign * value("TranslateXabs")
            table[code["TranslateYabs"], negative, 5] = sign * value("TranslateYabs")
    # FixMatch's list stays unrounded: finished runs were made with it.
    return (_in_fixed_point(table) if which == "published" else table).float().to(device)


def _in_fixed_point(table: Tensor) -> Tensor:
    """The coefficients as Pillow rounds them, to 1/65536, so that a pixel halfway between two is the one it takes.

    Pillow starts from the image's first pixel, whose centre is at (0.5, 0.5), and rounds the start too. In
    float32 the sums of such numbers are exact for images of up to 128 pixels.
    """
    rows = table.view(-1, 2, 3)  # (a, b, c) and (d, e, f)
    start = rows[..., 2] + rows[..., 0] * 0.5 + rows[..., 1] * 0.5
    steps, start = ((65536 * part + 0.5).floor() / 65536 for part in (rows[..., :2], start))
    offset = start - steps.sum(-1) * 0.5
    return torch.cat([steps, offset[..., None]], dim=-1).view_as(table)


def _geometric(images: Tensor, operations: Tensor, negative: Tensor, magnitude: int, which: str) -> Tensor:
    batch, _, height, width = images.shape
    table = affine_table(which, magnitude, height, width, images.device)
    a, b, c, d, e, f = table[operations, negative].view(batch, 6, 1, 1).unbind(1)  # each [B, 1, 1]
    x = torch.arange(width, device=images.device).view(1, 1, -1) + 0.5
    y = torch.arange(height, device=images.device).view(1, -1, 1) + 0.5
    column = (a * x + (b * y + c)).floor_()  # [B, H, W]
    row = (d * x + (e * y + f)).floor_()
    outside = (column < 0) | (column >= width) | (row < 0) | (row >= height)
    source = row.clamp_(0, height - 1).mul_(width).add_(column.clamp_(0, width - 1)).long()
    return take_pixels(images, source).masked_fill_(outside[:, None], 0)


# Stage 2


@functools.lru_cache(maxsize=32)
def blend_table(which: str, magnitude: int, device: torch.device) -> Tensor:
    """Of each operation: the factor, and 1 where the plainer image is the greyscale, the mean grey or the
    smoothed one (0 for all: black), float32 [operations, 4]."""
    code = CODE[which]
    table = torch.zeros(len(code), 4)
    table[:, 0] = 1  # the image itself
    for column, name in enumerate(("Brightness", "Color", "Contrast", "Sharpness")):
        table[code[name], column] = 1
        table[code[name], 0] = value_of(which, name, magnitude)
    return table.to(device)


def _blended(images: Tensor, operations: Tensor, magnitude: int, which: str) -> Tensor:
    columns = blend_table(which, magnitude, images.device)[operations].view(-1, 4, 1, 1, 1)
    factor, is_grey, is_mean, is_smooth = columns.unbind(1)  # each [B, 1, 1, 1]
    values = images.float()
    # Luma of ITU-R 601-2, as Pillow's conversion to greyscale.
    grey = values[:, 0] * 0.299 + values[:, 1] * 0.587 + values[:, 2] * 0.114
    grey = grey.add_(0.5).floor_().unsqueeze(1)  # [B, 1, H, W]
    # Sums of whole numbers are exact, and so is the division: no device rounds it another way.
    pixels = grey.shape[2] * grey.shape[3]
    total = grey.sum((2, 3), keepdim=True)
    mean = total.add_(pixels / 2).div_(pixels, rounding_mode="floor")
    plain = _smoothed(values).mul_(is_smooth).add_(is_grey * grey + is_mean * mean)
    # In this order of operations a pixel that equals its plainer version stays exactly what it is.
    return values.sub_(plain).mul_(factor).add_(plain).clamp_(0, 255).to(torch.uint8)


def _smoothed(values: Tensor) -> Tensor:
    """The 3 x 3 kernel of ones with 5 in the middle, over 13; the border pixels stay (Pillow's SMOOTH
    filter)."""
    across = values[:, :, :, :-2] + values[:, :, :, 1:-1] + values[:, :, :, 2:]
    box = across[:, :, :-2] + across[:, :, 1:-1] + across[:, :, 2:]
    out = values.clone()
    out[:, :, 1:-1, 1:-1].mul_(4).add_(box).mul_(1 / 13).add_(0.5).floor_()
    return out


# Stage 3


@functools.lru_cache(maxsize=32)
def tone_table(which: str, magnitude: int, device: torch.device) -> Tensor:
    """The result for each value of the operations that do not look at the image, int32 [operations, 256]."""
    code, value = CODE[which], functools.partial(value_of, which, magnitude=magnitude)
    pixel = torch.arange(256, dtype=torch.int32)
    table = pixel.repeat(len(code), 1)
    dropped_bits = 8 - max(1, int(value("Posterize")))
    table[code["Posterize"]] = (pixel >> dropped_bits) << dropped_bits
    table[code["Solarize"]] = torch.where(pixel < math.ceil(value("Solarize")), pixel, 255 - pixel)
    if which == "published":
        table[code["Invert"]] = 255 - pixel
        brighter = (pixel + int(value("SolarizeAdd"))).clamp(max=255)
        table[code["SolarizeAdd"]] = torch.where(brighter < 128, brighter, 255 - brighter)
    return table.to(device)


def _toned(images: Tensor, operations: Tensor, magnitude: int, which: str) -> Tensor:
    batch, channels, height, width = images.shape
    flat = images.view(batch, channels, height * width)
    index = flat.long()
    value = torch.arange(256, dtype=torch.int32, device=images.device)
    operations = operations.view(batch, 1, 1)

    table = tone_table(which, magnitude, images.device)[operations.view(batch)].unsqueeze(1)  # [B, 1, 256]
    low, high = (v.int().unsqueeze(2) for v in flat.aminmax(dim=2))  # each [B, C, 1]
    table = torch.where(operations == CODE[which]["AutoContrast"], _stretched(value, low, high), table)
    table = torch.where(operations == CODE[which]["Equalize"], _equalized(value, index, high), table)
    return table.to(torch.uint8).gather(2, index).view_as(images)


def _stretched(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The table that maps low..high to 0..255, int32 [B, C, 256]; as it is where they are equal."""
    span = high - low
    table = torch.div((value - low) * 255, span.clamp(min=1), rounding_mode="floor").clamp_(0, 255)
    return torch.where(span > 0, table, value)


def _equalized(value: Tensor, index: Tensor, high: Tensor) -> Tensor:
    """The table that makes the histogram of each channel as even as it can, int32 [B, C, 256].

    index: int64 [B, C, H * W] the pixels' values; high: int32 [B, C, 1] the largest of them. As it is where a
    step of the table would take less than one pixel.
    """
    batch, channels, pixels = index.shape
    counts = torch.zeros(batch, channels, 256, dtype=torch.int32, device=index.device)
    counts.scatter_add_(2, index, torch.ones((), dtype=torch.int32, device=index.device).expand_as(index))
    step = torch.div(pixels - counts.gather(2, high.long()), 255, rounding_mode="floor")  # [B, C, 1]
    below = counts.cumsum(2, dtype=torch.int32) - counts  # pixels of a smaller value
    safe = step.clamp(min=1)
    table = torch.div(below + torch.div(safe, 2, rounding_mode="floor"), safe, rounding_mode="floor").clamp_(
        max=255
    )
    return torch.where(step > 0, table, value)


# Stage 4


@functools.lru_cache(maxsize=4)
def _square_colour(device: torch.device) -> Tensor:
    return torch.tensor(SQUARE_COLOUR, dtype=torch.uint8, device=device).view(1, 3, 1, 1)


def _squared(images: Tensor, operations: Tensor, magnitude: int, which: str, centre: Tensor) -> Tensor:
    """CutoutAbs: near the top or left edge the square is moved into the image, near the other two it is cut."""
    _, _, height, width = images.shape
    value = value_of(which, "CutoutAbs", magnitude)
    is_square = (operations == CODE[which]["CutoutAbs"])[:, None]  # [B, 1]
    inside = []
    for size, middle in ((height, centre[:, :1]), (width, centre[:, 1:])):
        first = (middle * size - value / 2).clamp_(min=0).floor_()
        position = torch.arange(size, device=images.device)
        inside.append((position >= first) & (position <= first + int(value)))  # [B, size]
    square = (inside[0] & is_square)[:, :, None] & inside[1][:, None, :]
    return torch.where(square[:, None], _square_colour(images.device), images)
