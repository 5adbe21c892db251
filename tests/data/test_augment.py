import numpy as np
import pytest
import torch

from data.augment import (
    CUTOUT_GREY,
    cutout,
    normalize,
    resize,
    rotate90,
    strong_view,
    weak,
    weak_view,
)
from tests.data.host_sync import NoHostCopy, NoHostSync

PAD, CUTOUT = 4, 16  # pixels of 32, as published


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def addressed(batch: int) -> torch.Tensor:
    """Images whose channels 0 and 1 hold each pixel's own row and column: uint8 [batch, 3, 32, 32]."""
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    return torch.stack([rows, columns, rows * 0]).to(torch.uint8).repeat(batch, 1, 1, 1)


@pytest.mark.parametrize("flip", [False, True])
def test_a_weak_view_is_a_crop_of_the_reflected_image_and_every_crop_occurs(flip):
    image = addressed(1)[0].numpy()
    padded = np.pad(image, ((0, 0), (PAD, PAD), (PAD, PAD)), mode="reflect")
    crops = {}
    for dy in range(2 * PAD + 1):
        for dx in range(2 * PAD + 1):
            crop = padded[:, dy : dy + 32, dx : dx + 32]
            crops[crop.tobytes()] = (dy, dx, False)
            if flip:
                crops[crop[:, :, ::-1].tobytes()] = (dy, dx, True)
    views = weak(addressed(4000), seeded(), flip=flip)
    seen = [crops[view.numpy().tobytes()] for view in views]  # KeyError: a view that is no crop
    assert set(seen) == set(crops.values())
    counts = np.unique([c[:2] for c in seen], axis=0, return_counts=True)[1]
    assert counts.min() > 4000 / 81 / 2
    assert counts.max() < 4000 / 81 * 2
    if flip:
        assert 0.45 < np.mean([c[2] for c in seen]) < 0.55


def test_cutout_blanks_one_square_whose_centre_may_be_anywhere():
    images = torch.zeros(4000, 3, 32, 32, dtype=torch.uint8)
    views = cutout(images, seeded(), CUTOUT_GREY)
    assert not images.any()  # the images handed in stay as they are
    blank = views == CUTOUT_GREY
    assert torch.equal(blank | (views == 0), torch.ones_like(blank))
    assert torch.equal(blank[:, 0], blank[:, 2])
    rows, columns = blank[:, 0].any(2).sum(1), blank[:, 0].any(1).sum(1)
    assert torch.equal(rows * columns, blank[:, 0].sum((1, 2)))
    for sides in (rows, columns):
        assert sides.min() == CUTOUT // 2
        assert sides.max() == CUTOUT
        assert (
            abs((sides == CUTOUT).float().mean() - 17 / 32) < 0.05
        )  # the centres that leave the square whole
    middle = blank[:, 0, 16, 16].float().mean()
    corner = blank[:, 0, 0, 0].float().mean()
    assert abs(middle - 0.25) < 0.03
    assert abs(corner - (9 / 32) ** 2) < 0.03


def test_the_move_and_the_square_grow_with_the_side():
    images = torch.arange(64, dtype=torch.uint8).repeat(3000, 3, 64, 1)  # each pixel holds its own column
    moved = weak(images, seeded(), flip=False)[:, 0, 0, 32].int() - 32
    assert (moved.min(), moved.max()) == (-8, 8)
    blank = (cutout(images, seeded(), CUTOUT_GREY) == CUTOUT_GREY)[:, 0]
    sides = blank.any(2).sum(1)
    assert (sides.min(), sides.max()) == (16, 32)


ZERO_MEAN, UNIT_STD = torch.zeros(3), torch.ones(3)


def strong(images, generator, *, flip, augment="fixmatch", num_ops=3, magnitude=4, size=32, mean=ZERO_MEAN):
    """A strong view, normalised by nothing: values 0..1."""
    return strong_view(
        images,
        generator,
        mean,
        UNIT_STD,
        flip=flip,
        augment=augment,
        num_ops=num_ops,
        magnitude=magnitude,
        size=size,
    )


def test_a_published_weak_view_is_a_crop_of_the_image_padded_with_zeros_and_every_crop_occurs():
    images = addressed(4000) + 1  # no pixel of the image itself is 0
    padded = np.pad(images[0].numpy(), ((0, 0), (PAD, PAD), (PAD, PAD)))
    crops = {}
    for dy in range(2 * PAD + 1):
        for dx in range(2 * PAD + 1):
            crop = padded[:, dy : dy + 32, dx : dx + 32]
            crops[crop.tobytes()] = (dy, dx, False)
            crops[crop[:, :, ::-1].tobytes()] = (dy, dx, True)
    views = weak_view(images, seeded(), ZERO_MEAN, UNIT_STD, flip=True, augment="published")
    seen = [crops[(view * 255).round().to(torch.uint8).numpy().tobytes()] for view in views]
    assert set(seen) == set(crops.values())


