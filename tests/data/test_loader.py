import io
import threading
from itertools import pairwise
from typing import Any

import pytest
import torch

from data.archives import DataError
from data.loader import Batch, Loader
from tests.data.host_sync import NoHostCopy, NoHostSync


def flat_images(values) -> torch.Tensor:
    """Image i has the value values[i] everywhere, so that a weak view is still told by its value."""
    return torch.as_tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 32, 32)


def make(n_x: int = 6, n_u: int = 10, **changes) -> Loader:
    arguments: dict[str, Any] = {
        "views_x": ("weak",),
        "views_u": ("weak", "strong", "strong"),
        "batch_size": 4,
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "flip": True,
        "device": "cpu",
        "seed": 0,
    }
    return Loader(
        flat_images(range(n_x)),
        torch.arange(n_x) % 10,
        flat_images(range(100, 100 + n_u)),
        **(arguments | changes),
    )


def values(view: torch.Tensor) -> list[int]:
    """The value that most pixels of each image have; cutout covers a quarter at most."""
    return (view * 255).round().flatten(1).median(1).values.int().tolist()


def assert_same(a: Batch, b: Batch) -> None:
    for one, two in zip(
        (*a.views_x, a.labels_x, *a.views_u, a.index_u),
        (*b.views_x, b.labels_x, *b.views_u, b.index_u),
        strict=True,
    ):
        assert torch.equal(one, two)


def test_a_batch_has_the_views_asked_for_in_their_order_and_types():
    batch = make(views_x=("strong", "weak"), views_u=("strong", "weak", "strong"), num_ops=0).next()
    assert len(batch.views_x) == 2
    assert len(batch.views_u) == 3
    for view in (*batch.views_x, *batch.views_u):
        assert view.shape == (4, 3, 32, 32)
        assert view.dtype == torch.float32
    constant = [bool((v == v[:, :1, :1, :1]).all()) for v in (*batch.views_x, *batch.views_u)]
    assert constant == [False, True, False, True, False]  # cutout tells a strong view of a flat image
    assert batch.labels_x.dtype == batch.index_u.dtype == torch.int64


def test_labels_and_positions_belong_to_the_images_in_every_view():
    loader = make(views_x=("weak", "strong"), num_ops=0)
    for _ in range(10):
        batch = loader.next()
        for view in batch.views_x:
            assert values(view) == batch.labels_x.tolist()
        for view in batch.views_u:
            assert values(view) == (batch.index_u + 100).tolist()


def test_two_strong_views_of_one_image_differ():
    batch = make(views_u=("strong", "strong")).next()
    assert not torch.equal(batch.views_u[0], batch.views_u[1])


def test_views_are_normalised():
    batch = make(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0)).next()
    expected = (batch.labels_x / 255 - 0.2) / 0.25
    assert torch.allclose(batch.views_x[0][:, 1, 0, 0], expected, atol=1e-6)


def test_every_image_comes_once_before_any_comes_again_in_a_new_order_each_pass():
    loader = make(n_u=10)
    seen = torch.cat([loader.next().index_u for _ in range(15)]).view(6, 10)
    for one_pass in seen:
        assert sorted(one_pass.tolist()) == list(range(10))
    assert len({tuple(p.tolist()) for p in seen}) == 6


def test_fewer_labeled_images_than_a_batch_come_equally_often():
    loader = make(n_x=3, batch_size=64, views_u=("weak",))
    labels = torch.cat([loader.next().labels_x for _ in range(3)])
    assert torch.bincount(labels).tolist() == [64, 64, 64]
    assert torch.bincount(labels[:63]).tolist() == [21, 21, 21]


def test_one_labeled_image_is_enough():
    batch = make(n_x=1, batch_size=5).next()
    assert batch.labels_x.tolist() == [0] * 5
    assert batch.views_x[0].shape[0] == 5


def test_a_resumed_loader_goes_on_with_the_very_batches():
    loader = make(n_x=3, n_u=11)
    for _ in range(5):
        loader.next()
    file = io.BytesIO()
    torch.save(loader.state_dict(), file)
    expected = [loader.next() for _ in range(5)]
    file.seek(0)
    resumed = make(n_x=3, n_u=11, seed=99)
    resumed.next()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for batch in expected:
        assert_same(resumed.next(), batch)
    assert_same(resumed.next(), loader.next())


def test_a_state_is_not_changed_by_the_loader_that_it_was_taken_from():
    loader = make()
    state = loader.state_dict()
    first = loader.next()
    loader.next()
    loader.load_state_dict(state)
    assert_same(loader.next(), first)


