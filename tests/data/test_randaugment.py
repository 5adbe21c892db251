"""Each operation of both lists against Pillow, one image at a time: the slow twin of data/pillow_augment.py."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.augmentation import PUBLISHED_FIGURES, natural_crops, sample_photographs, strength
from data.pillow_augment import PillowRandAugment, apply
from data.randaugment import FIXMATCH, LISTS, PUBLISHED, apply_operations, rand_augment, value_of

GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "TranslateXabs", "TranslateYabs")
EXACT = ("Identity", "Posterize", "Solarize", "SolarizeAdd", "Invert", "Equalize", "CutoutAbs")
BOTH = [(which, name) for which, operations in LISTS.items() for name in operations]


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


def by_pillow(images, which, name, sign, magnitude, centre=(0.5, 0.5)) -> torch.Tensor:
    value = value_of(which, name, magnitude)
    out = [
        np.asarray(
            apply(name, Image.fromarray(image.permute(1, 2, 0).numpy()), value, sign=sign, centre=centre)
        )
        for image in images
    ]
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2)


def ours(images, which, name, sign, magnitude, centre=(0.5, 0.5)) -> torch.Tensor:
    operations = torch.full((len(images),), list(LISTS[which]).index(name))
    negative = torch.full((len(images),), int(sign < 0))
    middle = torch.tensor([centre] * len(images)) if which == "published" else None
    return apply_operations(images, operations, negative, magnitude, which=which, centre=middle)


def test_the_values_at_magnitude_4_are_those_of_the_published_list():
    values = {name: value_of("published", name, 4) for name in PUBLISHED}
    assert len(values) == 16
    unused = dict.fromkeys(("AutoContrast", "Equalize", "Invert"), 0)
    blends = dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), 0.34)
    shears = dict.fromkeys(("ShearX", "ShearY"), 0.04)
    shifts = dict.fromkeys(("TranslateXabs", "TranslateYabs"), 40 / 3)
    rest = {
        "Rotate": 4,
        "Posterize": 16 / 30,
        "Solarize": 1024 / 30,
        "SolarizeAdd": 44 / 3,
        "CutoutAbs": 16 / 3,
    }
    assert values == pytest.approx(unused | blends | shears | shifts | rest)


@pytest.mark.parametrize("magnitude", [0, 4, 14, 30])
@pytest.mark.parametrize(("which", "name"), [case for case in BOTH if case[1] not in GEOMETRIC])
def test_values_of_each_tone_and_blend_operation_are_pillows_or_at_most_one_off(
    images, which, name, magnitude
):
    difference = (
        ours(images, which, name, 1, magnitude).int() - by_pillow(images, which, name, 1, magnitude).int()
    )
    assert difference.abs().max() <= (0 if name in EXACT else 1)
    assert difference.abs().float().mean() <= 0.05


@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("magnitude", [0, 4, 14, 30])
@pytest.mark.parametrize("name", [name for name in PUBLISHED if name in GEOMETRIC])
def test_geometric_operations_of_the_published_list_fetch_exactly_pillows_pixels(
    images, name, magnitude, sign, size
):
    if size == 96:
        images = torch.nn.functional.interpolate(images.float(), 96, mode="bilinear").to(torch.uint8)
    case = ("published", name, sign, magnitude)
    assert torch.equal(ours(images, *case), by_pillow(images, *case))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("magnitude", [0, 5, 14, 30])  # at 4, a shear puts a whole row between two pixels
@pytest.mark.parametrize("name", [name for name in FIXMATCH if name in GEOMETRIC])
def test_geometric_operations_of_fixmatchs_list_fetch_the_pixels_that_pillow_fetches(
    images, name, magnitude, sign
):
    case = ("fixmatch", name, sign, magnitude)
    assert (ours(images, *case) == by_pillow(images, *case)).float().mean() > 0.995


@pytest.mark.parametrize("magnitude", [0, 4, 14, 30])
def test_the_square_of_cutout_lies_where_pillow_draws_it_for_centres_all_over_the_image(images, magnitude):
    generator = torch.Generator().manual_seed(0)
    for down, across in [(0.0, 0.0), (0.999, 0.999), *torch.rand(60, 2, generator=generator).tolist()]:
        case = ("published", "CutoutAbs", 1, magnitude, (down, across))
        assert torch.equal(ours(images[:2], *case), by_pillow(images[:2], *case))


@pytest.mark.parametrize(("which", "name"), BOTH)
def test_an_operation_changes_photographs_at_the_default_magnitude_unless_it_is_the_identity(
    images, which, name
):
    changed = (ours(images, which, name, 1, 4) != images)[:8].flatten(1).any(1)
    assert changed.any() == (name != "Identity")


@pytest.mark.parametrize("which", list(LISTS))
def test_the_images_of_one_batch_get_their_own_operations(images, which):
    count = len(LISTS[which])
    zeros, middle = torch.zeros(count, dtype=torch.int64), torch.full((count, 2), 0.5)
    mixed = apply_operations(
        images[:count], torch.arange(count), zeros, 4, which=which, centre=middle if count == 16 else None
    )  # image k gets operation k
    for code, name in enumerate(LISTS[which]):
        assert torch.equal(mixed[code], ours(images[code : code + 1], which, name, 1, 4)[0]), name


@pytest.mark.parametrize(("which", "outcomes"), [("fixmatch", 9 + 2 * 5), ("published", 10 + 2 * 5 + 20)])
def test_copies_of_one_image_come_out_different(images, which, outcomes):
    """Operations without a sign, those with two, and CutoutAbs with a square of its own for each image."""
    copies = images[:1].repeat(1024, 1, 1, 1)
    out = rand_augment(copies, torch.Generator().manual_seed(0), num_ops=1, magnitude=4, which=which)
    distinct = {bytes(image.numpy().tobytes()) for image in out}
    assert len(distinct) >= outcomes - 2


@pytest.mark.parametrize("which", list(LISTS))
def test_every_operation_is_drawn_equally_often(which, monkeypatch):
    drawn = []

    def record(images, operations, negative, magnitude, **rest):
        drawn.append(torch.stack([operations, negative]))
        return images

    monkeypatch.setattr("data.randaugment.apply_operations", record)
    rand_augment(torch.zeros(16000, 3, 1, 1), torch.Generator(), num_ops=3, magnitude=4, which=which)
    operations, negative = torch.cat(drawn, dim=1)
    counts = torch.bincount(operations)
    assert len(counts) == len(LISTS[which])
    assert (counts / counts.sum() * len(counts) - 1).abs().max() < 0.1
    assert abs(negative.float().mean() - 0.5) < 0.02


def test_fixmatchs_posterize_does_not_blank_images_and_the_published_one_keeps_two_tones(images):
    """At magnitude 4 the published range keeps 0.53 bits: no bit at all, were it not for the least of one."""
    out = ours(images[:8], "fixmatch", "Posterize", 1, 4)
    assert all(len(image.unique()) > 3 for image in out)
    assert set(ours(images[:8], "published", "Posterize", 1, 4).unique().tolist()) == {0, 128}


@pytest.mark.parametrize(("num_ops", "magnitude"), [(3, 4), (2, 14)])
def test_published_views_of_photographs_are_as_strong_as_those_made_with_pillow(num_ops, magnitude):
    """As `python -m benchmarks.augmentation` measures, on fewer crops."""
    crops = natural_crops(2000, list(sample_photographs().values()))
    random.seed(0)
    pillow = [np.asarray(PillowRandAugment(num_ops, magnitude)(Image.fromarray(crop))) for crop in crops]
    batch = torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()
    generator = torch.Generator().manual_seed(0)
    views = rand_augment(batch, generator, num_ops=num_ops, magnitude=magnitude, which="published")
    by_pillow, here = strength(crops, np.stack(pillow)), strength(crops, views.permute(0, 2, 3, 1).numpy())
    assert here.change == pytest.approx(by_pillow.change, rel=0.05)  # 2,000 draws each: deviation 1.6 %
    assert here.constant == pytest.approx(by_pillow.constant, abs=0.04)
    assert here.change == pytest.approx(PUBLISHED_FIGURES[num_ops, magnitude].change, rel=0.05)
    assert here.constant == pytest.approx(PUBLISHED_FIGURES[num_ops, magnitude].constant, abs=0.03)


@pytest.mark.parametrize("which", list(LISTS))
def test_no_operations_leave_the_images_as_they_are(images, which):
    assert torch.equal(rand_augment(images, torch.Generator(), num_ops=0, magnitude=4, which=which), images)


@pytest.mark.parametrize(("num_ops", "magnitude"), [(-1, 4), (3, 31), (3, -1)])
def test_a_magnitude_or_number_of_operations_out_of_range_is_refused(images, num_ops, magnitude):
    with pytest.raises(ValueError, match="magnitude"):
        rand_augment(images, torch.Generator(), num_ops=num_ops, magnitude=magnitude)
