import numpy as np
import pytest
import torch
from scipy.optimize import newton

from darp import solve, solve_reference


def predictions(rows, classes, lean=0.0, margin=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = margin * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    return torch.softmax(logits + lean * torch.linspace(1, 0, classes, dtype=torch.float64), 1)


def collapsed(rows, classes, seed=0):
    """Nearly all of every row on class 0, the rest spread at random."""
    generator = torch.Generator().manual_seed(seed)
    probs = 1e-4 * torch.rand(rows, classes, generator=generator, dtype=torch.float64)
    probs[:, 0] = 0
    probs[:, 0] = 1 - probs.sum(1)
    return probs


def as_published(a, c, rounds, tol):
    """The scheme written out: rows in closed form, then scipy's root search without a derivative for each class."""
    h = -(a * np.log(a + 1e-6)).sum(1)
    nu = np.zeros(len(c))
    for _ in range(rounds):
        z = (a * np.exp(-np.outer(h, nu))).sum(1)

        def excess(x, k, z=z):
            return (a[:, k] * np.exp(-h * x) / z).sum() - c[k]

        nu = np.array([newton(excess, nu[k], args=(k,), tol=tol, maxiter=30) for k in range(len(c))])
    x = a * np.exp(-np.outer(h, nu))
    return x / x.sum(1, keepdims=True), nu


@pytest.mark.parametrize(("rounds", "tol"), [(1, 0.1), (10, 0.1), (20, 0.3)])
def test_it_takes_the_steps_of_the_published_scheme_which_are_those_of_the_secant(rounds, tol):
    probs, counts = predictions(400, 5, lean=2.0), torch.tensor([150.0, 100.0, 70.0, 50.0, 30.0])
    ours = solve_reference(probs, counts, rounds=rounds, tol=tol)
    table, nu = as_published(probs.numpy(), counts.numpy(), rounds, tol)
    assert np.abs(nu).max() > 0.1
    np.testing.assert_allclose(ours.duals.numpy(), nu, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours.refined.numpy(), table, rtol=1e-9)


def test_with_patience_the_published_scheme_finds_the_same_table():
    probs, counts = predictions(200, 5, lean=1.0), torch.tensor([80.0, 50.0, 30.0, 25.0, 15.0])
    patient = solve_reference(probs, counts, rounds=400, tol=1e-10)
    assert patient.converged
    assert patient.reason == ""
    # Its entropy has 1e-6 inside the logarithm, so that the two problems differ by about as much.
    assert (patient.refined - solve(probs, counts).refined).abs().max() < 1e-4


def test_its_rows_sum_to_one_and_its_residual_is_that_of_its_table():
    probs, counts = predictions(300, 4, lean=2.0), torch.full((4,), 75.0)
    solution = solve_reference(probs, counts)
    assert (solution.refined.sum(1) - 1).abs().max() < 1e-12
    worst = ((solution.refined.sum(0) - counts).abs() / counts).max()
    assert solution.residual == pytest.approx(float(worst))
    assert not solution.converged
    assert "10 rounds" in solution.reason


@pytest.mark.parametrize("classes", [3, 10])
def test_on_collapsed_predictions_it_stops_far_from_the_target_and_ours_does_not(classes):
    rows = 50_000
    probs, counts = collapsed(rows, classes), torch.full((classes,), rows / classes)
    theirs, ours = solve_reference(probs, counts), solve(probs, counts)
    assert not theirs.converged
    assert theirs.residual > 0.5
    assert theirs.refined[:, 0].sum() > 1.5 * counts[0]
    assert ours.converged
    assert ours.residual <= 1e-6


def test_a_root_search_that_fails_is_told_and_does_not_raise():
    probs = torch.full((50_000, 10), 1e-6 / 9, dtype=torch.float64)
    probs[:, 0] = 1 - 1e-6
    counts = torch.full((10,), 5000.0)
    theirs = solve_reference(probs, counts)
    assert not theirs.converged
    assert "root search failed" in theirs.reason
    assert torch.isfinite(theirs.refined).all()
    assert solve(probs, counts).converged


def test_a_target_of_zero_has_no_root_and_is_told():
    probs, counts = predictions(100, 3), torch.tensor([60.0, 40.0, 0.0])
    assert "root search failed" in solve_reference(probs, counts).reason
    assert solve(probs, counts).converged


def test_it_keeps_type_and_input():
    probs = predictions(50, 3).float()
    before = probs.clone()
    assert solve_reference(probs, [20.0, 20.0, 10.0], warm_start=torch.ones(3)).refined.dtype == torch.float32
    assert torch.equal(probs, before)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"give \[N, K\] and \[K\]"):
        solve_reference(predictions(5, 3), [2.0, 3.0])
