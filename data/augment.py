"""Weak and strong views of image batches, on the device of the images.

Every function maps uint8 [B, 3, H, W] to the same shape. Each image has its own random draw, taken from the
generator that is handed in. Shapes never depend on values, and no value is read back to the host, so that a
view may be made inside a training step on a GPU without waiting for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from data.randaugment import rand_augment, take_pixels

PAD = 4  # pixels that a weak view may be moved; 12.5 % of 32 (FixMatch, section 2.3)
CUTOUT = 16  # side of the square that is blanked (DeVries and Taylor 2017, for CIFAR-10)
CUTOUT_GREY = 127


def weak(images: Tensor, generator: torch.Generator, *, flip: bool) -> Tensor:
    """Move each image by up to `PAD` pixels in each direction, and mirror half of them if `flip`.

    What moves in from outside is the image's own reflection, as in FixMatch's published augmentation (Sohn et
    al. 2020): zero padding would show the network a black frame that test images do not have.
    images: uint8 [B, C, H, W] with H, W > PAD; the generator is on the same device.
    """
    batch, _, height, width = images.shape
    device = images.device
    shift = torch.randint(-PAD, PAD + 1, (2, batch, 1), generator=generator, device=device)
    rows = _reflected(torch.arange(height, device=device) + shift[0], height)  # [B, H]
    columns = _reflected(torch.arange(width, device=device) + shift[1], width)  # [B, W]
    if flip:
        mirrored = torch.randint(0, 2, (batch, 1), generator=generator, device=device) == 1
        columns = torch.where(mirrored, columns.flip(1), columns)
    source = rows[:, :, None] * width + columns[:, None, :]  # [B, H, W]
    return take_pixels(images, source)


def strong(
    images: Tensor, generator: torch.Generator, *, flip: bool, num_ops: int = 3, magnitude: int = 4
) -> Tensor:
    """RandAugment, then a weak view, then cutout (FixMatch, section 2.3 and appendix).

    num_ops: operations in a row, each drawn among the 14; magnitude: 0..30. Arguments else as for `weak`.
    """
    images = rand_augment(images, generator, num_ops=num_ops, magnitude=magnitude)
    return cutout(weak(images, generator, flip=flip), generator)


def cutout(images: Tensor, generator: torch.Generator) -> Tensor:
    """Fill a square of `CUTOUT` pixels with mid grey; its centre is anywhere in the image, so it may be
    clipped.

    Mid grey is what FixMatch fills with: neither the darkest nor the brightest thing in the image.
    """
    batch, _, height, width = images.shape
    centre = torch.rand(2, batch, 1, generator=generator, device=images.device)
    top = (centre[0] * height).floor() - CUTOUT // 2
    left = (centre[1] * width).floor() - CUTOUT // 2
    y = torch.arange(height, device=images.device)
    x = torch.arange(width, device=images.device)
    inside_y = (y >= top) & (y < top + CUTOUT)  # [B, H]
    inside_x = (x >= left) & (x < left + CUTOUT)  # [B, W]
    return images.masked_fill((inside_y[:, :, None] & inside_x[:, None, :])[:, None], CUTOUT_GREY)


def normalize(images: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> Tensor:
    """uint8 [B, C, H, W] to float32 (images / 255 - mean) / std, channel by channel.

    Hand in tensors on the images' device inside a training step: a plain sequence is copied there each time.
    """
    shape = (1, -1, 1, 1)
    mean = torch.as_tensor(mean, dtype=torch.float32, device=images.device).view(shape)
    std = torch.as_tensor(std, dtype=torch.float32, device=images.device).view(shape)
    return images.float().mul_(1 / (255 * std)).sub_(mean / std)


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
