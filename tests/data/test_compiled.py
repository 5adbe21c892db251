import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.compiled import COMPILING

ROOT = Path(__file__).parents[2]
ONE_FUNCTION = "from data.compiled import _source; print(_source(-2, 8, True))"
BATCHES = """
import torch
from data import Loader
for side, augment, flip in ((32, "fixmatch", False), (96, "published", True)):
    x = torch.zeros(5, 3, 32, 32, dtype=torch.uint8)
    full = torch.zeros(5, 3, side, side, dtype=torch.uint8)
    loader = Loader(x, torch.arange(5), x, views_x=("weak", "strong"), views_u=("strong", "strong"), batch_size=3,
                    mean=(0.5,) * 3, std=(0.2,) * 3, flip=flip, augment=augment, device="cpu", seed=0,
                    full_x=full, full_u=full)
    for _ in range(3):
        loader.next()
"""


def python(folder, *arguments):
    """A process with its own cache of machine code; what it says on standard output and error."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout, done.stderr


def test_one_line_says_that_views_are_compiled_and_none_where_the_cache_has_them(tmp_path):
    assert python(tmp_path, "-c", ONE_FUNCTION) == ("2\n", COMPILING + "\n")
    assert python(tmp_path, "-c", ONE_FUNCTION) == ("2\n", "")


@pytest.mark.slow
def test_after_compiling_ahead_batches_of_any_kind_compile_nothing(tmp_path):
    out, said = python(tmp_path, "-m", "data")
    assert out.startswith("the views of a CPU are ready")
    assert said == COMPILING + "\n"
    assert python(tmp_path, "-c", BATCHES) == ("", "")
