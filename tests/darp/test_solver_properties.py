"""What must hold for every table and every target that has its sum, on tables that hypothesis makes up."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from darp import remove_noise, solve

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
