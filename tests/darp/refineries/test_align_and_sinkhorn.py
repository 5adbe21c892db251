import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from darp import align, solve_sinkhorn

NUM_ROWS, NUM_CLASSES = 60, 4
COUNTS = torch.tensor([30.0, 15.0, 9.0, 6.0], dtype=torch.float64)


def table(dtype=torch.float64, sharpness=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(NUM_ROWS, NUM_CLASSES, generator=generator, dtype=torch.float64)
    return (sharpness * scores).softmax(dim=1).to(dtype)


def by_the_dual(probs: torch.Tensor, counts: torch.Tensor) -> np.ndarray:
    """The same problem through its concave dual, by a general-purpose optimiser: no alternation anywhere."""
    a, c = probs.double().numpy(), counts.numpy()

    def negative_dual(nu):
        weighted = a * np.exp(-nu)
        x = weighted / weighted.sum(1, keepdims=True)
        return np.log(weighted.sum(1)).sum() + c @ nu, c - x.sum(0)

    found = minimize(negative_dual, np.zeros(len(c)), jac=True, method="BFGS", options={"gtol": 1e-9})
    weighted = a * np.exp(-found.x)
    return weighted / weighted.sum(1, keepdims=True)


@pytest.mark.parametrize("sharpness", [0.5, 2.0, 5.0])
def test_sinkhorn_finds_the_optimum_of_the_unweighted_problem(sharpness):
    probs = table(sharpness=sharpness)
    solution = solve_sinkhorn(probs, COUNTS, tol=1e-10)
    assert solution.converged
    np.testing.assert_allclose(solution.refined.numpy(), by_the_dual(probs, COUNTS), atol=1e-7)


def test_sinkhorn_meets_rows_and_columns():
    solution = solve_sinkhorn(table(torch.float32), COUNTS)
    assert solution.converged
    assert solution.residual <= 1e-6
    assert solution.refined.dtype == torch.float32
    torch.testing.assert_close(solution.refined.sum(dim=0, dtype=torch.float64), COUNTS, rtol=1e-6, atol=0)
    torch.testing.assert_close(solution.refined.sum(dim=1), torch.ones(NUM_ROWS))


def test_sinkhorn_goes_on_from_the_duals_of_an_earlier_solution():
    cold = solve_sinkhorn(table(sharpness=5.0), COUNTS)
    warm = solve_sinkhorn(table(sharpness=5.0), COUNTS, warm_start=cold.duals)
    assert cold.iterations > 5
    assert warm.iterations <= 2
    torch.testing.assert_close(warm.refined, cold.refined, rtol=0, atol=1e-6)


def test_sinkhorn_says_that_a_target_is_out_of_reach():
    probs = torch.zeros(4, 2, dtype=torch.float64)
    probs[:, 0] = 1  # nobody gives class 1 any probability
    solution = solve_sinkhorn(probs, [2.0, 2.0], max_iter=50)
    assert not solution.converged
    assert solution.residual == pytest.approx(1.0)
    assert "mix a little of every class" in solution.reason
    assert torch.equal(solution.refined, probs)


def test_a_class_of_target_zero_gets_nothing():
    for solution in (
        solve_sinkhorn(table(), [30.0, 20.0, 10.0, 0.0]),
        align(table(), [30.0, 20.0, 10.0, 0.0]),
    ):
        assert solution.refined[:, 3].sum() == 0
        assert solution.duals[3] == torch.inf
        assert torch.isfinite(solution.refined).all()


def test_alignment_scales_columns_once_and_renormalises_rows():
    probs = table(torch.float32)
    solution = align(probs, COUNTS)
    a = probs.double().numpy()
    scaled = a * (COUNTS.numpy() / a.sum(0))
    np.testing.assert_allclose(
        solution.refined.numpy(), scaled / scaled.sum(1, keepdims=True), rtol=0, atol=1e-7
    )
    off = np.abs(solution.refined.double().numpy().sum(0) - COUNTS.numpy()) / COUNTS.numpy()
    assert solution.residual == pytest.approx(off.max())
    assert solution.residual > 1e-3  # it does not reach the target, and says so
    assert solution.converged


def test_sinkhorn_begins_where_alignment_ends():
    one_round = solve_sinkhorn(table(), COUNTS, max_iter=1)
    torch.testing.assert_close(one_round.refined, align(table(), COUNTS).refined)
    assert not one_round.converged


def test_the_table_is_left_as_it_was():
    probs = table()
    before = probs.clone()
    align(probs, COUNTS)
    solve_sinkhorn(probs, COUNTS)
    assert torch.equal(probs, before)


@pytest.mark.parametrize("refine", [align, solve_sinkhorn])
def test_a_row_that_knows_only_classes_of_target_zero_stays(refine):
    probs = torch.cat([table()[:3], torch.eye(4, dtype=torch.float64)[3:]])
    solution = refine(probs, [2.0, 1.0, 1.0, 0.0])
    assert torch.equal(solution.refined[3], probs[3])
    torch.testing.assert_close(solution.refined.sum(dim=1), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("refine", [align, solve_sinkhorn])
def test_the_smallest_dual_is_zero_and_the_duals_give_the_table(refine):
    probs = table()
    solution = refine(probs, COUNTS)
    assert float(solution.duals.min()) == 0
    weighted = probs * torch.exp(-solution.duals)
    torch.testing.assert_close(weighted / weighted.sum(dim=1, keepdim=True), solution.refined)
