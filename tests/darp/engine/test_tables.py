"""The two forms of a table do what the formulas say, whatever the type of the duals, and agree with each other."""

import numpy as np
import pytest
import torch

from darp.engine import cpu
from darp.engine.cpu import CpuTable
from darp.engine.device import DeviceTable
from darp.engine.newton import Dual, descend
from tests.darp.test_solver import long_tail, predictions

TWINS = {"fused": CpuTable, "eager": DeviceTable}
twins = pytest.mark.parametrize("form", TWINS.values(), ids=TWINS.keys())
arithmetics = pytest.mark.parametrize("arithmetic", [np.float32, np.float64])
widths = pytest.mark.parametrize(
    "classes", [10, 150]
)  # the second with products in place of the dense curvature


def tolerance(arithmetic, probs):
    exact = arithmetic == np.float64 and probs.dtype == torch.float64
    return 1e-12 if exact else 2e-6


def by_formula(probs, duals, active):
    """X [N, K], h [N] and the rows' part of the dual, from the docstring of the solver in plain NumPy."""
    a = probs.double().numpy()
    h = -np.where(a > 0, a * np.log(np.maximum(a, 1e-300)), 0).sum(1)
    terms = a * active * np.exp(-np.outer(h, duals.astype(np.float64)))
    z = terms.sum(1)
    still = h < 1e-12
    value = np.where(still, 0, np.log(z) / np.where(still, 1, h)).sum()
    return terms / z[:, None], h, value


def instance(classes, dtype, arithmetic):
    probs = predictions(700, classes, 4.0, 2.0, dtype=dtype)
    duals = 3 * np.random.default_rng(0).random(classes)
    duals -= duals.min()
    active = np.ones(classes)
    active[2], duals[2] = 0, 0
    return probs, duals.astype(arithmetic), active


@twins
@arithmetics
@widths
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_pass_sums_and_writes_what_the_formula_says(form, arithmetic, classes, dtype):
    probs, duals, active = instance(classes, dtype, arithmetic)
    x, _, value = by_formula(probs, duals, active)
    refined = torch.empty_like(probs)
    table = form(probs, refined)
    sums, _ = table.measure(duals, active)
    limit = tolerance(arithmetic, probs)
    assert sums.dtype == np.float64
    np.testing.assert_allclose(sums[:-2], x.sum(0), rtol=10 * limit)
    assert sums[-2] == pytest.approx(value, rel=10 * limit)
    assert sums[-1] == 0
    written = table.write(duals, active)
    np.testing.assert_allclose(refined.numpy(), x, atol=limit)
    np.testing.assert_allclose(written[:-2], refined.double().sum(0), rtol=1e-6 if limit > 1e-9 else 1e-12)
    assert (refined.double().sum(1) - 1).abs().max() <= limit


@twins
@arithmetics
@widths
def test_the_curvature_comes_ready_to_solve_with(form, arithmetic, classes):
    probs, duals, active = instance(classes, torch.float64, arithmetic)
    x, h, _ = by_formula(probs, duals, active)
    hessian = np.diag(x.T @ h) - x.T @ (h[:, None] * x)
    _, curvature = form(probs, torch.empty_like(probs)).measure(duals, active)
    np.testing.assert_allclose(curvature.degree, np.diag(hessian), rtol=1e-5, atol=1e-12)
    assert curvature.total_entropy == pytest.approx(float(h.sum()), rel=1e-5)
    rhs = active * np.random.default_rng(1).normal(size=classes)
    rhs -= active * rhs.sum() / active.sum()
    found = curvature.solve(rhs, 0.5, 1e-6)
    left = hessian @ found + 0.5 * np.diag(hessian) * found - rhs
    assert np.linalg.norm(left) <= 1e-4 * np.linalg.norm(rhs)


@twins
@arithmetics
def test_a_second_pass_knows_the_entropies_and_finds_the_same(form, arithmetic):
    probs, duals, active = instance(10, torch.float32, arithmetic)
    table = form(probs, torch.empty_like(probs))
    first, second = table.measure(duals, active)[0], table.measure(duals, active)[0]
    np.testing.assert_allclose(first, second, rtol=1e-6)


@twins
@arithmetics
@pytest.mark.parametrize("entry", [float("nan"), -0.5, 2.0])
def test_rows_that_are_no_distribution_are_counted(form, arithmetic, entry):
    probs, duals, active = instance(10, torch.float64, arithmetic)
    probs[3, 1] = entry
    sums, _ = form(probs, torch.empty_like(probs)).measure(duals, active)
    assert sums[-1] > 0


@twins
@arithmetics
def test_a_row_that_knows_only_classes_of_target_zero_stays(form, arithmetic):
    probs, duals, active = instance(10, torch.float64, arithmetic)
    probs[5] = torch.eye(10)[2]
    refined = torch.empty_like(probs)
    table = form(probs, refined)
    assert np.isfinite(table.measure(duals, active)[0]).all()
    table.write(duals, active)
    assert torch.equal(refined[5], probs[5])


@twins
@arithmetics
def test_rows_whose_terms_all_underflow_are_computed_again(form, arithmetic):
    probs = torch.full((64, 3), 0.5, dtype=torch.float64)
    probs[:, 0] = 0.0  # the class with the smallest dual is not among theirs
    probs[0] = torch.tensor([1.0, 0.0, 0.0])
    duals, active = np.array([0.0, 1e5, 1e5 + 1.0], arithmetic), np.ones(3)
    sums = form(probs, torch.empty_like(probs)).measure(duals, active)[0]
    # 63 rows share class 1 and 2 as 1 to exp(-log 2): their entropy is log 2
    expected = [1, 63 / 1.5, 63 / 3]
    np.testing.assert_allclose(sums[:3], expected, rtol=1e-10 if arithmetic == np.float64 else 0.02)


def solve_with(table, counts, tol=1e-6):
    """The same steps on one form of the table or the other."""
    dual = Dual(table, np.asarray(counts, dtype=np.float64), len(table.probs))
    point, written = descend(dual, dual.measure(np.zeros(len(counts))), tol, 100, write=True)
    return point if written else dual.write(point.duals)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize(("rows", "classes"), [(700, 10), (65, 3), (500, 150), (64, 130)])
def test_solutions_on_fused_passes_agree_with_those_on_eager_ones(monkeypatch, rows, classes, dense, dtype):
    if dense:
        monkeypatch.setattr(cpu, "WIDE_CLASSES", 1000)
    probs, counts = predictions(rows, classes, 4.0, 2.0, dtype=dtype), long_tail(rows, classes, 3).numpy()
    if rows > classes:
        probs[5] = torch.eye(classes)[1]
    fused, eager = torch.empty_like(probs), torch.empty_like(probs)
    first = solve_with(CpuTable(probs, fused), counts, 1e-6)
    second = solve_with(DeviceTable(probs, eager), counts, 1e-6)
    assert max(first.residual, second.residual) <= 1e-6
    assert (fused - eager).abs().max() <= 2e-6
    if dense:
        assert (fused - eager).abs().max() <= (1e-11 if dtype == torch.float64 else 1e-7)
        assert first.value == pytest.approx(second.value, rel=1e-9)
