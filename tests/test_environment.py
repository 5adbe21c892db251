"""Entry scripts started by a Python that lacks the packages, such as the system's own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tracking.report.synthetic_runs import write_run

ROOT = Path(__file__).parents[1]
HANDED_DOWN = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py") if path.name != "environment.py")


@pytest.mark.parametrize(
    "words", [*([name] for name in SCRIPTS), ["-m", "sweeps"]], ids=lambda words: words[-1]
)
def test_outside_the_environment_one_line_names_the_remedy(words: list[str]) -> None:
    bare = [sys.executable, "-S"]  # without site-packages
    done = subprocess.run([*bare, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert ("has no numpy" if words == ["report.py"] else "has no torch") in line
    assert "`source .venv/bin/activate`" in line
    assert done.stdout == ""


@pytest.mark.parametrize(
    "words", [["report.py", "runs", "--out", "page.html"], ["eval.py", "summary", "runs"]]
)
def test_those_who_only_look_need_no_torch(tmp_path: Path, words: list[str]) -> None:
    for seed in range(2):
        write_run(tmp_path / "runs", f"run{seed}", seed=seed)
    heavy = ("torch", "torchvision", "wandb", "scipy", "numba", "sklearn", "optuna")
    program = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({heavy})); sys.path.insert(0, {str(ROOT)!r}); "
        f"sys.argv = {words!r}; runpy.run_path({str(ROOT / words[0])!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout


def test_what_those_need_is_written_twice_and_the_same() -> None:
    listed = [line for line in (ROOT / "requirements-report.txt").read_text().splitlines() if line[:1] != "#"]
    text = (ROOT / "pyproject.toml").read_text()
    extra = text[text.index("report = [") : text.index("]", text.index("report = ["))]
    assert re.findall(r'^    "(.+?)"', extra, re.MULTILINE) == listed


@pytest.mark.parametrize(
    ("before", "told"),
    [
        (
            "sys.version_info = (3, 9, 2)",
            r"make: Python 3\.10 to 3\.13 is needed, .* is 3\.9: name another: make PYTHON=.*",
        ),
        (
            "importlib.util.find_spec = lambda name: None",
            r"make: .* cannot make \.venv: apt-get install python3-venv",
        ),
        (None, r"make: there is no .*: install Python 3\.10 to 3\.13, or name one: make PYTHON=python3\.12"),
    ],
)
def test_make_says_in_one_line_what_a_python_lacks_and_makes_nothing(
    tmp_path: Path, before: str | None, told: str
) -> None:
    python = tmp_path / "python"
    if before:  # what the Makefile asks this Python (-c), answered as by one that lacks something
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys, importlib.util; {before}; $2"\n')
        python.chmod(0o755)
    command = ["make", "--silent", "setup", f"VENV={tmp_path}/venv", f"PYTHON={python}"]
    # without what a `make test` around this test hands down: its flags, and that it is one level deeper
    alone = {name: value for name, value in os.environ.items() if name not in HANDED_DOWN}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=alone)
    assert done.returncode == 2
    lines = [
        line for line in done.stderr.splitlines() if not line.startswith("make: ***")
    ]  # make's own last word
    assert [line for line in lines if not re.fullmatch(told, line)] == []
    assert len(lines) == 1
    assert not (tmp_path / "venv").exists()
