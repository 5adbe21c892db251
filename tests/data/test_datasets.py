import http.client
import ssl
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, CIFAR100, STL10

import data.idx
from data.datasets import READERS, DataError, channel_statistics, load_dataset, shrink
from tests.data.published_formats import (
    cifar_files,
    fashion_mnist_files,
    publish,
    python2_pickle,
    stl10_files,
    tar_gz,
    write,
)

DEBIAN = data.idx.DEBIAN_FOLDER
RNG = np.random.default_rng(0)
CIFARS = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """As on a machine whose name server does not answer; the number of tries is kept."""
    tried = []

    def refuse(request, *args, **kwargs):
        tried.append(request.full_url)
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr(data.idx, "DEBIAN_FOLDER", Path("/nowhere"))
    return tried


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refusal(name: str, data_dir: Path) -> str:
    """The message of the DataError, after checking what holds for all of them."""
    before = contents(data_dir)
    with pytest.raises(DataError) as caught:
        load_dataset(name, data_dir)
    assert contents(data_dir) == before, "a file was deleted or changed"
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(name) or str(data_dir) in message
    return message


class Published:
    """A small CIFAR-10 or CIFAR-100 whose checksums torchvision has been told."""

    def __init__(self, monkeypatch, name: str):
        self.name, self.reader = name, CIFARS[name]
        num_classes = 10 if name == "cifar10" else 100
        self.images = noise(24, 3, 32, 32)
        self.labels = RNG.integers(0, num_classes, 24)
        self.class_names = tuple(f"class {k}" for k in range(num_classes))
        self.files = cifar_files(self.reader, self.images, self.labels, self.class_names)
        self.archive = publish(monkeypatch, self.reader, self.files)
        self.split = 20 if name == "cifar10" else 12  # five batches of six are for training, or one of two

    def check(self, loaded) -> None:
        assert loaded.name == self.name
        assert loaded.class_names == self.class_names
        assert np.array_equal(loaded.train_images.numpy(), self.images[: self.split])
        assert np.array_equal(loaded.test_images.numpy(), self.images[self.split :])
        assert loaded.train_labels.tolist() == self.labels[: self.split].tolist()
        assert loaded.test_labels.tolist() == self.labels[self.split :].tolist()
        assert loaded.train_labels.dtype == torch.int64
        assert loaded.train_images.dtype == torch.uint8
        assert loaded.train_images.is_contiguous()
        assert loaded.extra_unlabeled_images is None
        assert loaded.flip
        pixels = self.images[: self.split] / 255
        np.testing.assert_allclose(loaded.mean, pixels.mean((0, 2, 3)))
        np.testing.assert_allclose(loaded.std, pixels.std((0, 2, 3)))


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(monkeypatch, request) -> Published:
    return Published(monkeypatch, request.param)


def test_cifar_is_read_from_its_unpacked_files(cifar, tmp_path, no_network):
    write(tmp_path / cifar.reader.base_folder, cifar.files)
    cifar.check(load_dataset(cifar.name, tmp_path))
    cifar.check(load_dataset(cifar.name, str(tmp_path)))
    assert no_network == []


def test_cifar_is_unpacked_from_an_archive_in_the_data_folder(cifar, tmp_path, no_network):
    write(tmp_path, {cifar.reader.filename: cifar.archive})
    cifar.check(load_dataset(cifar.name, tmp_path))
    assert (tmp_path / cifar.reader.filename).read_bytes() == cifar.archive
    assert no_network == []


def test_cifar_is_downloaded_where_it_is_missing(cifar, tmp_path, monkeypatch):
    def serve(url, filename):
        Path(filename).write_bytes(cifar.archive)

    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, max_hops: url)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", serve)
    cifar.check(load_dataset(cifar.name, tmp_path / "new"))


