"""run.sh: every experiment of its table can start. Nothing is trained, and no image file is needed."""

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from data import Dataset, known_counts, load_dataset
from semi.cli import parse
from semi.config import Config, WandbOptions
from semi.methods import method_class
from semi.split import split_for
from sweeps.command import command_of
from sweeps.definition import read_sweep, trials

ROOT = Path(__file__).parents[1]
TABLE = [
    [column.strip() for column in line.split("|")]
    for line in (ROOT / "configs" / "experiments.txt").read_text().splitlines()
    if not line.startswith("#")
]
NAMES = [row[0] for row in TABLE]
OWN_CLASS_COUNTS = {"cifar10": 10, "cifar100": 100, "stl10": 10, "fashion_mnist": 10, "digits": 10}


def run_sh(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "run.sh"), *words],
        capture_output=True,
        text=True,
        env=dict(os.environ) | {"PYTHON": sys.executable} | environment,  # there may be no .venv beside it
        cwd="/",
    )


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """What run.sh would start: a stand-in for Python writes down its words instead of running them."""
    folder = tmp_path_factory.mktemp("stand-in")
    python, log = folder / "python", folder / "log"
    python.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >> {shlex.quote(str(log))}\necho "run folder: result/x" >&2\n'
    )
    python.chmod(0o755)

    def started(*words: str) -> list[list[str]]:
        log.write_text("")
        done = run_sh(*words, PYTHON=str(python))
        assert done.returncode == 0, done.stderr
        return [line.split() for line in log.read_text().splitlines()]

    return started


@cache
def data(name: str) -> Dataset:
    return load_dataset("digits", "") if name == "digits" else known_counts(name)


def check_training(words: list[str]) -> Config:
    """The flags are right and the split can be made; returns the configuration."""
    assert words[0] == "train_with_wandb.py"
    config: Config = parse(words[1:], "", Config, WandbOptions)[0]
    include = method_class(config.semi_method).unlabeled_includes_labeled
    split = split_for(config, data(config.dataset), include_labeled=include)
    assert len(split.counts_x) == OWN_CLASS_COUNTS[config.dataset]
    return config


@pytest.fixture(autouse=True)
def from_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_the_table_has_each_name_once_with_all_columns():
    assert len(set(NAMES)) == len(NAMES)
    assert {len(row) for row in TABLE} == {5}
    assert all(row[0] and row[1] and row[3] and row[4] for row in TABLE)


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_can_start(commands, name):
    first, *more = commands(name)
    if first[0] == "-m":
        assert first[:3] == ["-m", "sweeps", "run"]
        sweep = read_sweep(first[3])
        for trial in trials(sweep):
            check_training(command_of(sweep.command, sweep.program, trial, "python")[2:])
        return
    config = check_training(first)
    assert (config.refine == "darp") is ("_darp" in name)
    assert config.resume == "auto"
    if match := re.search(r"_(mix|remix|fix)_(\d+)(?:_u(\d+))?", name):
        method, gamma, gamma_u = match.groups()
        assert (config.semi_method, config.imb_ratio_l) == (method, float(gamma))
        if config.dataset != "stl10":  # whose unlabeled images have no known classes
            assert config.imb_ratio_u == float(gamma_u or gamma)
            assert config.est is (config.refine == "darp" and gamma_u is not None)
    assert [words[0] for words in more] == (
        ["train_with_wandb.py", "retrain_head.py"] if name.endswith("_crt") else []
    )


CIFAR10 = {"dataset": "cifar10", "num_max": 1500, "ratio": 2, "warm": 200, "alpha": 2, "num_iter": 10, "iter_T": 10,
           "epochs": 500, "val_iteration": 500, "solver": "exact"}  # fmt: skip
CIFAR100 = CIFAR10 | {"dataset": "cifar100", "semi_method": "mix", "num_max": 300, "ratio": 0.5, "imb_ratio_l": 20,
                      "imb_ratio_u": 20, "num_iter": 100, "iter_T": 20, "est": False}  # fmt: skip
STL = CIFAR100 | {"dataset": "stl10", "num_max": 450, "ratio": 2, "imb_ratio_u": 1}
PUBLISHED = {
    f"cifar10_{method}_{gamma}{darp}": CIFAR10
    | {"semi_method": method, "imb_ratio_l": gamma, "imb_ratio_u": gamma, "est": False}
    for method in ("mix", "remix", "fix")
    for gamma in (100, 150)
    for darp in ("", "_darp")
}
PUBLISHED |= {
    f"cifar10_fix_100_u{gamma_u}_darp": CIFAR10
    | {"semi_method": "fix", "imb_ratio_l": 100, "imb_ratio_u": gamma_u, "est": True}
    for gamma_u in (1, 50, 150)
}
PUBLISHED |= {"cifar100_mix_20": CIFAR100, "cifar100_mix_20_darp": CIFAR100}
PUBLISHED |= {"stl10_mix_20": STL, "stl10_mix_20_darp": STL | {"est": True}}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_experiment_has_the_published_settings(commands, name):
    config = check_training(commands(name)[0])
    wanted = PUBLISHED[name] | {"refine": "darp" if name.endswith("_darp") else "none"}
    assert {field: getattr(config, field) for field in wanted} == wanted


