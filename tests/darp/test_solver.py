import math
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from darp import remove_noise, solve
from darp.engine import newton
from darp.engine.cpu import Chunks, CpuTable
from darp.engine.passes import compare

ROOT = Path(__file__).parents[2]


def predictions(rows, classes, margin=3.0, lean=0.0, seed=0, dtype=torch.float32):
    """Softmax of normal logits with a margin for a random true class and a lean to the first classes."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(rows), torch.randint(classes, (rows,), generator=generator)] += margin
    logits += lean * torch.linspace(1, 0, classes, dtype=torch.float64)
    return torch.softmax(logits, 1).to(dtype)


def long_tail(rows, classes, imbalance):
    share = imbalance ** -torch.linspace(0, 1, classes, dtype=torch.float64)
    return share / share.sum() * rows


def collapsed(rows, classes, rest=1e-6, dtype=torch.float32):
    """Every row gives 1 - rest to class 0."""
    probs = torch.full((rows, classes), rest / (classes - 1), dtype=torch.float64)
    probs[:, 0] = 1 - rest
    return probs.to(dtype)


def saturated(rows, imbalance):
    """92 % of the rows sure, with a margin of 13 logits; labels with a long tail."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, 10, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(long_tail(1, 10, imbalance), rows, replacement=True, generator=generator)
    sure = torch.rand(rows, generator=generator) < 0.92
    logits[torch.arange(rows), labels] += torch.where(sure, 13.0, 3.0).double()
    return torch.softmax(logits, 1).float()


def residual_of(refined, counts):
    sums = refined.double().sum(0)
    return float(
        ((sums - torch.as_tensor(counts).double()).abs() / torch.as_tensor(counts).clamp_min(1)).max()
    )


def assert_solves(probs, counts, **options):
    solution = solve(probs, counts, **options)
    assert solution.converged, solution.reason
    assert solution.reason == ""
    assert solution.residual <= 1e-6
    assert residual_of(solution.refined, counts) == pytest.approx(solution.residual, abs=1e-12)
    assert solution.refined.dtype == probs.dtype
    assert (solution.refined.double().sum(1) - 1).abs().max() <= 1e-6
    assert solution.refined.min() >= 0
    return solution


def one_hot_rows_mixed_in():
    probs = predictions(2000, 10, lean=2.0)
    probs[::4] = torch.eye(10)[torch.arange(500) % 10]
    return probs, long_tail(2000, 10, 2)


def a_class_that_no_row_prefers():
    probs = predictions(3000, 10, margin=20.0)
    probs[:, 3] = 1e-9
    return probs / probs.sum(1, keepdim=True), long_tail(3000, 10, 1)


def a_target_of_zero():
    counts = long_tail(3000, 10, 5)
    counts[4] = 0
    return predictions(3000, 10), counts * (3000 / counts.sum())


HARD = {
    "50,000 rows collapsed to one class": lambda: (collapsed(50_000, 10), long_tail(50_000, 10, 1)),
    "collapsed in float64": lambda: (collapsed(500, 10, 1e-12, torch.float64), long_tail(500, 10, 10)),
    "one-hot rows mixed in": one_hot_rows_mixed_in,
    "a target of zero": a_target_of_zero,
    "a class that no row prefers": a_class_that_no_row_prefers,
    "two classes": lambda: (predictions(1000, 2, lean=4.0), long_tail(1000, 2, 1)),
    "a thousand classes": lambda: (predictions(3000, 1000, 9.0), long_tail(3000, 1000, 10)),
    "a thousand classes, collapsed": lambda: (collapsed(3000, 1000), long_tail(3000, 1000, 3)),
    "a thousand classes, collapsed, float64": lambda: (
        collapsed(2000, 1000, 1e-6, torch.float64),
        long_tail(2000, 1000, 3),
    ),
    "more classes than the dense curvature takes": lambda: (
        predictions(2000, 200, 7.0, 4.0),
        long_tail(2000, 200, 1),
    ),
    "imbalance 1000 against the lean of the table": lambda: (
        predictions(5000, 10, lean=8.0),
        long_tail(5000, 10, 1000).flip(0),
    ),
    "one row": lambda: (predictions(1, 10), long_tail(1, 10, 100)),
    "fewer rows than classes": lambda: (predictions(5, 40), long_tail(5, 40, 10)),
    "one class": lambda: (torch.ones(7, 1), [7.0]),
    "sharp and skewed": lambda: (predictions(5000, 10, 8.0, 8.0), long_tail(5000, 10, 1)),
    "all rows alike": lambda: (predictions(1, 10).expand(800, 10), long_tail(800, 10, 50)),
}


