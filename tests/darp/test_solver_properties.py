"""Three solvers of others agree; and what must hold for tables that hypothesis makes up."""

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from darp import remove_noise, solve
from tests.darp.test_solver import long_tail, predictions

quick = settings(deadline=None, derandomize=True, max_examples=40)


@st.composite
def problems(draw, max_rows=30, max_classes=6, zeros=False):
    """A float64 table [N, K] of any sharpness, with or without zeros, and counts [K] that sum to N."""
    rows, classes = draw(st.integers(1, max_rows)), draw(st.integers(2, max_classes))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sharpness = draw(st.sampled_from([0.1, 1.0, 3.0, 6.0]))
    logits = sharpness * generator.normal(size=(rows, classes)) + draw(
        st.sampled_from([0.0, 5.0])
    ) * np.linspace(1, 0, classes)
    probs = np.exp(logits - logits.max(1, keepdims=True))
    if zeros:
        probs[generator.random(probs.shape) < 0.3] = 0
        probs[np.arange(rows), generator.integers(classes, size=rows)] += 1e-3
    probs /= probs.sum(1, keepdims=True)
    counts = generator.dirichlet(np.full(classes, draw(st.sampled_from([0.3, 1.0, 20.0])))) + 1e-4
    return torch.from_numpy(probs), torch.from_numpy(counts / counts.sum() * rows)


@given(problems())
@quick
def test_every_positive_table_reaches_every_positive_target(problem):
    probs, counts = problem
    solution = solve(probs, counts)
    assert solution.converged, solution.reason
    assert (solution.refined.sum(1) - 1).abs().max() <= 1e-9
    assert ((solution.refined.sum(0) - counts).abs() / counts.clamp_min(1)).max() <= 1e-6


@given(problems())
@quick
def test_the_solution_satisfies_the_conditions_of_an_optimum(problem):
    probs, counts = problem
    solution = solve(probs, counts, tol=1e-11)
    # log(x / a) = -h nu - log Z: within a row, log(x / a) / h falls by the same difference of duals in every row.
    weight = 1 / -torch.xlogy(probs, probs).sum(1, keepdim=True)
    slope = weight * torch.log(solution.refined / probs)
    settled = solution.refined.min(1).values > 1e-200
    difference = (slope - slope[:, :1])[settled]
    expected = -(solution.duals - solution.duals[0]).expand_as(difference)
    assert torch.allclose(difference, expected, rtol=1e-6, atol=1e-9 * float(weight.max()))


@given(problems(), st.randoms(use_true_random=False))
@quick
def test_permuted_rows_and_classes_give_the_permuted_table(problem, random):
    probs, counts = problem
    rows = torch.tensor(random.sample(range(len(probs)), len(probs)))
    classes = torch.tensor(random.sample(range(len(counts)), len(counts)))
    plain = solve(probs, counts, tol=1e-10)
    permuted = solve(probs[rows][:, classes], counts[classes], tol=1e-10)
    assert (plain.refined[rows][:, classes] - permuted.refined).abs().max() <= 1e-7


@given(problems(max_rows=12), st.integers(2, 4))
@quick
def test_duplicated_rows_get_the_same_refinement_and_change_no_other(problem, times):
    probs, counts = problem
    plain = solve(probs, counts, tol=1e-10)
    repeated = solve(probs.repeat(times, 1), counts * times, tol=1e-10)
    assert (repeated.refined - plain.refined.repeat(times, 1)).abs().max() <= 1e-7


@given(problems())
@quick
def test_a_solved_table_is_its_own_refinement(problem):
    probs, _ = problem
    solution = solve(probs, probs.sum(0))
    assert solution.converged
    assert solution.iterations <= 2
    assert (solution.refined - probs).abs().max() <= 1e-9