def test_a_fixmatch_strong_view_without_operations_is_a_weak_view_with_a_grey_square_cut_out():
    images = addressed(64)
    views = (strong(images, seeded(3), flip=True, num_ops=0) * 255).round().to(torch.uint8)
    generator = seeded(3)
    torch.randint(0, 14, (0, 64), generator=generator)
    plain = weak(images, generator, flip=True)
    differs = (views != plain).any(1)
    assert (views.permute(0, 2, 3, 1)[differs] == CUTOUT_GREY).all()
    assert differs.flatten(1).sum(1).min() >= (CUTOUT // 2) ** 2
    assert differs.flatten(1).sum(1).max() <= CUTOUT**2


def test_a_published_strong_view_without_operations_has_a_square_of_the_mean_colour():
    """Cut out after normalising: zeros, which stand for the mean."""
    images = torch.full((64, 3, 32, 32), 255, dtype=torch.uint8)
    mean = torch.tensor([0.5, 0.25, 0.75])
    views = strong(images, seeded(), flip=True, augment="published", num_ops=0, mean=mean)
    square = (views == 0).all(1)
    assert square.flatten(1).sum(1).min() >= (CUTOUT // 2) ** 2
    assert square.flatten(1).sum(1).max() <= CUTOUT**2
    rest = views.permute(0, 2, 3, 1)[~square]  # the image, or the black that moved in
    black_or_white = torch.isclose(rest, -mean) | torch.isclose(rest, 1 - mean)
    assert black_or_white.all()
    assert torch.isclose(rest, -mean).any()


def test_published_operations_are_applied_before_the_resizing():
    """A translation of 13.3 pixels at 96 x 96 moves the small image by 4.4, not by 13.3 pixels."""
    images = torch.full((2000, 3, 96, 96), 130, dtype=torch.uint8)  # no operation of values makes this black
    views = strong(images, seeded(), flip=False, augment="published", num_ops=1, size=32)
    assert views.shape == (2000, 3, 32, 32)
    black_rows = (views.sum(1) == 0).all(2).sum(1)  # a whole row is black: moved in, not cut out
    assert black_rows.max() == 5 + PAD - 1  # 4.4 rows, of which the fifth is grey, and what the crop adds
    at_32 = strong(resize(images, 32), seeded(), flip=False, augment="published", num_ops=1, size=32)
    assert (at_32.sum(1) == 0).all(2).sum(1).max() == 13 + PAD


def published(images, generator, *, flip):
    return strong(images, generator, flip=flip, augment="published")


@pytest.mark.parametrize("view", [weak, strong, published])
def test_views_depend_on_the_generator_handed_in_and_on_no_other(view):
    images = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8, generator=seeded())
    kept = images.clone()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = view(images, seeded(5), flip=True)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(view(images, seeded(5), flip=True), first)
    assert not torch.equal(view(images, seeded(6), flip=True), first)
    assert torch.equal(images, kept)
    assert first.dtype == (torch.uint8 if view is weak else torch.float32)
    assert first.shape == images.shape


def test_normalize_is_the_formula_for_sequences_and_tensors():
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=seeded())
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    expected = (images.numpy() / 255 - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))
    for m, s in ((mean, std), (torch.tensor(mean), torch.tensor(std))):
        out = normalize(images, m, s)
        assert out.dtype == torch.float32
        np.testing.assert_allclose(out.numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_each_image_is_turned_by_its_own_quarter_turns(dtype):
    images = torch.randint(0, 256, (12, 3, 32, 32), generator=seeded()).to(dtype)
    k = torch.arange(12) % 4
    turned = rotate90(images, k)
    for image, turns, result in zip(images, k, turned, strict=True):
        assert torch.equal(result, torch.rot90(image, int(turns), (1, 2)))


@pytest.mark.parametrize("augment", ["fixmatch", "published"])
def test_a_view_reads_nothing_back_to_the_host(augment):
    """As a GPU would have to wait for it. The constant tables of a magnitude are made once, before."""
    images = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8, generator=seeded())
    turns = torch.arange(8) % 4
    strong(images, seeded(), flip=True, augment=augment)
    with NoHostSync(), NoHostCopy():
        strong(images, seeded(), flip=True, augment=augment)
        small = resize(images, 32)
        rotate90(weak_view(small, seeded(), ZERO_MEAN, UNIT_STD, flip=True, augment=augment), turns)


@pytest.mark.parametrize(
    "mistake", [lambda x: x[x > 3], lambda x: x.max().item(), lambda x: x.nonzero(), lambda x: x.cpu()]
)
def test_the_check_for_host_reads_notices_them(mistake):
    with pytest.raises(AssertionError), NoHostSync(), NoHostCopy():
        mistake(torch.arange(8))
