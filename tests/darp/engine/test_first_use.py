import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from darp.engine.first_use import LINE
from darp.engine.select import kth_smallest

ROOT = Path(__file__).parents[3]
ONE_FUNCTION = (
    "import numpy as np; from darp.engine.select import kth_smallest;"
    "print(kth_smallest(np.array([3, 1, 2], np.uint32), 1))"
)
REFRESHES = """
import torch
from darp import remove_noise, solve
for classes in (12, 180):
    p, c = torch.softmax(torch.randn(600, classes), 1), [600 / classes] * classes
    solve(remove_noise(p, c, 2.0), c)
    solve(p.where(p > 0, 0), c, tol=2e-7)
    remove_noise(p * 0 + 0.1, c, 2.0)
"""


def python(folder, *arguments):
    """A process with its own cache of machine code; what it says on standard output and error."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout, done.stderr


def test_one_line_says_that_passes_are_compiled_and_none_where_the_cache_has_them(tmp_path):
    assert python(tmp_path, "-c", ONE_FUNCTION) == ("2\n", LINE + "\n")
    assert python(tmp_path, "-c", ONE_FUNCTION) == ("2\n", "")


@pytest.mark.slow
def test_after_compiling_ahead_a_refinement_of_few_or_many_classes_compiles_nothing(tmp_path):
    out, said = python(tmp_path, "-m", "darp")
    assert out.startswith("the solver's passes are ready")
    assert said == LINE + "\n"
    assert python(tmp_path, "-c", REFRESHES) == ("", "")


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64, np.int64])
def test_the_kth_smallest_is_that_of_a_sorted_array(dtype):
    random = np.random.default_rng(0)
    for size in (1, 2, 3, 10, 257):
        for most in (2, 5, 10**6):  # many ties and none
            values = random.integers(0, most, size).astype(dtype)
            for place in range(size):
                assert kth_smallest(values.copy(), place) == np.sort(values)[place]


def test_no_order_of_the_values_makes_the_kth_smallest_slow():
    half = np.arange(200_000, dtype=np.uint32)
    for values in (half, half[::-1].copy(), np.concatenate([half, half[::-1]]), np.zeros(400_000, np.uint32)):
        assert kth_smallest(values.copy(), values.size // 2) == np.sort(values)[values.size // 2]
