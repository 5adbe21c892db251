"""The rules of the layout, held by the tools that hold them in CI."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data.datasets import READERS
from models import BACKBONES
from semi.config import ARCHS, OWN_DATASETS
from semi.methods import Method, method_class
from semi.names import DATASETS, METHODS

ROOT = Path(__file__).parents[1]
PACKAGES = ("darp", "data", "models", "semi", "sweeps", "tracking")
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def folders() -> list[Path]:
    """Every package and subpackage of the project, relative to its root."""
    inits = sorted(init for package in PACKAGES for init in (ROOT / package).rglob("__init__.py"))
    return [init.parent.relative_to(ROOT) for init in inits]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LINT_IMPORTS, "--no-cache"], cwd=folder, capture_output=True, text=True)


def test_an_import_of_wandb_outside_tracking_online_fails_lint(copy: Path) -> None:
    assert lint(copy).returncode == 0
    for folder in folders():
        (copy / folder / "planted.py").write_text("import wandb\n")
    done = lint(copy)
    assert done.returncode != 0
    told = set(re.findall(r"([\w.]+)\.planted -> wandb", done.stdout))
    packages = {".".join(folder.parts) for folder in folders()}
    assert told == packages - {"tracking.online"}


def test_a_circle_inside_a_package_fails_lint(copy: Path) -> None:
    config = copy / "semi" / "config.py"
    config.write_text(config.read_text() + "\n\nfrom semi.methods import METHODS  # noqa\n")
    done = lint(copy)
    assert done.returncode != 0
    assert "no circles inside a package BROKEN" in done.stdout


def test_only_tracking_local_reads_and_writes_the_files_of_a_run() -> None:
    product = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")] + [*ROOT.glob("*.py")]
    parsing = [
        path.relative_to(ROOT).as_posix()
        for path in product
        if re.search(r'METRICS_FILE|"metrics\.jsonl"', text := path.read_text()) and "json.loads" in text
    ]
    assert parsing == ["tracking/local.py"]


def test_every_name_of_a_method_stands_for_a_class_of_its_own() -> None:
    classes = [method_class(name) for name in METHODS]
    assert all(issubclass(method, Method) for method in classes)
    assert len({method.label for method in classes}) == len(METHODS)


def test_every_data_set_and_every_network_has_its_name_in_the_flags() -> None:
    assert (*READERS, *OWN_DATASETS) == tuple(DATASETS)
    assert tuple(BACKBONES) == ARCHS