def test_the_state_is_on_the_cpu():
    def tensors(state):
        for value in state.values():
            if isinstance(value, dict):
                yield from tensors(value)
            elif isinstance(value, torch.Tensor):
                yield value

    found = list(tensors(make().state_dict()))
    assert len(found) == 3
    assert all(t.device.type == "cpu" for t in found)


@pytest.mark.parametrize(("n_x", "n_u"), [(7, 10), (6, 12)])
def test_a_state_of_other_image_counts_is_refused_and_changes_nothing(n_x, n_u):
    other = make(n_x=n_x, n_u=n_u)
    other.next()
    state = other.state_dict()
    loader, untouched = make(), make()
    with pytest.raises(ValueError, match="images"):
        loader.load_state_dict(state)
    assert_same(loader.next(), untouched.next())


def test_a_random_state_of_another_kind_of_device_is_refused_and_changes_nothing():
    other = make(seed=5)
    other.next()
    state = other.state_dict() | {"generator": torch.zeros(16, dtype=torch.uint8)}  # as long as a GPU's
    loader, untouched = make(), make()
    with pytest.raises(ValueError, match="device"):
        loader.load_state_dict(state)
    assert_same(loader.next(), untouched.next())


def test_batches_depend_on_the_seed_and_on_no_other_generator():
    torch.manual_seed(1)
    one = [make(seed=3).next() for _ in range(3)][-1]
    torch.manual_seed(2)
    loader = make(seed=3)
    assert_same(loader.next(), one)
    orders = [tuple(make(seed=s).next().index_u.tolist()) for s in range(6)]
    assert any(a != b for a, b in pairwise(orders))


