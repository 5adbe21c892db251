"""The data flags, from the command line to the images that training sees; the files themselves are tests/data's."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR100, STL10

from data import load_dataset, long_tail_counts
from data.datasets import shrink
from semi.cli import parse
from semi.config import Config
from semi.job import build_job, describe
from semi.split import split_for
from semi.start import dry_dataset
from tests.data.published_formats import cifar_files, publish, stl10_files, write
from tests.semi.runs import TINY, train

CPU = torch.device("cpu")
FLAGS = (
    "--dataset digits --arch small --num_max 20 --ratio 4 --imb_ratio_l 10 --imb_ratio_u 5 --semi_method mix"
)


def job(flags: str):
    return build_job(parse(flags.split(), "test", Config)[0], CPU)


def true_counts(made) -> list[int]:
    return torch.bincount(made.true_labels, minlength=10).tolist()


def test_step_gives_two_class_sizes():
    made = job(f"{FLAGS} --step")
    assert made.split.counts_x == [20] * 5 + [2] * 5
    assert true_counts(made) == [80] * 5 + [16] * 5


def test_the_unlabeled_imbalance_can_be_reversed():
    made = job(f"{FLAGS} --imb_ratio_u_reversed")
    assert made.split.counts_x == long_tail_counts(20, 10, 10)
    assert true_counts(made) == long_tail_counts(80, 5, 10)[::-1]


def test_shuffle_split_draws_other_images_of_the_same_counts():
    plain, one, two, again = (
        job(FLAGS + f) for f in ("", " --shuffle_split 1", " --shuffle_split 2", " --shuffle_split 1")
    )
    by_seed = job(FLAGS + " --shuffle_split seed --seed 2")
    assert len({tuple(made.split.index_x.tolist()) for made in (plain, one, two)}) == 3
    assert torch.equal(one.split.index_x, again.split.index_x)
    assert torch.equal(two.split.index_x, by_seed.split.index_x)
    assert plain.split.counts_x == one.split.counts_x
    assert true_counts(plain) == true_counts(one)


def test_the_labeled_images_are_unlabeled_ones_too_under_fixmatch_alone():
    made = job(f"{FLAGS} --semi_method fix")
    expected = [x + u for x, u in zip(long_tail_counts(20, 10, 10), long_tail_counts(80, 5, 10), strict=True)]
    assert true_counts(made) == expected


def test_cifar100_takes_two_operations_of_magnitude_14(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(100), 8)
    images = rng.integers(0, 256, (800, 3, 32, 32), dtype=np.uint8)
    files = cifar_files(CIFAR100, images, labels, [f"kind {k}" for k in range(100)])
    publish(monkeypatch, CIFAR100, files)
    write(tmp_path / CIFAR100.base_folder, files)
    made = job(
        f"--dataset cifar100 --data-dir {tmp_path} --arch small --num_max 2 --ratio 1 --imb_ratio_l 1 --imb_ratio_u 1"
    )
    assert (made.loader.num_ops, made.loader.magnitude) == (2, 14)
    assert (job(FLAGS).loader.num_ops, job(FLAGS).loader.magnitude) == (3, 4)
    assert made.dataset.class_names[99] == "kind 99"


@pytest.fixture
def stl10(tmp_path, monkeypatch) -> Path:
    rng = np.random.default_rng(0)

    def images(count):
        return rng.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8)

    labels = np.tile(np.arange(10), 4)
    files = stl10_files((images(40), labels), (images(20), labels[:20]), images(70))
    publish(monkeypatch, STL10, files)
    write(tmp_path / "data" / STL10.base_folder, files)
    return tmp_path / "data"


def test_a_run_without_true_classes_logs_no_figure_that_needs_them(tmp_path, stl10):
    c = Config(
        **TINY
        | {
            "dataset": "stl10",
            "data_dir": str(stl10),
            "out": str(tmp_path / "out"),
            "refine": "darp",
            "epochs": 2,
        }
    )
    last = train(c)[-1]
    assert [key for key in last if "true" in key or "accuracy" in key or "precision" in key] == []
    assert not any(key.startswith("pseudo/") and "/recall/" in key for key in last)
    assert last["pseudo/refined/tv_target"] < 1e-6
    assert sum(last["pseudo_orig"]) == pytest.approx(100)
    assert 0 <= last["test/bacc"] <= 1
    said = describe(build_job(c, CPU))
    assert (said["unlabeled_counts"], said["unlabeled_counts_asked"], said["num_unlabeled"]) == ([], [], 100)
    assert said["labeled_counts"] == [3] * 10


def test_stl10s_unlabeled_set_holds_the_labeled_images_under_fixmatch_alone(stl10):
    flags = f"--dataset stl10 --data-dir {stl10} --arch small --num_max 3 --imb_ratio_l 3 --est --darp --semi_method"
    dist = [0.19, 0.01] * 5
    for method in ("fix", "mix"):
        made = build_job(parse([*flags.split(), method], "test", Config)[0], CPU, dist)
        labeled = torch.tensor(made.split.counts_x).double() * (method == "fix")
        wanted = torch.tensor(dist).double() * 70 + labeled
        assert made.target_counts == pytest.approx(wanted.tolist())
        images = made.dataset.images_at(made.split.index_u).flatten(1).tolist()
        assert made.dataset.extra_unlabeled_images is not None
        parts = [made.dataset.extra_unlabeled_images, made.dataset.train_images[made.split.index_x]]
        expected = torch.cat(parts[: 2 if method == "fix" else 1]).flatten(1).tolist()
        assert sorted(images) == sorted(expected)
        assert images != expected  # drawn, not one part after the other
        assert made.true_labels is None
    plain = build_job(parse([*flags.replace("--est ", "").split(), "fix"], "test", Config)[0], CPU)
    shares = torch.tensor(plain.split.counts_x).double() / sum(plain.split.counts_x)
    assert plain.target_counts == pytest.approx((shares * len(plain.split.index_u)).tolist())


def test_the_images_before_and_after_resizing_are_taken_by_one_index(stl10):
    dataset = load_dataset("stl10", stl10, full_size=True)
    config = Config(dataset="stl10", num_max=3, imb_ratio_l=1)
    index = split_for(config, dataset, include_labeled=True).index_u
    full = dataset.full_size_at(index)
    assert full is not None
    assert full.shape == (100, 3, 96, 96)
    assert torch.equal(shrink(full.numpy()), dataset.images_at(index))
    assert load_dataset("stl10", stl10).full_size_at(index) is None


def test_the_published_views_of_stl10_are_made_of_its_96_pixel_images_and_fixmatchs_of_the_small(stl10):
    flags = f"--dataset stl10 --data-dir {stl10} --arch small --num_max 3 --imb_ratio_l 1 --semi_method remix"
    for more, side in (("", 96), (" --augment fixmatch", 32)):
        made = job(flags + more)
        for images in (made.loader._images_x, made.loader._images_u):
            assert {kind: stored.shape[-1] for kind, stored in images.items()} == {"weak": 32, "strong": side}
        batch = made.loader.next()
        assert {view.shape[-1] for view in (*batch.views_x, *batch.views_u)} == {32}


@pytest.mark.parametrize(
    ("dataset", "classes", "num_max"), [("cifar10", 10, 1500), ("cifar100", 100, 150), ("stl10", 10, 450)]
)
def test_a_dry_run_needs_no_files(tmp_path, capsys, dataset, classes, num_max):
    c = Config(
        dataset=dataset,
        data_dir=str(tmp_path),
        num_max=num_max,
        semi_method="fix",
        imb_ratio_l=10,
        imb_ratio_u=10,
    )
    made = build_job(c, CPU, dataset=dry_dataset(c))
    said = describe(made)
    assert f"{dataset} is not in {tmp_path} yet" in capsys.readouterr().err
    assert len(said["class_names"]) == classes
    assert said["labeled_counts"] == long_tail_counts(num_max, 10, classes)
    if dataset == "stl10":
        assert said["num_unlabeled"] == 100_000 + sum(said["labeled_counts"])
    else:
        own = long_tail_counts(2 * num_max, 10, classes)
        assert said["unlabeled_counts"] == [x + u for x, u in zip(said["labeled_counts"], own, strict=True)]
    assert not any(tmp_path.iterdir())


def test_a_dry_run_reads_files_that_are_there(capsys):
    c = dataclasses.replace(Config(), dataset="digits")
    assert dry_dataset(c).train_images.shape[2:] == (32, 32)
    assert capsys.readouterr().err == ""
