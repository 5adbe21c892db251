"""The slow input pipeline: the same interface and the same views as the device loader, and its trouble."""

import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.loader import Loader
from data.published_loader import PublishedLoader, packaged
from tests.data.test_loader import flat_images, values

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def make(n_x: int = 6, n_u: int = 10, **changes) -> PublishedLoader:
    arguments: dict[str, Any] = {
        "views_x": ("weak",),
        "views_u": ("weak", "strong", "strong"),
        "batch_size": 4,
        "mean": (0.0,) * 3,
        "std": (1.0,) * 3,
        "flip": True,
        "device": "cpu",
        "seed": 0,
        "workers": 0,
    }
    images_u = flat_images(range(100, 100 + n_u))
    return PublishedLoader(
        flat_images(range(1, n_x + 1)), torch.arange(1, n_x + 1), images_u, **(arguments | changes)
    )


@pytest.fixture
def iterators_made(monkeypatch) -> list[int]:
    """Grows by the length of a loader whenever an iterator over it is made."""
    made: list[int] = []
    original = torch.utils.data.DataLoader.__iter__

    def count(loader):
        made.append(len(loader))
        return original(loader)

    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", count)
    return made


def test_labels_and_positions_belong_to_the_images_in_every_view():
    loader = make(views_x=("weak", "strong"), num_ops=0)
    for _ in range(6):
        batch = loader.next()
        assert [view.shape for view in (*batch.views_x, *batch.views_u)] == [(4, 3, 32, 32)] * 5
        assert batch.labels_x.dtype == batch.index_u.dtype == torch.int64
        for view in batch.views_x:
            assert values(view) == batch.labels_x.tolist()
        for view in batch.views_u:
            assert values(view) == (batch.index_u + 100).tolist()


def test_with_as_many_labels_as_a_batch_an_iterator_is_made_anew_at_every_step(iterators_made):
    loader = make(n_x=4, n_u=40)
    for _ in range(10):
        loader.next()
    assert iterators_made.count(1) == 10
    assert iterators_made.count(10) == 1


def test_the_rest_of_a_pass_that_fills_no_batch_is_dropped():
    loader = make(n_x=4, n_u=11)
    seen = torch.cat([loader.next().index_u for _ in range(2)])
    assert len(set(seen.tolist())) == 8
    assert len(set(loader.next().index_u.tolist())) == 4  # a new pass


@pytest.mark.parametrize("n_x", [1, 3])
def test_fewer_labels_than_a_batch_are_repeated_until_they_fill_one(n_x, iterators_made):
    """With `drop_last` an empty loader would end the run at its first step."""
    loader = make(n_x=n_x, batch_size=8, n_u=16)
    counts = torch.zeros(n_x + 1, dtype=torch.int64)
    for _ in range(6):
        batch = loader.next()
        assert len(batch.labels_x) == 8
        counts += torch.bincount(batch.labels_x, minlength=n_x + 1)
    assert iterators_made.count(1) == 6
    assert counts[0] == 0
    assert counts[1:].min() >= 6


def test_weak_and_strong_views_are_as_strong_as_the_device_loaders():
    """The same views by other means: mean and spread over many, on one noisy image."""
    image = torch.randint(
        0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    arguments: dict[str, Any] = {
        "views_x": ("weak",), "views_u": ("strong",), "batch_size": 1500, "mean": (0.4,) * 3, "std": (0.2,) * 3,
        "flip": True, "device": "cpu", "seed": 0,
    }  # fmt: skip
    sets = (image, torch.zeros(1, dtype=torch.int64), image)
    random.seed(0)
    torch.manual_seed(0)
    slow = PublishedLoader(*sets, workers=0, **arguments).next()
    fast = Loader(*sets, augment="published", **arguments).next()
    for one, two in ((slow.views_x[0], fast.views_x[0]), (slow.views_u[0], fast.views_u[0])):
        assert float(one.mean()) == pytest.approx(float(two.mean()), abs=0.05)
        assert float(one.std()) == pytest.approx(float(two.std()), rel=0.05)
        black = [(view == -2).float().mean() for view in (one, two)]  # moved in from outside
        assert float(black[0]) == pytest.approx(float(black[1]), abs=0.02)
    assert (slow.views_u[0] == 0).flatten(1).sum(1).min() >= 3 * 64  # the square is in every strong view


def test_strong_views_are_made_of_the_full_size():
    full_x, full_u = (
        flat_images(range(31, 37)).repeat(1, 1, 3, 3),
        flat_images(range(200, 210)).repeat(1, 1, 3, 3),
    )
    batch = make(views_x=("weak", "strong"), num_ops=0, full_x=full_x, full_u=full_u).next()
    assert values(batch.views_x[1]) == (batch.labels_x + 30).tolist()
    assert values(batch.views_u[1]) == (batch.index_u + 200).tolist()
    assert batch.views_u[1].shape == (4, 3, 32, 32)


def test_a_strong_view_of_a_full_size_image_shows_the_whole_of_it():
    """Shrunk, not cropped: of rows that go from 50 to 240, a crop of 32 in 96 rows would show a third."""
    rows = (50 + 2 * torch.arange(96)).to(torch.uint8).view(1, 1, 96, 1).expand(4, 3, 96, 96)
    batch = make(n_u=4, views_u=("strong",), num_ops=0, full_u=rows).next()
    for view in batch.views_u[0]:
        shown = 255 * view[view > 0]  # zeros are the border and the square
        assert shown.min() < 85
        assert shown.max() > 205


def test_the_seed_gives_the_order():
    one, again, other = (torch.cat([make(seed=s).next().index_u for _ in range(1)]) for s in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_saved_state_goes_on_with_orders_that_were_not_drawn_before():
    loader = make(n_u=40)
    first = [loader.next().index_u.tolist() for _ in range(10)]
    resumed = make(n_u=40)
    resumed.load_state_dict(loader.state_dict())
    assert [resumed.next().index_u.tolist() for _ in range(10)] != first


@pytest.mark.parametrize("empty", ["n_x", "n_u"])
def test_an_empty_set_is_refused(empty):
    with pytest.raises(ValueError, match="at least one"):
        make(**{empty: 0})


def test_worker_processes_make_the_views_of_the_package_though_it_needs_a_name_that_numpy_removed():
    pytest.importorskip("randaugment")
    loader = make(randaugment="package", workers=1, batch_size=2)
    batch = loader.next()
    assert [view.shape for view in batch.views_u] == [(2, 3, 32, 32)] * 3


def test_the_packages_operations_have_no_number_and_no_magnitude():
    """Each of two is applied with probability 0.5, so a quarter of the views is the image itself."""
    pytest.importorskip("randaugment")
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    augment: Any = packaged()
    unchanged = np.mean([np.array_equal(np.asarray(augment(image)), noise) for _ in range(2000)])
    assert 0.2 < unchanged < 0.35
    with pytest.raises(TypeError):
        type(augment)(3, 4)


def test_a_missing_package_raises_an_import_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "randaugment.randaugment", None)
    with pytest.raises(ImportError):
        packaged()
