"""Several gloo processes that hold the rows between them find what one process finds on all of them."""

import multiprocessing
import os
import pickle
import sys
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist

from darp import remove_noise, solve
from darp.noise import _on_device

# Each process is forked from one that imports torch once.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["darp", "torch.distributed"])


def work(rank, size, folder):
    """One process's part: solve the problems on its rows."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    group = dist.group.WORLD
    results: list[Any] = []
    different = []
    for name, probs, counts, cuts in pickle.loads((folder / "problems").read_bytes()):
        mine = probs[cuts[rank] : cuts[rank + 1]]
        try:
            cleaned = remove_noise(mine, counts, 2.0, group=group)
            on_device = _on_device(mine, counts.double(), torch.floor(2 * counts.double()), group)
            if not torch.allclose(on_device, cleaned, rtol=1e-5):
                different.append(name)
            plain = solve(mine, counts, group=group)
            after = solve(cleaned, counts, warm_start=plain.duals, group=group)
            results.append((cleaned, plain, after))
        except ValueError as error:
            results.append(str(error))
    (folder / str(rank)).write_bytes(pickle.dumps(results))
    dist.barrier()
    del group  # or its threads would live on into the end of the process, which then now and then aborts
    dist.destroy_process_group()
    if different:  # only now: the others would wait for a process that has ended
        sys.exit(f"removal of noise in the form for GPUs, run on a CPU, differs: {different}")


def predictions(rows, classes, lean, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    return torch.softmax(logits + lean * torch.linspace(1, 0, classes, dtype=torch.float64), 1)


def target(rows, classes, imbalance):
    share = imbalance ** -torch.linspace(0, 1, classes, dtype=torch.float64)
    return share / share.sum() * rows


def problems():
    """Name, table, counts, and where the rows of each of three processes begin and end."""
    ties = (predictions(600, 5, 1.0) * 4).round() / 4 + 0.01
    return [
        ("uneven", predictions(1000, 10, 4.0), target(1000, 10, 3), [0, 100, 150, 1000]),
        ("one without rows", predictions(300, 4, 1.0), target(300, 4, 1), [0, 0, 300, 300]),
        ("ties", ties / ties.sum(1, keepdim=True), target(600, 5, 10), [0, 201, 407, 600]),
        ("sampled first", predictions(33_000, 6, 5.0), target(33_000, 6, 1), [0, 10_001, 21_003, 33_000]),
        ("many classes", predictions(400, 140, 1.0), target(400, 140, 2), [0, 130, 270, 400]),
        ("float32", predictions(3000, 10, 4.0).float(), target(3000, 10, 1), [0, 900, 2100, 3000]),
        (
            "infeasible",
            torch.eye(3, dtype=torch.float64).repeat(10, 1),
            torch.tensor([5.0, 10, 15]),
            [0, 9, 21, 30],
        ),
        (
            "faulty",
            torch.full((30, 3), 0.5, dtype=torch.float64),
            torch.tensor([10.0, 10, 10]),
            [0, 9, 21, 30],
        ),
    ]


def bounds(cuts, rows, size):
    return cuts if size == 3 else [0, cuts[1], rows]


def run(size, folder):
    prepared = [
        (name, probs, counts, bounds(cuts, len(probs), size)) for name, probs, counts, cuts in problems()
    ]
    (folder / "problems").write_bytes(pickle.dumps(prepared))
    workers = [PROCESSES.Process(target=work, args=(rank, size, folder)) for rank in range(size)]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join(timeout=120)
        assert [worker.exitcode for worker in workers] == [0] * size
    finally:
        for worker in workers:
            worker.kill()
    parts = [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(size)]
    return {prepared[i][0]: (prepared[i], [part[i] for part in parts]) for i in range(len(prepared))}


@pytest.fixture(scope="module", params=[2, 3])
def outcome(request, tmp_path_factory):
    """What the processes found. Test processes that run side by side share it: the first one to ask starts them."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / f"processes-{request.param}"
    result = folder / "outcome"
    try:
        folder.mkdir()
    except FileExistsError:
        deadline = time.monotonic() + 150
        while not result.exists():
            assert time.monotonic() < deadline, "the test process that started them has not finished"
            time.sleep(0.2)
        return pickle.loads(result.read_bytes())
    found = run(request.param, folder)
    (folder / "unfinished").write_bytes(pickle.dumps(found))
    (folder / "unfinished").rename(result)
    return found


SOLVABLE = ["uneven", "one without rows", "ties", "sampled first", "many classes"]


@pytest.mark.parametrize("name", SOLVABLE)
def test_noise_removal_equals_that_of_one_process(outcome, name):
    (_, probs, counts, _), parts = outcome[name]
    together = torch.cat([cleaned for cleaned, _, _ in parts])
    assert (together - remove_noise(probs, counts, 2.0)).abs().max() <= 1e-12


@pytest.mark.parametrize("name", SOLVABLE)
def test_solutions_equal_those_of_one_process(outcome, name):
    (_, probs, counts, _), parts = outcome[name]
    plain = solve(probs, counts)
    after = solve(remove_noise(probs, counts, 2.0), counts, warm_start=plain.duals)
    for alone, several in ((plain, [p for _, p, _ in parts]), (after, [a for _, _, a in parts])):
        assert alone.converged
        together = torch.cat([solution.refined for solution in several])
        limit = (
            1e-9 if name != "many classes" else 2e-6
        )  # one process takes inexact steps there, several exact ones
        assert (together - alone.refined).abs().max() <= limit
        assert all(solution.converged for solution in several)
        assert several[0].residual <= 1e-6
        if name != "many classes":
            assert {solution.iterations for solution in several} == {alone.iterations}


def test_all_processes_report_the_same_duals_and_residual(outcome):
    for name in [*SOLVABLE, "float32"]:
        _, parts = outcome[name]
        for solutions in zip(*[part[1:] for part in parts], strict=True):
            assert all(torch.equal(solution.duals, solutions[0].duals) for solution in solutions)
            assert len({solution.residual for solution in solutions}) == 1


def test_float32_tables_agree_to_their_rounding(outcome):
    (_, probs, counts, _), parts = outcome["float32"]
    alone = solve(probs, counts)
    assert (torch.cat([p.refined for _, p, _ in parts]) - alone.refined).abs().max() <= 1e-6


def test_a_target_out_of_reach_is_told_by_all(outcome):
    _, parts = outcome["infeasible"]
    assert all(not plain.converged and "class 2" in plain.reason for _, plain, _ in parts)


def test_a_faulty_row_is_refused_by_all(outcome):
    _, parts = outcome["faulty"]
    assert all(isinstance(part, str) and "sums to 1.5" in part for part in parts)