@pytest.mark.parametrize("instance", HARD.values(), ids=HARD.keys())
def test_a_hard_instance_converges(instance):
    probs, counts = instance()
    solution = assert_solves(probs, counts)
    assert solution.iterations <= 30


def test_a_class_of_target_zero_gets_nothing_and_an_infinite_dual():
    probs, counts = a_target_of_zero()
    solution = assert_solves(probs, counts)
    assert solution.refined[:, 4].max() == 0
    assert math.isinf(solution.duals[4])
    again = solve(probs, counts, warm_start=solution.duals)
    assert again.converged
    assert again.iterations <= 2


def test_a_one_hot_row_stays_as_it_is():
    probs, counts = one_hot_rows_mixed_in()
    assert torch.equal(solve(probs, counts).refined[::4], probs[::4])


def test_the_solution_has_the_form_that_its_duals_say():
    probs, counts = predictions(300, 5, lean=2.0, dtype=torch.float64), long_tail(300, 5, 7)
    solution = assert_solves(probs, counts)
    entropy = -torch.xlogy(probs, probs).sum(1, keepdim=True)
    assert torch.allclose(
        solution.refined, torch.softmax(probs.log() - entropy * solution.duals, 1), atol=1e-12
    )
    assert solution.duals.min() == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("classes", [10, 300])
def test_an_accelerator_finds_what_the_processor_finds(classes):
    probs, counts = predictions(5000, classes, 5.0, 2.0, dtype=torch.float64), long_tail(5000, classes, 10)
    cleaned = remove_noise(probs.cuda(), counts, 2.0)
    assert (cleaned.cpu() - remove_noise(probs, counts, 2.0)).abs().max() <= 1e-12
    there, here = assert_solves(cleaned, counts.cuda()), assert_solves(cleaned.cpu(), counts)
    assert there.refined.is_cuda
    assert not there.duals.is_cuda
    assert (there.refined.cpu() - here.refined).abs().max() <= 1e-6


@pytest.mark.parametrize("lean", [0.0, 1.0])
def test_a_benign_table_takes_at_most_5_passes(lean):
    probs, counts = predictions(20_000, 10, lean=lean), long_tail(20_000, 10, 10)
    assert assert_solves(probs, counts).iterations <= 5


def test_a_warm_start_after_640_changed_rows_takes_at_most_3_passes():
    probs, counts = predictions(20_000, 10, lean=4.0), long_tail(20_000, 10, 1)
    duals = solve(probs, counts).duals
    probs[:640] = predictions(640, 10, lean=4.0, seed=1)
    assert assert_solves(probs, counts, warm_start=duals).iterations <= 3


def test_a_warm_start_that_is_far_off_does_no_harm():
    probs, counts = predictions(2000, 10, lean=4.0), long_tail(2000, 10, 1)
    start = torch.linspace(0, 1e6, 10)
    start[3] = torch.nan
    cold = assert_solves(probs, counts)
    warm = assert_solves(probs, counts, warm_start=start)
    assert warm.iterations <= cold.iterations + 1
    torch.testing.assert_close(warm.refined, cold.refined, rtol=1e-4, atol=1e-6)


def test_a_large_cold_solve_looks_at_a_sample_first():
    probs, counts = predictions(60_000, 10, 3.0, 6.0, seed=1), long_tail(60_000, 10, 1)
    assert assert_solves(remove_noise(probs, counts, 2.0), counts).iterations <= 10  # 19 without


