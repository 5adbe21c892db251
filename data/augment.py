"""Weak and strong views of image batches, on the device of the images.

There are two augmentations. `fixmatch` is FixMatch's (Sohn et al. 2020): 14 operations, padding by reflection, and a
grey square before normalising. `published` is that of the first public implementation of DARP: 16 operations, padding
with zeros, and a square of the mean colour, cut out after normalising. docs/data_time.md compares the two.

Each image has its own random draw, taken from the generator that is handed in. Shapes never depend on values, and
no value is read back to the host, so that a view may be made inside a training step on a GPU without waiting for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from data.randaugment import rand_augment, take_pixels

PAD_PARTS = 8  # a weak view may be moved by an eighth of its side: 4 pixels of 32 (FixMatch, section 2.3)
CUTOUT_PARTS = (
    2  # the square that is blanked has half of the side: 16 of 32 (DeVries and Taylor 2017, for CIFAR-10)
)
CUTOUT_GREY = 127


def weak_view(
    images: Tensor, generator: torch.Generator, mean: Tensor, std: Tensor, *, flip: bool, augment: str
) -> Tensor:
    """Moved, mirrored, normalised: float32 [B, 3, H, W] of uint8 [B, 3, H, W]."""
    return normalize(weak(images, generator, flip=flip, reflect=augment == "fixmatch"), mean, std)


def strong_view(
    images: Tensor,
    generator: torch.Generator,
    mean: Tensor,
    std: Tensor,
    *,
    flip: bool,
    augment: str,
    num_ops: int,
    magnitude: int,
    size: int,
) -> Tensor:
    """RandAugment, then a weak view, with a square cut out: float32 [B, 3, size, size] of uint8 [B, 3, H, W].

    The operations are applied to the images at their own size, which may be larger than `size` pixels (STL-10).
    num_ops: operations in a row, each drawn from the list `augment`; magnitude: 0..30.
    """
    images = rand_augment(images, generator, num_ops=num_ops, magnitude=magnitude, which=augment)
    if images.shape[-1] != size:
        images = resize(images, size)
    moved = weak(images, generator, flip=flip, reflect=augment == "fixmatch")
    if augment == "fixmatch":  # grey: neither the darkest nor the brightest thing in the image
        return normalize(cutout(moved, generator, CUTOUT_GREY), mean, std)
    return cutout(normalize(moved, mean, std), generator, 0)  # after normalising, zero is the mean colour


class Move(NamedTuple):
    """How a weak view moves each image of a batch."""

    shift: Tensor
    """Pixels down and across, int64 [2, B, 1]."""
    mirrored: Tensor | None
    """Whether left and right change places, bool [B, 1]; None: in no image."""

    def split(self, sizes: Sequence[int]) -> list[Move]:
        """That of the first sizes[0] images, of the next sizes[1], and so on."""
        mirrored = [None] * len(sizes) if self.mirrored is None else self.mirrored.split(sizes)
        return [Move(*part) for part in zip(self.shift.split(sizes, 1), mirrored, strict=True)]


def draw_move(batch: int, generator: torch.Generator, *, flip: bool, side: int) -> Move:
    """A move of up to an eighth of the `side` in each direction; half of the images are mirrored if `flip`."""
    device, most = generator.device, side // PAD_PARTS
    shift = torch.randint(-most, most + 1, (2, batch, 1), generator=generator, device=device)
    mirrored = torch.randint(0, 2, (batch, 1), generator=generator, device=device) == 1 if flip else None
    return Move(shift, mirrored)


def draw_centre(batch: int, generator: torch.Generator) -> Tensor:
    """The middle of the square to cut out, down and across: float32 [2, B, 1] in 0..1 of the side."""
    return torch.rand(2, batch, 1, generator=generator, device=generator.device)


def weak(images: Tensor, generator: torch.Generator, *, flip: bool, reflect: bool = True) -> Tensor:
    """Move each image by up to an eighth of its side in each direction, and mirror half of them if `flip`.

    What moves in from outside is the image's own reflection (`reflect`), as in FixMatch's published augmentation
    (Sohn et al. 2020), or black. A black frame is something that test images do not have.
    images: uint8 [B, C, S, S]; the generator is on the same device.
    """
    batch, _, height, width = images.shape
    device = images.device
    shift, mirrored = draw_move(batch, generator, flip=flip, side=width)
    rows = torch.arange(height, device=device) + shift[0]  # [B, H]
    columns = torch.arange(width, device=device) + shift[1]  # [B, W]
    if mirrored is not None:
        columns = torch.where(mirrored, columns.flip(1), columns)
    source = (
        _reflected(rows, height)[:, :, None] * width + _reflected(columns, width)[:, None, :]
    )  # [B, H, W]
    moved = take_pixels(images, source)
    if reflect:
        return moved
    outside_y, outside_x = (rows < 0) | (rows >= height), (columns < 0) | (columns >= width)
    return moved.masked_fill_((outside_y[:, :, None] | outside_x[:, None, :])[:, None], 0)


def cutout(images: Tensor, generator: torch.Generator, fill: int) -> Tensor:
    """Fill a square of half the side; its centre is anywhere in the image, so it may be clipped.

    images: [B, C, S, S] of any dtype.
    """
    batch, _, height, width = images.shape
    centre, side = draw_centre(batch, generator), width // CUTOUT_PARTS
    top = (centre[0] * height).floor() - side // 2
    left = (centre[1] * width).floor() - side // 2
    y = torch.arange(height, device=images.device)
    x = torch.arange(width, device=images.device)
    inside_y = (y >= top) & (y < top + side)  # [B, H]
    inside_x = (x >= left) & (x < left + side)  # [B, W]
    return images.masked_fill((inside_y[:, :, None] & inside_x[:, None, :])[:, None], fill)


def resize(images: Tensor, size: int) -> Tensor:
    """uint8 [B, C, H, W] to uint8 [B, C, size, size] by antialiased bilinear interpolation."""
    out = functional.interpolate(
        images.float(), (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    return out.round_().clamp_(0, 255).to(torch.uint8)


def normalize(images: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> Tensor:
    """uint8 [B, C, H, W] to float32 (images / 255 - mean) / std, channel by channel.

    Hand in tensors on the images' device inside a training step: a plain sequence is copied there each time.
    """
    shape = (1, -1, 1, 1)
    mean = torch.as_tensor(mean, dtype=torch.float32, device=images.device).view(shape)
    std = torch.as_tensor(std, dtype=torch.float32, device=images.device).view(shape)
    return images.float().mul_(1 / (255 * std)).sub_(mean / std)


def normalized_values(mean: Tensor, std: Tensor) -> Tensor:
    """What `normalize` makes of each value of each channel, float32 [3, 256]."""
    ramp = torch.arange(256, dtype=torch.uint8, device=mean.device).view(1, 1, 16, 16)
    return normalize(ramp.expand(1, 3, 16, 16), mean, std).view(3, 256)


def rotate90(images: Tensor, k: Tensor) -> Tensor:
    """Turn image b by k[b] quarter turns counter-clockwise, as `torch.rot90` does (ReMixMatch's rotation
    task).

    images: [B, C, S, S] of any dtype; k: int64 [B] with values 0..3.
    """
    turned = torch.stack([torch.rot90(images, turns, (2, 3)) for turns in range(4)])
    return turned[k, torch.arange(len(images), device=images.device)]


def _reflected(index: Tensor, size: int) -> Tensor:
    """Positions outside 0..size-1 mirrored at the border pixels, which are not repeated."""
    index = index.abs()
    return torch.minimum(index, 2 * (size - 1) - index)