def test_a_step_of_whole_batches_reads_nothing_back_to_the_host():
    loader = make(n_x=3, views_x=("weak", "strong"), compiled=False, prefetch=False)  # as on a GPU
    loader.next()
    with NoHostSync(), NoHostCopy():
        for _ in range(5):
            loader.next()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_on_a_gpu_does_not_wait_for_it():
    loader = make(n_x=3, views_x=("weak", "strong"), device="cuda")
    loader.next()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = [loader.next() for _ in range(5)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert batches[0].views_u[1].device.type == "cuda"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_x": 0}, "at least one"),
        ({"n_u": 0}, "at least one"),
        ({"batch_size": 0}, "batch_size"),
        ({"views_u": ("medium",)}, "medium"),
        ({"augment": "autoaugment"}, "augment 'autoaugment'.*use one of fixmatch, published"),
        ({"magnitude": 31}, "magnitude 31: use num_ops >= 0 and magnitude 0..30"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_labels_that_do_not_match_the_images_are_refused():
    with pytest.raises(ValueError, match="2 labels for 3 labeled images"):
        Loader(
            flat_images(range(3)),
            torch.arange(2),
            flat_images(range(3)),
            views_x=("weak",),
            views_u=(),
            batch_size=2,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            flip=False,
            device="cpu",
            seed=0,
        )


@pytest.mark.parametrize("way", [{}, {"compiled": False}, {"compiled": False, "prefetch": False}])
def test_a_step_leaves_the_number_of_threads_as_it_was(way, monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        loader = make(**way)
        loader.next()
        assert torch.get_num_threads() == 3
        monkeypatch.setattr("data.loader.strong_view", lambda *_, **__: 1 / 0)
        monkeypatch.setattr("data.loader.draw_operations", lambda *_, **__: 1 / 0)
        loader = make(**way)  # the other's next batch is made already
        with pytest.raises(ZeroDivisionError):
            loader.next()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def photographs(n: int, side: int) -> torch.Tensor:
    """Images with edges, smooth parts and one-coloured ones: uint8 [n, 3, side, side]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, 3, 5, 5, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    noisy = smooth + 40 * torch.randn(n, 3, side, side, generator=generator)
    images = torch.where(torch.arange(n).view(-1, 1, 1, 1) % 2 == 0, smooth, noisy)
    images[::9] = images[::9, :, :1, :1]
    return images.clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("augment", ["fixmatch", "published"])
@pytest.mark.parametrize(("num_ops", "magnitude"), [(3, 4), (2, 14), (1, 0), (1, 30)])
@pytest.mark.parametrize(("flip", "full"), [(True, 32), (False, 96)])
def test_compiled_and_prefetched_batches_are_those_of_whole_batch_operations(
    augment, num_ops, magnitude, flip, full
):
    """The slow twin is what a GPU runs. Every pixel of every view is the same, and so is the state between batches."""
    n_x, n_u = 40, 90
    x, u = photographs(n_x, 32), photographs(n_u, 32)
    larger: dict[str, Any] = (
        {"full_x": photographs(n_x, full), "full_u": photographs(n_u, full)} if full > 32 else {}
    )

    def loader(**way: Any) -> Loader:
        return Loader(
            x, torch.arange(n_x), u, views_x=("weak", "strong"), views_u=("strong", "weak", "strong"), batch_size=64,
            mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), flip=flip, augment=augment, num_ops=num_ops,
            magnitude=magnitude, device="cpu", seed=1, **larger, **way,
        )  # fmt: skip

    slow = loader(compiled=False, prefetch=False)
    others = [loader(), loader(compiled=False), loader(prefetch=False)]
    for _ in range(3):
        batch, state = slow.next(), slow.state_dict()
        for other in others:
            assert_same(other.next(), batch)
            assert torch.equal(other.state_dict()["generator"], state["generator"])
            for name in ("labeled", "unlabeled"):
                assert torch.equal(other.state_dict()[name]["order"], state[name]["order"])


def test_the_next_batch_is_made_while_the_step_goes_on(monkeypatch):
    made = threading.Semaphore(0)
    original = Loader._made

    def announced(self):
        result = original(self)
        made.release()
        return result

    monkeypatch.setattr(Loader, "_made", announced)
    loader = make()
    loader.next()
    assert made.acquire(timeout=60)
    assert made.acquire(timeout=60)  # the second, which nobody has asked for yet


def test_strong_views_are_made_of_the_images_at_their_full_size_and_weak_ones_of_the_small():
    """The full images have other values here, so that a view tells what it was made of."""
    full_x = flat_images(range(30, 36)).repeat(1, 1, 3, 3)
    full_u = flat_images(range(200, 210)).repeat(1, 1, 3, 3)
    kinds = ("weak", "strong")
    loader = make(views_x=kinds, views_u=kinds, num_ops=0, full_x=full_x, full_u=full_u)
    for _ in range(5):
        batch = loader.next()
        assert values(batch.views_x[0]) == batch.labels_x.tolist()
        assert values(batch.views_x[1]) == (batch.labels_x + 30).tolist()
        assert values(batch.views_u[0]) == (batch.index_u + 100).tolist()
        assert values(batch.views_u[1]) == (batch.index_u + 200).tolist()
        assert {v.shape for v in (*batch.views_x, *batch.views_u)} == {(4, 3, 32, 32)}


def test_the_published_augmentation_pads_with_black_and_the_other_with_what_is_there():
    for augment, darkest in (("published", 0.0), ("fixmatch", 100 / 255)):
        views = make(n_u=10, batch_size=10, views_u=("weak",), augment=augment).next().views_u[0]
        assert views.min() == pytest.approx(darkest)


def test_images_that_a_device_has_no_room_for_are_refused_in_one_line(monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(torch.Tensor, "to", full)
    with pytest.raises(
        DataError, match=r"6 images of 32 x 32 take 0.0 GB.*use --augment fixmatch"
    ) as refused:
        make()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("prefetch", [True, False])
def test_images_that_stay_in_the_hosts_memory_give_the_same_batches(tmp_path, compiled, prefetch):
    # The unlabeled images are mapped from a file, larger ones for the strong views among them.
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (30, 3, 32, 32), dtype=torch.uint8, generator=generator)
    images.repeat_interleave(2, 2).repeat_interleave(2, 3).numpy().tofile(tmp_path / "large")
    large = torch.from_file(str(tmp_path / "large"), shared=False, size=30 * 3 * 64 * 64, dtype=torch.uint8)
    arguments: dict[str, Any] = {
        "views_x": ("weak", "strong"), "views_u": ("weak", "strong", "strong"), "batch_size": 8, "flip": True,
        "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.3, 0.4), "device": "cpu", "seed": 3, "augment": "published",
        "full_x": images[:5].repeat_interleave(2, 2).repeat_interleave(2, 3), "full_u": large.view(30, 3, 64, 64),
        "compiled": compiled, "prefetch": prefetch,
    }  # fmt: skip
    device, host = (
        Loader(images[:5], torch.arange(5), images, placement=placement, **arguments)
        for placement in ("device", "host")
    )
    for _ in range(8):
        assert_same(device.next(), host.next())
    state = device.state_dict()
    host.load_state_dict(state)
    assert_same(device.next(), host.next())


def test_a_batch_of_the_host_reads_only_its_own_rows():
    read: list[int] = []

    class Watched(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if function is torch.index_select:
                read.extend(args[2].tolist())
            return super().__torch_function__(function, types, args, kwargs or {})

    loader = make(n_u=50, placement="host", prefetch=False)
    loader._images_u = dict.fromkeys(("weak", "strong"), loader._images_u["weak"].as_subclass(Watched))
    batch = loader.next()
    assert read == batch.index_u.tolist() * 2  # of the weak view, and of both strong ones


def test_an_unknown_placement_is_refused():
    with pytest.raises(ValueError, match="placement 'disk' is unknown; use one of device, host"):
        make(placement="disk")
