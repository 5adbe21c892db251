"""RandAugment (Cubuk et al. 2020) on whole batches, every image with its own draw.

A round draws one of the 14 operations for each image. Rather than group the images by operation, which needs
to know the draw on the host, each round passes all images through three stages, in which an image whose
operation is of another stage stays as it is:

1. geometric: the pixel at (x, y) is fetched from (a x + b y + c, d x + e y + f), nearest, black outside;
2. blend: factor * image + (1 - factor) * a plainer version of it (black, mean grey, greyscale, smoothed);
3. tone: a table of 256 entries for each image and channel.

Definitions are Pillow's (ImageOps, ImageEnhance, Image.transform), which the published code calls. The value
of an operation is min + (max - min) * magnitude / 30:

| operation | range | at magnitude 4 |
|---|---|---|
| Rotate | 0..30 degrees, either way | 4 degrees |
| ShearX, ShearY | 0..0.3, either way | 0.04 |
| TranslateX, TranslateY | 0..0.3 of the side, either way | 1.28 pixels |
| Color, Contrast, Brightness, Sharpness | factor 0.1..1.9 | 0.34 |
| Posterize | 4..8 bits kept, rounded down | 4 bits |
| Solarize | 256..0: values from there on are inverted | 221 |

Posterize has FixMatch's range. The widely used list has 0..4 bits, which at magnitude 4 rounds down to none
and makes every posterized image constant black. Solarize runs downwards, so that a larger magnitude inverts
more; upwards, a magnitude of 4 would invert everything but the darkest pixels.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

OPERATIONS = (
    "Identity",
    "AutoContrast",
    "Equalize",
    "Posterize",
    "Solarize",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Rotate",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
)
MAX_MAGNITUDE = 30
_CODE = {name: code for code, name in enumerate(OPERATIONS)}


def rand_augment(images: Tensor, generator: torch.Generator, *, num_ops: int, magnitude: int) -> Tensor:
    """Apply `num_ops` operations in a row to each image, each drawn uniformly among the 14.

    images: uint8 [B, 3, H, W], the generator on the same device; magnitude 0..30. Returns uint8 of the same
    shape.
    """
    if num_ops < 0 or not 0 <= magnitude <= MAX_MAGNITUDE:
        raise ValueError(
            f"num_ops {num_ops}, magnitude {magnitude}: use num_ops >= 0 and magnitude 0..{MAX_MAGNITUDE}"
        )
    shape = (num_ops, len(images))
    operations = torch.randint(0, len(OPERATIONS), shape, generator=generator, device=images.device)
    negative = torch.randint(0, 2, shape, generator=generator, device=images.device)
    for round_ in range(num_ops):
        images = apply_operations(images, operations[round_], negative[round_], magnitude)
    return images


def apply_operations(images: Tensor, operations: Tensor, negative: Tensor, magnitude: int) -> Tensor:
    """One round: operation `OPERATIONS[operations[b]]` on image b.

    images: uint8 [B, 3, H, W]; operations: int64 [B]; negative: int64 [B] of 0 and 1, where 1 turns a
    rotation, shear or translation the other way.
    """
    images = _geometric(images, operations, negative, magnitude)
    images = _blended(images, operations, magnitude)
    return _toned(images, operations, magnitude)


def take_pixels(images: Tensor, source: Tensor) -> Tensor:
    """[B, C, H, W] with the pixel at source[b, y, x] = row * W + column of image b put at (y, x)."""
    batch, channels, height, width = images.shape
    index = source.view(batch, 1, height * width).expand(-1, channels, -1)
    return images.reshape(batch, channels, height * width).gather(2, index).view_as(images)


# Stage 1


@functools.lru_cache(maxsize=32)
def _affine_table(magnitude: int, height: int, width: int, device: torch.device) -> Tensor:
    """Coefficients a, b, c, d, e, f of each operation and sign, float32 [14, 2, 6]; identity where not
    geometric.

    (x, y) are pixel centres. Shears leave the top or left edge in place, rotations the middle.
    """
    part = magnitude / MAX_MAGNITUDE
    table = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0], dtype=torch.float64).repeat(len(OPERATIONS), 2, 1)
    for negative, sign in enumerate((1.0, -1.0)):
        cos, sin = math.cos(math.radians(30 * part)), sign * math.sin(math.radians(30 * part))
        mid_x, mid_y = width / 2, height / 2
        rotation = [cos, -sin, mid_x - cos * mid_x + sin * mid_y, sin, cos, mid_y - sin * mid_x - cos * mid_y]
        table[_CODE["Rotate"], negative] = torch.tensor(rotation, dtype=torch.float64)
        table[_CODE["ShearX"], negative, 1] = sign * 0.3 * part
        table[_CODE["ShearY"], negative, 3] = sign * 0.3 * part
        table[_CODE["TranslateX"], negative, 2] = sign * 0.3 * part * width
        table[_CODE["TranslateY"], negative, 5] = sign * 0.3 * part * height
    return table.float().to(device)


def _geometric(images: Tensor, operations: Tensor, negative: Tensor, magnitude: int) -> Tensor:
    batch, _, height, width = images.shape
    table = _affine_table(magnitude, height, width, images.device)
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
def _blend_table(magnitude: int, device: torch.device) -> Tensor:
    """Of each operation: the factor, and 1 where the plainer image is the greyscale, the mean grey or the
    smoothed one (0 for all: black), float32 [14, 4]."""
    table = torch.zeros(len(OPERATIONS), 4)
    table[:, 0] = 1  # the image itself
    for column, name in enumerate(("Brightness", "Color", "Contrast", "Sharpness")):
        table[_CODE[name], column] = 1
        table[_CODE[name], 0] = 0.1 + 1.8 * magnitude / MAX_MAGNITUDE
    return table.to(device)


def _blended(images: Tensor, operations: Tensor, magnitude: int) -> Tensor:
    columns = _blend_table(magnitude, images.device)[operations].view(-1, 4, 1, 1, 1)
    factor, is_grey, is_mean, is_smooth = columns.unbind(1)  # each [B, 1, 1, 1]
    values = images.float()
    # Luma of ITU-R 601-2, as Pillow's conversion to greyscale.
    grey = values[:, 0] * 0.299 + values[:, 1] * 0.587 + values[:, 2] * 0.114
    grey = grey.add_(0.5).floor_().unsqueeze(1)  # [B, 1, H, W]
    mean = grey.mean((2, 3), keepdim=True).add_(0.5).floor_()
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
def _tone_table(magnitude: int, device: torch.device) -> Tensor:
    """The result for each value of the operations that do not look at the image, int32 [14, 256]."""
    part = magnitude / MAX_MAGNITUDE
    value = torch.arange(256, dtype=torch.int32)
    table = value.repeat(len(OPERATIONS), 1)
    dropped_bits = 8 - int(4 + 4 * part)
    table[_CODE["Posterize"]] = (value >> dropped_bits) << dropped_bits
    threshold = 256 - int(256 * part)
    table[_CODE["Solarize"]] = torch.where(value < threshold, value, 255 - value)
    return table.to(device)


def _toned(images: Tensor, operations: Tensor, magnitude: int) -> Tensor:
    batch, channels, height, width = images.shape
    flat = images.view(batch, channels, height * width)
    index = flat.long()
    value = torch.arange(256, dtype=torch.int32, device=images.device)
    operations = operations.view(batch, 1, 1)

    table = _tone_table(magnitude, images.device)[operations.view(batch)].unsqueeze(1)  # [B, 1, 256]
    low, high = (v.int().unsqueeze(2) for v in flat.aminmax(dim=2))  # each [B, C, 1]
    table = torch.where(operations == _CODE["AutoContrast"], _stretched(value, low, high), table)
    table = torch.where(operations == _CODE["Equalize"], _equalized(value, index, high), table)
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