def passes_in(table, duals, dtype):
    """Column sums [K], the rows' part of the dual, and the refined table of one pass in the arithmetic of `dtype`."""
    refined = torch.empty_like(table)
    passes = CpuTable(table, refined)
    duals = np.asarray(duals, dtype)
    sums, _ = passes.measure(duals, np.ones(len(duals)))
    passes.write(duals, np.ones(len(duals)))
    return sums, refined


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 2])
def test_a_sum_that_is_not_finite_is_no_small_residual(broken, place):
    sums = np.array([1.0, 2.0, 3.0])
    log_ratio = np.empty(3)
    assert compare(sums, np.array([2.0, 0.0, 3.0]), 1e-290, log_ratio) == (math.log(2), 2.0)
    assert log_ratio.tolist() == [-math.log(2), 0.0, 0.0]
    sums[place] = broken
    assert compare(sums, np.array([2.0, 0.0, 3.0]), 1e-290, log_ratio) == (math.inf, math.inf)


@pytest.mark.parametrize("classes", [10, 200])
@pytest.mark.parametrize("spread", [0.0, 1.0, 10.0])
def test_a_pass_in_float32_agrees_with_one_in_float64(classes, spread):
    table = predictions(3000, classes, 3.0, 2.0)
    duals = spread * np.random.default_rng(0).random(classes).astype(np.float32)
    single, of_single = passes_in(table, duals, np.float32)
    double, of_double = passes_in(table, duals, np.float64)
    assert np.abs(single[:classes] / double[:classes] - 1).max() < 1e-6
    assert (of_single - of_double).abs().max() < 1e-6


def test_rows_that_underflow_in_float32_are_computed_again():
    """Outside the range in which `solve` uses it, a pass in float32 is still one of the right rows."""
    table = predictions(500, 10, 3.0)
    duals = np.linspace(100, 800, 10).astype(np.float32)
    assert passes_in(table, duals, np.float32)[1].sum(1).sub(1).abs().max() < 1e-6
    of_single, of_double = passes_in(table, duals, np.float32)[1], passes_in(table, duals, np.float64)[1]
    assert (
        of_single - of_double
    ).abs().max() < 1e-3  # the exponents are in the hundreds: 1e-7 of them is 1e-4


def test_the_kernels_are_also_plain_python(tmp_path):
    """With Numba switched off every compiled function runs line by line: what a debugger sees is what is compiled."""
    probs, counts = predictions(150, 5, lean=2.0), long_tail(150, 5, 3)
    torch.save((probs, counts), tmp_path / "problem")
    script = (
        "import torch\nfrom darp import remove_noise, solve\n"
        "probs, counts = torch.load('problem')\n"
        "torch.save(solve(remove_noise(probs, counts, 2.0), counts).refined, 'refined')"
    )
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path, env=os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip
    compiled = solve(remove_noise(probs, counts, 2.0), counts).refined
    assert (torch.load(tmp_path / "refined") - compiled).abs().max() < 1e-5


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize(("before", "target"), [(20, 1), (100, 100), (1, 100), (20, 100)])
def test_a_table_that_fixmatch_ends_in_takes_few_passes(before, target, noise):
    # 90 % of the rows above 0.999: without samples, and steps along log nu, these took up to 36.
    counts = long_tail(10_000, 10, target)
    probs = saturated(10_000, before)
    assert (probs.max(1).values > 0.999).float().mean() > 0.85
    solution = assert_solves(remove_noise(probs, counts, 2.0) if noise else probs, counts)
    assert solution.iterations < 15


def test_where_float32_stops_short_of_the_tolerance_float64_goes_on(monkeypatch):
    monkeypatch.setattr(newton, "ROUGH_EXPONENT", 1e9)  # float32 where it would not be used
    probs, counts = predictions(2000, 10, 8.0, 20.0, seed=28), long_tail(2000, 10, 1)
    solution = solve(probs, counts, tol=5e-7)  # float32 ends at 5.1e-7 here
    assert solution.converged, solution.reason


@pytest.mark.parametrize("instance", HARD.values(), ids=HARD.keys())
def test_solutions_found_in_float32_and_in_float64_agree(instance):
    probs, counts = instance()
    rough, exact = (
        solve(probs, counts),
        solve(probs, counts, tol=4e-7),
    )  # too little for float32: none is tried
    if exact.converged:
        assert (rough.refined - exact.refined).abs().max() < 2e-5
    else:  # rounding the output is what keeps it above
        assert "rounding" in exact.reason