def test_a_missing_data_set_is_reported_with_folder_file_and_way_out(cifar, tmp_path, no_network):
    message = refusal(cifar.name, tmp_path)
    for part in (tmp_path, cifar.reader.filename, cifar.reader.url, cifar.reader.train_list[0][0]):
        assert str(part) in message
    assert "Name or service not known" in message
    assert "--dataset" in message
    assert no_network  # it was tried


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("timed out"),
        ConnectionResetError(104, "Connection reset by peer"),
        ssl.SSLCertVerificationError("certificate verify failed"),
        http.client.IncompleteRead(b"", 100),
        urllib.error.HTTPError("http://x", 403, "Forbidden\nby the proxy", http.client.HTTPMessage(), None),
        ValueError("unknown url type: ''"),
        http.client.InvalidURL("nonnumeric port: 'x'"),
        RecursionError("exceeded 3 redirects"),
        PermissionError(13, "Permission denied"),
    ],
)
def test_whatever_a_download_dies_of_becomes_one_line(error, tmp_path, monkeypatch):
    def fail(request, *args, **kwargs):
        raise error

    monkeypatch.setattr("urllib.request.urlopen", fail)
    for name in ("cifar10", "stl10", "fashion_mnist"):
        assert "the download failed (" in refusal(name, tmp_path)


def test_a_programming_error_in_a_download_is_not_hidden(tmp_path, monkeypatch):
    def fail(request, *args, **kwargs):
        raise TypeError("a mistake")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    with pytest.raises(TypeError, match="a mistake"):
        load_dataset("cifar10", tmp_path)


def test_a_silent_server_is_given_up_and_the_time_limit_taken_back(tmp_path, monkeypatch):
    import socket

    limits: list[float | None] = []

    def fail(request, *args, **kwargs):
        limits.append(socket.getdefaulttimeout())
        raise TimeoutError

    monkeypatch.setattr("urllib.request.urlopen", fail)
    before = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(7.0)
        assert "TimeoutError" in refusal("cifar10", tmp_path)
        assert socket.getdefaulttimeout() == 7.0
    finally:
        socket.setdefaulttimeout(before)
    (limit,) = limits
    assert limit is not None
    assert limit != 7.0
    assert 0 < limit <= 60


