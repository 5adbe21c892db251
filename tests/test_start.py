"""What is imported before a command has its flags, and before a training has its first step."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.semi.runs import TINY

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "torchvision", "wandb", "wandb_workspaces", "scipy", "sklearn", "numba", "numpy", "altair"}
NOT_FOR_DIGITS = {
    "torchvision",
    "sklearn",
    "scipy.optimize",
    "torch._dynamo",
    "sympy",
    "wandb",
    "altair",
}
COMMANDS = [
    "train.py --help",
    "train.py --tua 0.9",
    "train.py --tau high",
    "train_with_wandb.py --help",
    "train_with_wandb.py --wandb_modus=online",
    "estimate.py --help",
    "estimate.py --epoch many",
    "retrain_head.py --help",
    "retrain_head.py run --recipe=unknown",
    "eval.py --help",
    "eval.py score",
    "report.py --help",
    "report.py --pgn x.png",
    "-m sweeps --help",
    "-m sweeps check --help",
    "-m sweeps start",
    "-m tracking.sync --help",
    "-m tracking.sync",
    "-m tracking.workspace --help",
    "-m tracking.workspace --entity=me",
]


def imported(words: list[str]) -> tuple[set[str], subprocess.CompletedProcess[str]]:
    """The modules that a command imported, and how it ended."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    lines = (line for line in done.stderr.splitlines() if line.startswith("import time:"))
    return {line.rsplit("|", 1)[1].strip() for line in lines}, done


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_reads_its_flags_before_it_imports_anything_heavy(words):
    modules, done = imported(words.split())
    told = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    if "--help" in words:
        assert (done.returncode, told) == (0, [])
        assert "usage" in done.stdout
    else:
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = told
        program = re.match(r"-m \S+|\S+", words)
        assert program is not None
        assert line.startswith((f"{program[0]}: ", f"python {program[0]}: ", f"{program[0]} score: "))
    assert modules & HEAVY == set()
    assert "argparse" in modules  # else nothing would be seen


def test_a_training_on_digits_needs_no_torchvision_no_scikit_learn_and_no_compiler(tmp_path):
    flags = [f"--{name}={value}" for name, value in (TINY | {"epochs": 1, "out": tmp_path}).items()]
    modules, done = imported(["train.py", *flags])
    assert done.returncode == 0
    assert modules & NOT_FOR_DIGITS == set()
    assert "torch" in modules


def test_checking_a_sweep_of_a_data_set_that_is_not_there_needs_no_torchvision(tmp_path):
    script = (
        "import json, sys; from semi.dry_run import dry_run; "
        f"print(dry_run(['train.py', '--dataset=cifar10', '--data_dir={tmp_path}'], {{}}).unchecked, file=sys.stderr)"
    )
    modules, done = imported(["-c", script])
    assert f"cifar10 is not in {tmp_path} yet" in done.stderr
    assert "torchvision" not in modules
