"""The published strong view's operations on one Pillow image: the slow twin of `data.randaugment`.

Tests hold the batched operations against these, and `--loader published` augments with them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from data.randaugment import LISTS, SQUARE_COLOUR, value_of

_AFFINE = Image.Transform.AFFINE


@dataclass(frozen=True)
class PillowRandAugment:
    """`num_ops` operations drawn with replacement from a list of `data.randaugment`, on one RGB image at a time.

    Draws come from Python's `random`, which a DataLoader seeds in each of its workers.
    """

    num_ops: int
    magnitude: int
    which: str = "published"

    def __call__(self, image: Image.Image) -> Image.Image:
        for name in random.choices(list(LISTS[self.which]), k=self.num_ops):
            value = value_of(self.which, name, self.magnitude)
            image = apply(
                name, image, value, sign=random.choice((1, -1)), centre=(random.random(), random.random())
            )
        return image


def apply(
    name: str, image: Image.Image, value: float, *, sign: int = 1, centre: tuple[float, float] = (0.5, 0.5)
) -> Image.Image:
    """The operation `name` of either list on an RGB image.

    value: as `data.randaugment.value_of` gives it. sign: 1 or -1, the way of a rotation, shear or translation.
    centre: 0..1 down and across, of CutoutAbs. Raises AttributeError for an unknown name.
    """
    if name in _GEOMETRIC:
        return _geometric(name, image, sign * value)
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        enhanced: Image.Image = getattr(ImageEnhance, name)(image).enhance(value)
        return enhanced
    if name == "Posterize":
        return ImageOps.posterize(image, max(1, int(value)))
    if name == "Solarize":
        return image.point([v if v < value else 255 - v for v in range(256)] * 3)
    if name == "SolarizeAdd":
        brighter = image.point([min(255, v + int(value)) for v in range(256)] * 3)
        return ImageOps.solarize(brighter, 128)
    if name == "CutoutAbs":
        return _square(image, value, centre)
    if name == "Identity":
        return image.copy()
    untuned: Image.Image = getattr(ImageOps, name.lower())(image)  # AutoContrast, Equalize, Invert
    return untuned


_GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "TranslateXabs", "TranslateYabs")


def _geometric(name: str, image: Image.Image, value: float) -> Image.Image:
    width, height = image.size
    if name == "Rotate":
        return image.rotate(value)
    matrix = {
        "ShearX": (1, value, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, value, 1, 0),
        "TranslateX": (1, 0, value * width, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, value * height),
        "TranslateXabs": (1, 0, value, 0, 1, 0),
        "TranslateYabs": (1, 0, 0, 0, 1, value),
    }[name]
    return image.transform(image.size, _AFFINE, matrix)


def _square(image: Image.Image, value: float, centre: tuple[float, float]) -> Image.Image:
    width, height = image.size
    top, left = (int(max(0.0, c * n - value / 2)) for c, n in zip(centre, (height, width), strict=True))
    image = image.copy()
    ImageDraw.Draw(image).rectangle(
        (left, top, min(width, left + value), min(height, top + value)), SQUARE_COLOUR
    )
    return image