def test_classes_that_only_sure_rows_make_up_are_not_moved_too_far():
    counts = long_tail(3000, 300, 1)
    tables = [predictions(3000, 300, 2 + math.log(300), 2.0, seed=seed) for seed in range(6)]
    passes = [assert_solves(remove_noise(probs, counts, 2.0), counts).iterations for probs in tables]
    assert sum(passes) <= 165  # 141; without the limit on single classes 193


def test_steps_that_fail_do_not_spoil_the_ones_after_them_where_only_products_are_kept():
    probs, counts = predictions(2000, 300, 2 + math.log(300), 3.0, seed=1), long_tail(2000, 300, 3)
    assert assert_solves(remove_noise(probs, counts, 2.0), counts).iterations <= 45


def test_classes_that_few_rows_connect_are_balanced_too():
    random = np.random.default_rng(148)  # an instance on which steps for the logarithms alone go nowhere
    rows, classes = int(random.integers(1, 40)), int(random.integers(2, 7))
    logits = 6 * random.normal(size=(rows, classes)) + random.choice([0.0, 5.0]) * np.linspace(1, 0, classes)
    counts = random.dirichlet(np.full(classes, random.choice([0.3, 1.0, 20.0]))) + 1e-4
    probs = torch.softmax(torch.from_numpy(logits), 1)
    assert assert_solves(probs, torch.from_numpy(counts / counts.sum() * rows)).iterations <= 60


def test_the_same_input_gives_the_same_bits_whatever_the_number_of_threads():
    before = torch.get_num_threads()
    probs, counts = predictions(120_000, 10, lean=3.0), long_tail(120_000, 10, 1)
    wide, wide_counts = predictions(6000, 200, 7.0), long_tail(6000, 200, 5)
    assert len(Chunks(120_000, 10)) > 1
    assert len(Chunks(6000, 200)) > 1
    try:
        torch.set_num_threads(1)
        one, wide_one = solve(probs, counts), solve(wide, wide_counts)
        torch.set_num_threads(3)
        for _ in range(2):
            many, wide_many = solve(probs, counts), solve(wide, wide_counts)
            assert torch.equal(one.refined, many.refined)
            assert torch.equal(one.duals, many.duals)
            assert torch.equal(wide_one.refined, wide_many.refined)
    finally:
        torch.set_num_threads(before)


def test_the_input_is_left_alone_and_may_be_strided_or_need_a_gradient():
    probs = predictions(100, 4, lean=1.0).T.contiguous().T.requires_grad_()
    before = probs.detach().clone()
    solution = assert_solves(probs.detach(), [25.0] * 4)
    assert torch.equal(solve(probs, [25.0] * 4).refined, solution.refined)
    assert torch.equal(probs.detach(), before)
    assert not solution.refined.requires_grad