@pytest.mark.parametrize("gamma", [20, 50, 100])
def test_the_protocol_of_cossl_has_a_name_of_its_own(commands, gamma):
    config = check_training(commands(f"cossl_cifar100_fix_{gamma}_darp")[0])
    assert (config.dataset, config.semi_method, config.num_max, config.ratio) == ("cifar100", "fix", 150, 2)
    assert (config.imb_ratio_l, config.imb_ratio_u) == (gamma, gamma)


def test_a_figure_to_expect_names_whose_table_it_is():
    figure = re.compile(r"\d\d\.\d")
    for name, _, _, _, expect in TABLE:
        if figure.search(expect):
            whose = "believed to be CoSSL's table: " if name.startswith("cossl_") else "paper: "
            assert expect.startswith(whose), name
    for preset in (ROOT / "configs").glob("*.yaml"):
        comments = " ".join(line for line in preset.read_text().splitlines() if line.startswith("#"))
        if figure.search(comments):
            assert "CoSSL" in comments if preset.name.startswith("cossl_") else "paper" in comments, (
                preset.name
            )


def test_the_published_counts_at_imbalance_100(commands):
    config = check_training(commands("cifar10_mix_100")[0])
    split = split_for(config, data("cifar10"), include_labeled=False)
    assert split.counts_x == [1500, 899, 539, 323, 193, 116, 69, 41, 25, 15]
    assert split.counts_u == [3000, 1798, 1078, 646, 387, 232, 139, 83, 50, 30]


def test_flags_of_the_user_win_over_those_of_the_experiment(commands):
    words = commands("cifar10_fix_50_darp", "--imb_ratio_l", "30", "--data-dir=some/where")[0]
    config = check_training(words)
    assert (config.imb_ratio_l, config.imb_ratio_u, config.data_dir) == (30, 50, "some/where")


def test_the_head_is_retrained_on_the_device_and_data_of_the_run(commands):
    *_, words = commands("cifar10_fix_50_darp_crt", "--gpu", "2", "--data-dir=d", "--seed", "4")
    assert words[:2] == ["retrain_head.py", "result/x/checkpoint.pt"]
    assert {"--gpu=2", "--data-dir=d", "--wandb"} <= set(words)
    assert not any("seed" in word for word in words)


def test_a_dry_run_retrains_nothing_and_writes_no_table(commands):
    assert all(words[0] != "retrain_head.py" for words in commands("cifar10_fix_50_darp_crt", "--dry-run"))
    assert len(commands("imbalance_fashion_mnist", "--dry-run")) == 1


def test_the_evidence_comes_with_its_table(commands):
    sweep, table = commands("imbalance_fashion_mnist", "--jobs", "2")
    assert sweep == ["-m", "sweeps", "run", "sweeps/imbalance_fashion_mnist.yaml", "--jobs", "2"]
    out = read_sweep(ROOT / sweep[3]).constant("out")
    assert table[:4] == ["eval.py", "summary", out, "--markdown"]


def test_a_dry_run_works_without_the_image_files(tmp_path):
    done = run_sh(
        "cossl_cifar100_fix_20",
        "--dry-run",
        f"--data-dir={tmp_path}",
        "--gpu=cpu",
        f"--out={tmp_path / 'o'}",
        TRAINER="train.py",
    )
    assert done.returncode == 0, done.stderr
    assert f"cifar100 is not in {tmp_path} yet" in done.stderr
    assert "unlabeled_counts_asked:" in done.stdout
    assert not any(tmp_path.iterdir())


def test_the_list_names_every_experiment():
    listed = run_sh("--list").stdout
    assert [line.split()[0] for line in listed.splitlines()] == NAMES


def test_an_unknown_name_is_refused():
    done = run_sh("cifar11")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no experiment cifar11: ./run.sh --list" in done.stderr


def test_the_scripts_are_clean():
    shellcheck = Path(sys.executable).with_name("shellcheck")  # of the development dependencies
    scripts = [ROOT / "run.sh", ROOT / "tests" / "slurm" / "cluster", *(ROOT / "examples").rglob("*.sbatch")]
    done = subprocess.run([shellcheck, *map(str, scripts)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
