"""Each operation against Pillow, one image at a time: the slow twin."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

from data.randaugment import OPERATIONS, apply_operations, rand_augment

BLENDS = {
    "Brightness": ImageEnhance.Brightness,
    "Color": ImageEnhance.Color,
    "Contrast": ImageEnhance.Contrast,
    "Sharpness": ImageEnhance.Sharpness,
}
GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Photographs, dark and flat crops, noise, and constants: uint8 [24, 3, 32, 32]."""
    photo = torch.from_numpy(load_sample_images().images[0].copy()).permute(2, 0, 1)
    crops = [photo[:, 20 * i : 20 * i + 32, 25 * i : 25 * i + 32] for i in range(8)]
    wide = [photo[:, i::12, i::12][:, :32, :32] for i in range(6)]
    generator = torch.Generator().manual_seed(0)
    noise = list(torch.randint(0, 256, (4, 3, 32, 32), generator=generator, dtype=torch.uint8))
    narrow = list(torch.randint(100, 109, (2, 3, 32, 32), generator=generator, dtype=torch.uint8))
    two_tone = (torch.rand(3, 32, 32, generator=generator) < 0.02).to(torch.uint8) * 200
    flat = [torch.full((3, 32, 32), v, dtype=torch.uint8) for v in (0, 77, 255)]
    return torch.stack([*crops, *wide, *noise, *narrow, two_tone, *flat]).contiguous()


def pillow(name: str, image: Image.Image, sign: int, magnitude: int) -> Image.Image:
    part = magnitude / 30
    side = image.size[0]
    if name in BLENDS:
        return BLENDS[name](image).enhance(0.1 + part * (1.9 - 0.1))
    if name == "Rotate":
        return image.rotate(sign * 30 * part)
    if name in GEOMETRIC:
        shear, shift = sign * 0.3 * part, sign * 0.3 * part * side
        matrix = {
            "ShearX": (1, shear, 0, 0, 1, 0),
            "ShearY": (1, 0, 0, shear, 1, 0),
            "TranslateX": (1, 0, shift, 0, 1, 0),
            "TranslateY": (1, 0, 0, 0, 1, shift),
        }[name]
        return image.transform(image.size, Image.Transform.AFFINE, matrix)
    if name == "Posterize":
        return ImageOps.posterize(image, int(4 + part * (8 - 4)))
    if name == "Solarize":
        return ImageOps.solarize(image, 256 - int(part * 256))
    return {"Identity": lambda i: i, "AutoContrast": ImageOps.autocontrast, "Equalize": ImageOps.equalize}[
        name
    ](image)


def by_pillow(images: torch.Tensor, name: str, sign: int, magnitude: int) -> torch.Tensor:
    out = [
        np.asarray(pillow(name, Image.fromarray(image.permute(1, 2, 0).numpy()), sign, magnitude))
        for image in images
    ]
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2)


def ours(images: torch.Tensor, name: str, sign: int, magnitude: int) -> torch.Tensor:
    operations = torch.full((len(images),), OPERATIONS.index(name))
    return apply_operations(images, operations, torch.full((len(images),), int(sign < 0)), magnitude)


@pytest.mark.parametrize("magnitude", [0, 4, 14, 30])
@pytest.mark.parametrize("name", [n for n in OPERATIONS if n not in GEOMETRIC])
def test_values_of_each_tone_and_blend_operation_are_pillows_within_one(images, name, magnitude):
    difference = (ours(images, name, 1, magnitude).int() - by_pillow(images, name, 1, magnitude).int()).abs()
    assert difference.max() <= 1
    exact = name in ("Identity", "Posterize", "Solarize", "Equalize")
    assert difference.float().mean() <= (0 if exact else 0.05)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("magnitude", [0, 5, 14, 30])  # at 4, a shear puts a whole row between two pixels
@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometric_operations_fetch_the_pixels_that_pillow_fetches(images, name, magnitude, sign):
    same = (ours(images, name, sign, magnitude) == by_pillow(images, name, sign, magnitude)).float().mean()
    assert same > 0.995


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_changes_photographs_at_the_default_magnitude_unless_it_is_the_identity(images, name):
    changed = (ours(images, name, 1, 4) != images)[:8].flatten(1).any(1)
    assert changed.any() == (name != "Identity")


def test_the_images_of_one_batch_get_their_own_operations(images):
    mixed = apply_operations(
        images[:14], torch.arange(14), torch.zeros(14, dtype=torch.int64), 4
    )  # image k gets operation k
    for code, name in enumerate(OPERATIONS):
        assert torch.equal(mixed[code], ours(images[code : code + 1], name, 1, 4)[0]), name


def test_copies_of_one_image_come_out_different(images):
    copies = images[:1].repeat(256, 1, 1, 1)
    out = rand_augment(copies, torch.Generator().manual_seed(0), num_ops=1, magnitude=4)
    distinct = {bytes(image.numpy().tobytes()) for image in out}
    assert len(distinct) >= 17  # 9 operations without a sign (identity among them) and 5 with two


def test_posterize_does_not_blank_images(images):
    """At magnitude 4 the widely used range keeps 0 bits and returns black."""
    out = ours(images[:8], "Posterize", 1, 4)
    assert all(len(image.unique()) > 3 for image in out)


def test_no_operations_leave_the_images_as_they_are(images):
    assert torch.equal(rand_augment(images, torch.Generator(), num_ops=0, magnitude=4), images)


@pytest.mark.parametrize(("num_ops", "magnitude"), [(-1, 4), (3, 31), (3, -1)])
def test_a_magnitude_or_number_of_operations_out_of_range_is_refused(images, num_ops, magnitude):
    with pytest.raises(ValueError, match="magnitude"):
        rand_augment(images, torch.Generator(), num_ops=num_ops, magnitude=magnitude)
