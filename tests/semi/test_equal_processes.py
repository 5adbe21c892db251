"""With equal draws, 1, 2 and 3 gloo processes compute the same training: losses, tables, weights and rows.

Three processes are started for all of it, once: starting one takes as long as a dozen of the trainings.
"""

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
    workers = [
        subprocess.Popen([sys.executable, "-m", "tests.semi.equal_draws", str(rank), str(folder)], cwd=ROOT)
        for rank in range(3)
    ]
    try:
        assert [worker.wait(timeout=600) for worker in workers] == [0, 0, 0]
    finally:
        for worker in workers:
            worker.kill()
    return {
        size: [pickle.loads((folder / f"{size}-{rank}").read_bytes()) for rank in range(size)]
        for size in (1, 2, 3)
    }


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


@pytest.mark.parametrize("size", [2, 3])
def test_the_estimate_equals_that_of_one_process(found, size):
    alone, steps = found[1][0]["estimations"]["whole"]
    assert steps == 40
    assert alone["accepted_epochs"] > 0
    for part in found[size]:
        require_equal(part["estimations"]["whole"][0], alone)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(("which", "expected_steps"), [("resumed", 1), ("started again", 40)])
def test_an_estimation_of_three_processes_goes_on_with_any_number_of_them(found, which, expected_steps, size):
    """Or, where what they have left is damaged, starts again."""
    alone, _ = found[1][0]["estimations"]["whole"]
    for part in found[size]:
        record, steps = part["estimations"][which]
        assert steps == expected_steps
        require_equal(record, alone)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_process_hears_that_the_distribution_cannot_be_told(found, size):
    for part in found[size]:
        assert "cannot be told: the condition number" in part["estimations"]["told"]


def require_equal(record, expected):
    for name in ("dist", "low", "high", "published_dist", "condition"):
        assert record[name] == pytest.approx(expected[name], abs=EQUAL, rel=EQUAL), name
    for name in ("accepted_epochs", "heldout_counts", "unlabeled_images"):
        assert record[name] == expected[name]
