"""With equal draws, 1, 2 and 3 gloo processes compute the same training: losses, tables, weights and rows."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from semi.names import METHODS
from tests.semi.equal_draws import CASES, STEPS
from tests.semi.runs import TIMES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EQUAL = 1e-9


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Number of processes -> what each of them found, by method and refinement."""
    folder = tmp_path_factory.mktemp("processes")
    return {size: started(size, folder) for size in (1, 2, 3)}


def started(size, folder):
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.semi.equal_draws", str(rank), str(size), str(folder)], cwd=ROOT
        )
        for rank in range(size)
    ]
    try:
        assert [worker.wait(timeout=240) for worker in workers] == [0] * size
    finally:
        for worker in workers:
            worker.kill()
    return [pickle.loads((folder / f"{size}-{rank}").read_bytes()) for rank in range(size)]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(("method", "refine"), CASES)
def test_losses_tables_weights_and_rows_equal_those_of_one_process(found, method, refine, size):
    alone, several = found[1][0][method, refine], [part[method, refine] for part in found[size]]
    assert alone["losses"].shape[0] == 2 * STEPS
    assert alone["losses"].dtype == torch.float64
    for table in ("orig", "refined"):
        together = torch.cat([part[table] for part in several])
        assert (together - alone[table]).abs().max() <= EQUAL
        assert len({len(part[table]) for part in several}) == 1
    for part in several:
        assert (part["losses"] - alone["losses"]).abs().max() <= EQUAL
        assert (part["weights"] - alone["weights"]).abs().max() <= EQUAL
        for row, expected in zip(part["rows"], alone["rows"], strict=True):
            assert row.keys() == expected.keys()
            for key in row:
                if not TIMES.match(key):
                    assert row[key] == pytest.approx(expected[key], abs=1e-8, rel=1e-8), key


@pytest.mark.parametrize("method", METHODS)
def test_the_training_that_is_compared_learns_and_refines(found, method):
    """Else processes that do nothing would be equal too."""
    raw, darp = found[1][0][method, "none"], found[1][0][method, "darp"]
    assert raw["losses"].std(dim=0)[0] > 1e-3
    assert (darp["orig"] - darp["refined"]).abs().max() > 0.1
    if method != "sup":
        assert (raw["losses"] - darp["losses"]).abs().max() > 1e-3