@given(problems(), st.integers(0, 10**6))
@quick
def test_the_start_does_not_change_the_solution(problem, seed):
    probs, counts = problem
    start = 10 * torch.randn(len(counts), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    cold, warm = solve(probs, counts, tol=1e-10), solve(probs, counts, tol=1e-10, warm_start=start)
    assert warm.converged
    assert (cold.refined - warm.refined).abs().max() <= 1e-7


@given(problems(max_rows=60), st.sampled_from([torch.float32, torch.float64]))
@quick
def test_float32_and_float64_tables_agree(problem, dtype):
    probs, counts = problem
    single = solve(probs.float(), counts)
    assert single.converged
    assert single.refined.dtype == torch.float32
    # The entropy of a rounded table differs, more so for sure rows, which large duals then magnify.
    assert (single.refined.double() - solve(probs.float().double(), counts).refined).abs().max() <= 1e-4


@given(problems(zeros=True))
@quick
def test_a_table_with_zeros_ends_with_a_verdict_and_keeps_its_zeros(problem):
    probs, counts = problem
    solution = solve(probs, counts)
    assert solution.converged == (solution.residual <= 1e-6)
    assert (solution.reason == "") == solution.converged
    assert (solution.refined[probs == 0] == 0).all()
    assert (solution.refined.sum(1) - 1).abs().max() <= 1e-9
    column_sums = solution.refined.sum(0)
    assert solution.residual == pytest.approx(
        float(((column_sums - counts).abs() / counts.clamp_min(1)).max()), rel=1e-6, abs=1e-12
    )


@given(problems(zeros=True), st.floats(0, 3))
@quick
def test_after_noise_removal_every_target_can_be_reached(problem, alpha):
    probs, counts = problem
    assert solve(remove_noise(probs, counts, alpha), counts).converged


def dual_optimum(a, c):
    """The duals by a general-purpose optimiser, from the formulas of the docstring in plain NumPy."""
    h = -(a * np.log(a)).sum(1)

    def table(nu):
        logits = np.log(a) - np.outer(h, nu)
        top = logits.max(1, keepdims=True)
        z = np.exp(logits - top).sum(1, keepdims=True)
        return np.exp(logits - top) / z, (top + np.log(z))[:, 0]

    def hessian(nu):
        x, _ = table(nu)
        return np.diag(x.T @ h) - x.T @ (h[:, None] * x) + 1e-9 * np.eye(len(c))

    found = minimize(
        lambda nu: float((table(nu)[1] / h).sum() + c @ nu),
        np.zeros(len(c)),
        jac=lambda nu: c - table(nu)[0].sum(0),
        hess=hessian,
        method="trust-exact",
        options={"gtol": 1e-8, "maxiter": 2000},
    )
    return table(found.x)[0]


@pytest.mark.parametrize(("rows", "classes", "lean"), [(40, 3, 0.0), (200, 6, 3.0), (300, 12, 1.0)])
def test_a_general_optimiser_on_the_dual_finds_the_same_table(rows, classes, lean):
    probs, counts = predictions(rows, classes, lean=lean, dtype=torch.float64), long_tail(rows, classes, 4)
    ours = solve(probs, counts, tol=1e-10)
    assert ours.converged
    np.testing.assert_allclose(ours.refined.numpy(), dual_optimum(probs.numpy(), counts.numpy()), atol=1e-6)


@pytest.mark.filterwarnings("ignore:scipy.optimize. The `disp`")  # of POT 0.9.6's call of SciPy
@pytest.mark.parametrize(("sharpness", "lean"), [(1.0, 0.0), (4.0, 1.0), (4.0, -1.0)])
def test_the_semi_dual_of_optimal_transport_finds_the_same_table_where_weights_are_equal(sharpness, lean):
    # Rows of the same entries have the same entropy, so the problem is entropic transport with the cost -log a.
    generator = np.random.default_rng(0)
    row = np.exp(sharpness * generator.normal(size=6))
    order = np.argsort(generator.gumbel(size=(200, 6)) + lean * np.arange(6), axis=1)
    a, counts = (np.sort(row) / row.sum())[np.argsort(order, axis=1)], long_tail(200, 6, 10).numpy()
    theirs = ot.smooth.smooth_ot_semi_dual(
        counts / 200, np.full(200, 1 / 200), -np.log(a.T), reg=1.0, reg_type="kl", stopThr=1e-14, numItermax=5000
    )  # fmt: skip
    ours = solve(torch.from_numpy(a), torch.from_numpy(counts), tol=1e-10)
    np.testing.assert_allclose(ours.refined.numpy(), 200 * theirs.T, atol=1e-5)


def test_a_general_optimiser_on_the_primal_finds_no_better_table():
    probs, counts = predictions(6, 3, 1.0, dtype=torch.float64), torch.tensor([1.0, 2.0, 3.0])
    a, w = probs.numpy(), 1 / -(probs * probs.log()).sum(1).numpy()
    ours = solve(probs, counts, tol=1e-11).refined.numpy()

    def cost(flat):
        x = np.maximum(flat.reshape(a.shape), 1e-15)
        return float((w * (x * np.log(x / a)).sum(1)).sum())

    constraints = [
        {"type": "eq", "fun": lambda f: f.reshape(a.shape).sum(1) - 1},
        {"type": "eq", "fun": lambda f: (f.reshape(a.shape).sum(0) - counts.numpy())[:-1]},
    ]
    theirs = minimize(
        cost, a.ravel(), method="SLSQP", bounds=[(1e-12, 1)] * a.size, constraints=constraints,
        options={"ftol": 1e-14, "maxiter": 1000},
    )  # fmt: skip
    assert cost(ours.ravel()) <= theirs.fun + 1e-8
    np.testing.assert_allclose(ours, theirs.x.reshape(a.shape), atol=1e-4)