@pytest.mark.parametrize("kind", ["half", "empty", "other"])
def test_a_damaged_archive_is_named_and_left_alone(cifar, tmp_path, kind, no_network):
    raw = {"half": cifar.archive[: len(cifar.archive) // 2], "empty": b"", "other": b"<html>404</html>"}[kind]
    write(tmp_path, {cifar.reader.filename: raw})
    message = refusal(cifar.name, tmp_path)
    assert str(tmp_path / cifar.reader.filename) in message
    assert "damaged" in message
    assert "remove it" in message
    assert no_network == []  # a download would overwrite it


def test_a_damaged_batch_is_named_and_left_alone_even_beside_a_whole_archive(cifar, tmp_path, no_network):
    name = cifar.reader.test_list[0][0]
    folder = tmp_path / cifar.reader.base_folder
    write(folder, cifar.files | {name: cifar.files[name][:-100]})
    for _ in range(2):
        message = refusal(cifar.name, tmp_path)
        assert str(folder / name) in message
        assert "damaged" in message
        write(tmp_path, {cifar.reader.filename: cifar.archive})
    assert no_network == []


def test_damaged_or_missing_class_names_are_named_too(cifar, tmp_path):
    folder, name = tmp_path / cifar.reader.base_folder, cifar.reader.meta["filename"]
    write(folder, cifar.files | {name: b"x"})
    assert "damaged" in refusal(cifar.name, tmp_path)
    (folder / name).unlink()
    message = refusal(cifar.name, tmp_path)
    assert str(folder / name) in message
    assert f"remove the folder {folder}" in message


class Planted:
    def __reduce__(self):
        return (exec, ("import tests.data.test_datasets as t; t.EXECUTED.append(1)",))


EXECUTED: list[int] = []


def test_a_cifar_file_that_is_not_the_published_one_is_never_unpickled(cifar, tmp_path):
    import pickle

    planted = pickle.dumps(Planted(), protocol=2)
    pickle.loads(planted)
    assert EXECUTED.pop() == 1  # the trap works
    for name in cifar.files:
        folder = tmp_path / name
        write(folder / cifar.reader.base_folder, cifar.files | {name: planted})
        assert "damaged" in refusal(cifar.name, folder)
    archive = tar_gz({f"{cifar.reader.base_folder}/{name}": planted for name in cifar.files})
    write(tmp_path, {cifar.reader.filename: archive})
    assert "damaged" in refusal(cifar.name, tmp_path)
    assert EXECUTED == []


def test_the_checksums_in_use_are_the_published_ones(tmp_path):
    """No checksum is replaced here: a well-formed file of other content is refused by the real tables."""
    files = cifar_files(CIFAR10, noise(24, 3, 32, 32), np.zeros(24, int), ["a"])
    write(tmp_path / CIFAR10.base_folder, files)
    message = refusal("cifar10", tmp_path)
    assert "c99cafc152244af753f735de768cd75f" in message  # of data_batch_1


def test_a_file_that_may_not_be_read_is_reported(cifar, tmp_path, monkeypatch):
    write(tmp_path / cifar.reader.base_folder, cifar.files)

    def deny(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("torchvision.datasets.utils.calculate_md5", deny)
    assert "Permission denied" in refusal(cifar.name, tmp_path)


def test_a_data_folder_that_is_a_file_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file"):
        load_dataset("cifar10", tmp_path / "file")


@pytest.fixture
def stl10(monkeypatch):
    """Images whose upper half is bright and whose left edge is dark, so that a swapped axis shows."""
    images = np.full((9, 3, 96, 96), 40, np.uint8)
    images[:, :, :48] = 200
    images[:, :, :, :6] = 0
    images[:, 1] //= 2
    labels = np.array([0, 9, 3, 4, 5])
    files = stl10_files((images[:3], labels[:3]), (images[3:5], labels[3:]), images[5:])
    return files, publish(monkeypatch, STL10, files)


@pytest.mark.parametrize("packed", [False, True])
def test_stl10_is_read_resized_and_its_unlabeled_images_kept_apart(stl10, tmp_path, packed, no_network):
    files, archive = stl10
    if packed:
        write(tmp_path, {STL10.filename: archive})
    else:
        write(tmp_path / STL10.base_folder, files)
    loaded = load_dataset("stl10", tmp_path)
    assert no_network == []
    assert loaded.train_images.shape == (3, 3, 32, 32)
    assert loaded.test_images.shape == (2, 3, 32, 32)
    assert loaded.extra_unlabeled_images is not None
    assert loaded.extra_unlabeled_images.shape == (4, 3, 32, 32)
    assert loaded.train_labels.tolist() == [0, 9, 3]
    assert loaded.test_labels.tolist() == [4, 5]
    assert loaded.class_names[9] == "truck"
    for images in (loaded.train_images, loaded.test_images, loaded.extra_unlabeled_images):
        assert (images[:, 0, :15, 4:] == 200).all()
        assert (images[:, 0, 17:, 4:] == 40).all()
        assert (images[:, 1, :15, 4:] == 100).all()
        assert (images[:, :, :, 0] == 0).all()


def test_stl10_keeps_its_96_pixel_images_for_those_who_ask(stl10, tmp_path):
    write(tmp_path / STL10.base_folder, stl10[0])
    plain, loaded = load_dataset("stl10", tmp_path), load_dataset("stl10", tmp_path, full_size=True)
    assert (plain.train_full_size, plain.extra_full_size) == (None, None)
    assert loaded.train_full_size is not None
    assert loaded.extra_full_size is not None
    assert loaded.extra_unlabeled_images is not None
    assert loaded.train_full_size.shape == (3, 3, 96, 96)
    for full, small in (
        (loaded.train_full_size, loaded.train_images),
        (loaded.extra_full_size, loaded.extra_unlabeled_images),
    ):
        assert torch.equal(shrink(full.numpy()), small)
    assert torch.equal(loaded.train_images, plain.train_images)


def test_a_damaged_stl10_is_named(stl10, tmp_path, no_network):
    files, archive = stl10
    write(tmp_path / STL10.base_folder, files | {"unlabeled_X.bin": files["unlabeled_X.bin"][:-5]})
    assert "unlabeled_X.bin is damaged" in refusal("stl10", tmp_path)
    (tmp_path / STL10.base_folder / "unlabeled_X.bin").unlink()
    write(tmp_path, {STL10.filename: archive[:-40]})
    assert f"{STL10.filename} is damaged" in refusal("stl10", tmp_path)
    assert no_network == []


def test_resizing_in_chunks_averages_without_aliasing():
    images = noise(5, 3, 96, 96)
    assert torch.equal(shrink(images, chunk=2), shrink(images, chunk=100))
    stripes = np.zeros((1, 3, 96, 96), np.uint8)
    stripes[..., ::2] = 200  # finer than the new pixels: to be averaged, not picked
    inner = shrink(stripes)[..., 1:-1]
    assert (inner.int() - 100).abs().max() <= 25


FASHION = (
    (noise(6, 28, 28), np.arange(6, dtype=np.uint8)),
    (noise(4, 28, 28), np.arange(6, 10, dtype=np.uint8)),
)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("place", [".", "fashion-mnist", "FashionMNIST/raw", "debian"])
def test_fashion_mnist_is_found_in_each_of_its_places(place, packed, tmp_path, monkeypatch, no_network):
    monkeypatch.setattr(data.idx, "DEBIAN_FOLDER", tmp_path / "debian")
    write(tmp_path / place, fashion_mnist_files(*FASHION, packed=packed))
    loaded = load_dataset("fashion_mnist", tmp_path)
    assert no_network == []
    for images, labels, (raw, expected) in (
        (loaded.train_images, loaded.train_labels, FASHION[0]),
        (loaded.test_images, loaded.test_labels, FASHION[1]),
    ):
        assert labels.tolist() == expected.tolist()
        for channel in range(3):
            assert np.array_equal(images[:, channel, 2:30, 2:30].numpy(), raw)
        assert images.int().sum() == 3 * raw.sum(dtype=int)  # all around is 0
    assert loaded.class_names[9] == "Ankle boot"
    assert loaded.flip


def test_a_copy_in_the_data_folder_comes_before_debians(tmp_path, monkeypatch):
    monkeypatch.setattr(data.idx, "DEBIAN_FOLDER", tmp_path / "debian")
    write(tmp_path / "debian", fashion_mnist_files(FASHION[0], FASHION[1], packed=True))
    write(tmp_path / "mine", fashion_mnist_files(FASHION[1], FASHION[0], packed=True))
    assert load_dataset("fashion_mnist", tmp_path / "mine").train_labels.tolist() == [6, 7, 8, 9]


def test_a_missing_fashion_mnist_names_its_files_and_places(tmp_path, no_network):
    files = fashion_mnist_files(*FASHION, packed=True)
    del files["t10k-labels-idx1-ubyte.gz"]
    write(tmp_path, files)
    message = refusal("fashion_mnist", tmp_path)
    for part in (*files, "t10k-labels-idx1-ubyte.gz", str(tmp_path), "dataset-fashion-mnist"):
        assert part in message
    assert no_network


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"",
        lambda raw: b"<html>404</html>",
        lambda raw: raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:],
        lambda raw: raw[:40] + bytes([raw[40] ^ 255]) + raw[41:],
        lambda raw: raw + b"x",
        lambda raw: raw[:10] + b"\xff" + raw[11:],
    ],
    ids=["half", "empty", "html", "end", "middle", "trailing", "block"],
)
@pytest.mark.parametrize("place", [".", "FashionMNIST/raw"])
def test_a_damaged_packed_fashion_mnist_file_is_named_and_left_alone(place, damage, tmp_path, no_network):
    files = fashion_mnist_files(*FASHION, packed=True)
    write(
        tmp_path / place, files | {"train-images-idx3-ubyte.gz": damage(files["train-images-idx3-ubyte.gz"])}
    )
    message = refusal("fashion_mnist", tmp_path)
    assert str(tmp_path / place / "train-images-idx3-ubyte.gz") in message
    assert "remove it" in message
    assert no_network == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", lambda raw: raw[:-1], "header announces"),
        ("train-images-idx3-ubyte", lambda raw: raw[:10], "header announces"),
        ("train-images-idx3-ubyte", lambda raw: b"\x00\x00\x0d" + raw[3:], "not an IDX file"),
        ("train-labels-idx1-ubyte", lambda raw: raw[:7] + b"\x05" + raw[8:-1], "has shape"),
        ("t10k-labels-idx1-ubyte", lambda raw: raw[:-1] + b"\x0a", "classes 0 to 9"),
    ],
)
def test_a_damaged_unpacked_fashion_mnist_file_is_named(name, content, message, tmp_path):
    files = fashion_mnist_files(*FASHION, packed=False)
    write(tmp_path, files | {name: content(files[name])})
    found = refusal("fashion_mnist", tmp_path)
    assert message in found
    assert name in found


