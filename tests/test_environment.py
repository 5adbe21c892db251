"""Entry scripts started by a Python that lacks the packages, such as the system's own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py") if path.name != "environment.py")


@pytest.mark.parametrize(
    "words", [*([name] for name in SCRIPTS), ["-m", "sweeps"]], ids=lambda words: words[-1]
)
def test_outside_the_environment_one_line_names_the_remedy(words: list[str]) -> None:
    bare = [sys.executable, "-S"]  # without site-packages
    done = subprocess.run([*bare, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "has no torch" in line
    assert "`source .venv/bin/activate`" in line
    assert done.stdout == ""
