"""What benchmarks.scaling counts and predicts."""

import argparse

import pytest
import torch
import torch.distributed as dist

from benchmarks.scaling import PIECE, Counter, predict, table
from darp import solve
from semi.distributed import block


@pytest.fixture
def group_of_one(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.mark.parametrize("classes", [3, 10, 40])
def test_a_pass_communicates_k_squared_and_k_numbers_and_two_scalars_however_many_rows_there_are(
    group_of_one, classes
):
    for rows in (200, 2000):
        probs = torch.softmax(torch.randn(rows, classes, dtype=torch.float64), 1)
        counter = Counter()
        with counter.counting():
            # A start is given, because a cold solve passes over samples of the rows too.
            start = torch.zeros(classes)
            solution = solve(probs, [rows / classes] * classes, warm_start=start, group=group_of_one)
        assert solution.converged
        last = classes + 2  # the pass that writes the table needs no curvature
        passes = (solution.iterations - 1) * (classes**2 + classes + 2) + last
        assert counter.numbers["all_reduce"] == 1 + passes  # and once how many rows there are
        assert counter.calls["all_reduce"] == 1 + solution.iterations


def test_counting_ends_with_its_block(group_of_one):
    real, counter = dist.all_reduce, Counter()
    with counter.counting():
        dist.all_reduce(torch.zeros(7))
    dist.all_reduce(torch.zeros(7))
    assert dist.all_reduce is real
    assert dict(counter.numbers) == {"all_reduce": 7}


def test_the_rows_do_not_depend_on_how_many_processes_draw_them():
    rows = 2 * PIECE + 12_345
    whole = table(rows, 3, slice(0, rows))
    for size in (2, 3):
        assert torch.equal(torch.cat([table(rows, 3, block(rows, r, size)) for r in range(size)]), whole)


def test_the_model_adds_what_a_pass_reads_multiplies_and_sends():
    sheet = argparse.Namespace(bandwidth_tb_s=2.0, tflops=50.0, network_gb_s=25.0, latency_us=10.0, passes=3)
    small = predict(8e6, 10, 4, sheet)
    assert small["reading_s"] == pytest.approx(2e6 * 10 * 4 / 2e12)
    assert small["numbers_a_pass"] == 112
    assert small["reduction_s"] == pytest.approx(2 * 112 * 8 / 25e9 + 2 * 3 * 10e-6)
    assert small["pass_s"] == pytest.approx(
        small["reading_s"] + small["reduction_s"]
    )  # few classes: it is reading
    wide = predict(8e6, 1000, 4, sheet)
    assert wide["pass_s"] == pytest.approx(
        2 * 2e6 * 1e6 / 50e12 + wide["reduction_s"]
    )  # many: it is multiplying
    assert wide["solve_s"] == pytest.approx(3 * wide["pass_s"])
