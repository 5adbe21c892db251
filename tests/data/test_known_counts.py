import pytest
import torch

from data import FilesMissingError, known_counts, load_dataset
from data.datasets import READERS
from data.idx import DEBIAN_FOLDER

WITH_FILES = [name for name in READERS if name != "digits"]


@pytest.mark.parametrize("name", WITH_FILES)
def test_nothing_is_downloaded_where_that_is_not_allowed(tmp_path, monkeypatch, name):
    monkeypatch.setattr("data.idx.DEBIAN_FOLDER", tmp_path / "nowhere")
    with pytest.raises(FilesMissingError, match=f"{name} is not in .* yet: a run downloads") as error:
        load_dataset(name, tmp_path / "data", download=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "train", "test", "extra"),
    [
        ("cifar10", [5000] * 10, [1000] * 10, 0),
        ("cifar100", [500] * 100, [100] * 100, 0),
        ("stl10", [500] * 10, [800] * 10, 100_000),
        ("fashion_mnist", [6000] * 10, [1000] * 10, 0),
    ],
)
def test_known_counts_are_the_published_ones(name, train, test, extra):
    known = known_counts(name)
    assert torch.bincount(known.train_labels).tolist() == train
    assert torch.bincount(known.test_labels).tolist() == test
    assert (known.extra_unlabeled_images is None) is (extra == 0)
    assert extra == (0 if known.extra_unlabeled_images is None else len(known.extra_unlabeled_images))
    assert (len(known.train_images), len(known.test_images)) == (sum(train), sum(test))
    assert len(set(known.class_names)) == len(train)


def test_every_data_set_with_files_has_known_counts():
    assert [known_counts(name).name for name in WITH_FILES] == WITH_FILES


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_known_counts_agree_with_the_files(tmp_path):
    files, known = load_dataset("fashion_mnist", tmp_path, download=False), known_counts("fashion_mnist")
    assert files.class_names == known.class_names
    assert torch.equal(files.train_labels.bincount(), known.train_labels.bincount())
    assert torch.equal(files.test_labels.bincount(), known.test_labels.bincount())