def test_memory_beyond_input_and_output_is_a_few_chunks():
    probs, counts = predictions(200_000, 10), long_tail(200_000, 10, 10)
    solve(probs[:100], counts / 2000)
    tracemalloc.start()
    solve(probs, counts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < probs.numel() * 4 / 8


@pytest.mark.parametrize("classes", [10, 200])
def test_float32_asked_for_less_than_its_rounding_stops_and_says_so(classes):
    probs, counts = predictions(1000, classes, 5.0), long_tail(1000, classes, 3)
    solution = solve(probs, counts, tol=1e-13)
    assert not solution.converged
    assert solution.residual < 1e-6
    assert solution.iterations < 25
    assert "tol" in solution.reason
    assert "float64" in solution.reason


def test_passes_that_run_out_leave_the_best_table_and_say_so():
    probs, counts = predictions(1000, 10, lean=8.0), long_tail(1000, 10, 100).flip(0)
    solution = solve(probs, counts, max_iter=3)
    assert not solution.converged
    assert solution.iterations <= 4
    assert "max_iter" in solution.reason
    assert residual_of(solution.refined, counts) == pytest.approx(solution.residual)
    assert solution.residual <= residual_of(probs, counts)


def test_a_target_beyond_the_support_of_a_class_is_named():
    probs = predictions(50, 3)
    probs[10:, 2] = 0
    solution = solve(probs / probs.sum(1, keepdim=True), [10.0, 20.0, 20.0])
    assert not solution.converged
    assert "class 2" in solution.reason
    assert "only 10 rows" in solution.reason


def test_without_progress_the_class_that_is_left_is_named(monkeypatch):
    monkeypatch.setattr(newton, "PATIENCE", 0)
    probs, counts = collapsed(300, 10, 1e-12, torch.float64) + 0, long_tail(300, 10, 100).flip(0)
    probs[:100] = predictions(100, 10, 8.0, dtype=torch.float64)
    solution = solve(probs, counts)
    assert not solution.converged
    worst = int(((solution.refined.sum(0) - counts).abs() / counts.clamp_min(1)).argmax())
    assert f"class {worst} has " in solution.reason
    assert f"is to have {counts[worst]:g}" in solution.reason
    assert "zeros" not in solution.reason  # there are no zeros


def test_one_hot_rows_beyond_a_target_are_named():
    probs = torch.cat([torch.eye(3)[:1].repeat(20, 1), predictions(40, 3)])
    solution = solve(probs, [10.0, 20.0, 30.0])
    assert not solution.converged
    assert "class 0" in solution.reason
    assert "20 rows give it probability 1" in solution.reason
    assert torch.equal(solution.refined[:20], probs[:20])


def test_a_table_that_cannot_move_at_all_is_returned_with_the_reason():
    probs = torch.eye(3).repeat(20, 1)
    solution = solve(probs, [10.0, 20.0, 30.0])
    assert not solution.converged
    assert "class 2" in solution.reason
    assert torch.equal(solution.refined, probs)


def test_zeros_that_make_the_target_unreachable_end_without_an_exception():
    probs = torch.tensor([[0.5, 0.5, 0.0, 0.0]] * 10 + [[0.0, 0.0, 0.5, 0.5]] * 10)
    solution = solve(probs, [6.0, 6.0, 4.0, 4.0])
    assert not solution.converged
    assert "zeros" in solution.reason
    assert torch.isfinite(solution.refined).all()


def test_zeros_are_not_blamed_in_a_table_that_has_none():
    probs, counts = predictions(300, 4, dtype=torch.float64), torch.tensor([299.7, 0.1, 0.1, 0.1])
    solution = solve(probs, counts, tol=1e-18)
    assert not solution.converged
    assert "zeros" not in solution.reason
    assert "rounding" in solution.reason


def faulty(value, row=3, column=1):
    probs = predictions(10, 3)
    probs[row, column] = value
    return probs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((faulty(float("nan")), [3, 3, 4]), r"probs\[3\].*not finite"),
        ((faulty(float("inf")), [3, 3, 4]), r"probs\[3\].*not finite"),
        ((faulty(-0.5), [3, 3, 4]), r"probs\[3\].*negative entry -0.5"),
        ((faulty(0.9) * 2, [3, 3, 4]), r"probs\[0\] sums to 2"),
        ((predictions(10, 3), [3, 3, 3]), r"target_counts sum to 9 and probs has 10 rows: multiply"),
        ((predictions(10, 3), [5, 5]), r"target_counts has shape \(2,\) and probs 3 classes"),
        ((predictions(10, 3), [11, -1, 0]), r"target_counts\[1\] is -1"),
        ((predictions(10, 3), [float("nan"), 5, 5]), r"target_counts\[0\] is nan"),
        ((predictions(10, 3).half(), [3, 3, 4]), "float32 or torch.float64"),
        ((predictions(10, 3)[0], [3, 3, 4]), "rows x classes"),
        ((torch.empty(0, 3), [0, 0, 0]), "no rows"),
    ],
)
def test_input_that_makes_no_sense_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        solve(*arguments)


def test_a_negative_entry_is_found_in_a_wide_table_too():
    probs = predictions(10, 200)
    probs[3, 7] = -probs[3, 7]
    probs[3, 8] -= 2 * probs[3, 7]
    with pytest.raises(ValueError, match=r"probs\[3\].*negative"):
        solve(probs, [10 / 200] * 200)


def test_options_that_make_no_sense_are_refused_by_name():
    probs = predictions(10, 3)
    with pytest.raises(ValueError, match="warm_start has shape"):
        solve(probs, [3, 3, 4], warm_start=torch.zeros(4))
    with pytest.raises(ValueError, match="tol 0"):
        solve(probs, [3, 3, 4], tol=0.0)