def test_a_half_downloaded_fashion_mnist_is_not_overwritten(tmp_path, no_network):
    raw = tmp_path / "FashionMNIST" / "raw"
    write(raw, {"train-images-idx3-ubyte.gz": b"half"})
    assert str(raw / "train-images-idx3-ubyte.gz") in refusal("fashion_mnist", tmp_path)
    assert no_network == []


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist_has_its_published_size_and_mean(tmp_path, monkeypatch):
    monkeypatch.setattr(data.idx, "DEBIAN_FOLDER", DEBIAN)
    loaded = load_dataset("fashion_mnist", tmp_path)
    assert torch.bincount(loaded.train_labels).tolist() == [6000] * 10
    assert torch.bincount(loaded.test_labels).tolist() == [1000] * 10
    mean, std = channel_statistics(loaded.train_images[:, :, 2:30, 2:30])
    assert mean == pytest.approx((0.2860,) * 3, abs=1e-4)  # of the 28 x 28 images, as widely quoted
    assert std == pytest.approx((0.3530,) * 3, abs=1e-4)


def test_digits_need_no_file_and_keep_the_last_quarter_of_each_class_for_the_test(tmp_path, no_network):
    loaded = load_dataset("digits", tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    assert no_network == []
    target = load_digits().target
    per_class = np.bincount(target)
    assert torch.bincount(loaded.test_labels).tolist() == (per_class // 4).tolist()
    assert torch.bincount(loaded.train_labels).tolist() == (per_class - per_class // 4).tolist()
    # Shrunk by the same factor, an image is nearly the original again, so the order of the files can be told.
    blocks = loaded.train_images[:, 0].float().view(-1, 8, 4, 8, 4).mean((2, 4)) / 255 * 16
    threes = load_digits().images[target == 3]
    ours = blocks[loaded.train_labels == 3].numpy()
    assert len(ours) == len(threes) - len(threes) // 4
    distance = np.abs(ours[:, None] - threes[None]).mean((2, 3))
    assert (distance.argmin(1) == np.arange(len(ours))).mean() > 0.95


def test_the_digits_are_those_that_scikit_learn_gives_also_where_its_file_lies_elsewhere(monkeypatch):
    theirs = load_digits()
    for images, classes in (data.datasets._digits(), without_the_file(monkeypatch)):
        assert np.array_equal(images, theirs.images)
        assert np.array_equal(classes, theirs.target)


def without_the_file(monkeypatch):
    monkeypatch.setattr(data.datasets, "find_spec", lambda name: None)
    return data.datasets._digits()


@pytest.mark.parametrize(("name", "reader"), [("cifar10", CIFAR10), ("cifar100", CIFAR100), ("stl10", STL10)])
@pytest.mark.parametrize("archive", [True, False])
def test_files_that_are_there_are_looked_at_where_nothing_may_be_downloaded(tmp_path, name, reader, archive):
    folder = tmp_path if archive else tmp_path / reader.base_folder
    write(folder, {reader.filename if archive else reader.train_list[0][0]: b"torn"})
    with pytest.raises(DataError, match="damaged"):
        load_dataset(name, tmp_path, download=False)


def test_digits_are_grey_images_of_the_full_range_that_are_not_to_be_mirrored(tmp_path):
    loaded = load_dataset("digits", tmp_path)
    assert loaded.train_images.shape[1:] == (3, 32, 32)
    assert torch.equal(loaded.train_images[:, 0], loaded.train_images[:, 2])
    assert loaded.train_images.min() == 0
    assert loaded.train_images.max() == 255
    assert not loaded.flip
    assert loaded.class_names == tuple("0123456789")


def test_statistics_of_a_constant_channel_can_be_divided_by():
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    images[:, 1] = 255
    images[:2, 2] = 255
    mean, std = channel_statistics(images)
    assert mean == pytest.approx((0.0, 1.0, 0.5))
    assert std == pytest.approx((1.0, 1.0, 0.5))


def test_an_unknown_data_set_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(DataError) as caught:
        load_dataset("mnist", tmp_path)
    assert all(name in str(caught.value) for name in READERS)


def test_the_written_pickles_are_python_twos():
    """Else the tests would not show that the real files can be read."""
    raw = python2_pickle({"data": np.zeros((1, 4), np.uint8), "labels": [1]})
    assert raw[:2] == b"\x80\x02"
    assert b"T\x04\x00\x00\x00data" in raw
    assert b"cnumpy.core.multiarray\n_reconstruct" in raw
    assert b"X\x04\x00\x00\x00" not in raw
