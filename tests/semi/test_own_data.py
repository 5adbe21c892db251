"""Runs on images of one's own, as a user starts them."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from semi.cli import parse
from semi.config import Config, ConfigError
from semi.run_folder import default_run_name
from tests.commands import run_here, without_wandb
from tracking.local import read_config, read_rows

TINY = (
    "--arch small --gpu cpu --num_max 6 --ratio 4 --imb_ratio_l 1 --imb_ratio_u 1 --semi_method fix --warm 0 --darp "
    "--epochs 2 --val-iteration 4 --batch_size 8 --flip False"
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Three kinds of digits as image files of 24 x 24, some without labels, and one file that is broken."""
    root, data = tmp_path_factory.mktemp("own"), load_digits()
    for k in range(3):
        (root / "labeled" / ["zero", "one", "two"][k]).mkdir(parents=True)
    (root / "more").mkdir()
    for i in np.flatnonzero(data.target < 3)[:240]:
        image = Image.fromarray((data.images[i] * 255 / 16).astype(np.uint8)).resize((24, 24))
        name = ["zero", "one", "two"][data.target[i]]
        image.save(root / ("more" if i % 3 == 0 else f"labeled/{name}") / f"{i}.png")
    (root / "more/broken.png").write_bytes(b"not an image")
    return root


def run(program, flags, folder):
    cache = {"XDG_CACHE_HOME": str(folder / "cache")}
    return run_here(program, *flags.split(), folder=folder, environment=without_wandb() | cache)


@pytest.mark.slow
@pytest.mark.parametrize("size", [24, 40])
def test_a_run_on_a_folder_of_ones_own_trains_goes_on_and_knows_its_classes(digits, tmp_path, size):
    flags = (
        f"--dataset folder --data-dir {digits}/labeled --image_size {size} {TINY} --out runs --run_name mine"
    )
    started = run("train.py", flags, tmp_path)
    assert started.returncode == 0, started.stderr
    more = run("train.py", f"{flags} --resume auto --epochs 3", tmp_path)
    assert more.returncode == 0, more.stderr
    rows, config = read_rows(tmp_path / "runs/mine"), read_config(tmp_path / "runs/mine")
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert config["class_names"] == ["one", "two", "zero"]
    assert rows[-1]["pseudo/refined/tv_target"] < 1e-4
    judged = run("eval.py", "score runs/mine/checkpoint.pt --gpu cpu", tmp_path)
    assert judged.returncode == 0, judged.stderr
    assert "zero" in judged.stdout


@pytest.mark.slow
def test_images_without_labels_are_the_unlabeled_set_and_broken_ones_are_counted(digits, tmp_path):
    flags = (
        f"--dataset folder --data-dir {digits}/labeled --unlabeled-dir {digits}/more --image_size 24 {TINY}"
    )
    refused = run("train.py", f"{flags} --out runs", tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "broken.png" in refused.stderr
    assert "--skip_broken" in refused.stderr
    assert not (tmp_path / "runs").exists()
    trained = run("train.py", f"{flags} --skip_broken --out runs --run_name mine", tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "1 images cannot be read and are left out" in trained.stderr
    row = read_rows(tmp_path / "runs/mine")[-1]
    assert "pseudo/true/0" not in row  # nobody knows their classes
    whole = (
        len(list((digits / "more").iterdir())) - 1
    )  # and FixMatch's unlabeled set holds the labeled images
    assert sum(row["pseudo_orig"]) == pytest.approx(whole + 3 * 6)


@pytest.mark.slow
def test_an_npz_file_of_ones_own_is_trained_on_and_its_distribution_estimated(tmp_path):
    data = load_digits()
    kept = data.target < 3
    np.savez(tmp_path / "mine.npz", train_images=data.images[kept] / 16, train_labels=data.target[kept])
    flags = f"--dataset npz --data-dir mine.npz --image_size 16 {TINY} --out runs --run_name mine"
    estimate = "--est --est_epochs 1 --est_val_iteration 3"
    trained = run("train.py", f"{flags} {estimate}", tmp_path)
    assert trained.returncode in (0, 1), trained.stderr  # 1: so short an estimation may be rejected
    assert "Traceback" not in trained.stderr
    dry = run("train.py", f"{flags} --run_name other --dry-run", tmp_path)
    assert dry.returncode == 0, dry.stderr
    assert not (tmp_path / "runs/other").exists()


def config(text):
    return parse(text.split(), "test", Config)[0]


def test_runs_on_two_folders_have_two_names():
    one, two = (config(f"--dataset folder --data-dir {name}") for name in ("a", "b"))
    assert default_run_name(one) != default_run_name(two)
    assert default_run_name(config("--data-dir a")) == default_run_name(config("--data-dir b"))
    assert default_run_name(one) == default_run_name(config("--dataset folder --data-dir a --skip_broken"))


@pytest.mark.parametrize(
    "flag", ["--image_size 64", "--unlabeled-dir x", "--test_share 0.5", "--skip_broken", "--flip False"]
)
def test_flags_of_ones_own_images_are_refused_elsewhere(flag):
    with pytest.raises(
        ConfigError, match="it is for images of your own; add --dataset folder or --dataset npz"
    ):
        config(f"--dataset digits {flag}")


@pytest.mark.parametrize("value", ["4", "1000", "x"])
def test_a_size_that_cannot_work_is_refused(value):
    with pytest.raises(ConfigError, match="image_size"):
        config(f"--dataset folder --image_size {value}")


def test_both_networks_take_other_sizes():
    from models import BACKBONES, build_model

    for arch in BACKBONES:
        for side in (8, 24, 96):
            assert build_model(arch, 3)(torch.zeros(2, 3, side, side)).shape == (2, 3)
