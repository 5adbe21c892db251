"""What a run of several processes communicates, what a refinement costs, and a model of it for tables of any size.

    python -m benchmarks.scaling [--rows 1000000,10000000] [--classes 10] [--processes 1,2] [--times 5]
    python -m benchmarks.scaling --step [--arch wrn28_2] [--processes 2]
    python -m benchmarks.scaling --predict [--rows 1000000000] [--classes 1000] [--processes 64]

The first measures a cold refinement (noise removal and solve) of a made-up float32 table on a CPU: `alone` without a
group of processes, `1` with a group of one, which takes the passes that several take, then more of them with gloo. What
is communicated is counted where torch is asked for it. The model of the time of P processes is

    T(P) = T(1) / P + reductions x r

with T(1) of the group of one and r the time of one reduction of K^2 + K + 2 numbers, measured by itself. In processor
time it is T(1) / P, which other work on the machine disturbs less. The second
counts a FixMatch step. The third puts a GPU's data sheet into the same model; none was measured.
"""

from __future__ import annotations

import argparse
import resource
import socket
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from benchmarks.record import keep
from darp import remove_noise, solve
from semi.distributed import Ranks, block

COUNTED = ("all_reduce", "broadcast")
PIECE = 100_000  # rows that are drawn together, the same ones for any number of processes
PINGS = 30
ALPHA = 2.0


class Counter:
    """Calls and numbers of each collective operation, as this process asks torch for them."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = defaultdict(int)
        self.numbers: dict[str, int] = defaultdict(int)

    @contextmanager
    def counting(self) -> Iterator[None]:
        real = {name: getattr(dist, name) for name in COUNTED}

        def counted(name: str) -> Any:
            def call(values: Tensor, *given: Any, **named: Any) -> Any:
                self.calls[name] += 1
                self.numbers[name] += values.numel()
                return real[name](values, *given, **named)

            return call

        for name in COUNTED:
            setattr(dist, name, counted(name))
        try:
            yield
        finally:
            for name, function in real.items():
                setattr(dist, name, function)


def table(rows: int, classes: int, mine: slice) -> Tensor:
    """Rows `mine` of a made-up table [rows, classes] that leans to the first classes."""
    parts = []
    for first in range(mine.start // PIECE * PIECE, mine.stop, PIECE):
        generator = torch.Generator().manual_seed(first)
        logits = torch.randn(min(PIECE, rows - first), classes, generator=generator)
        part = torch.softmax(2 * logits + 3 * torch.linspace(1, 0, classes), 1)
        parts.append(part[max(0, mine.start - first) : mine.stop - first])
    return torch.cat(parts)


def refinement(rank: int, size: int, port: int, rows: int, classes: int, times: int, out: str) -> None:
    """One of `size` processes that refine a table, none of them in a group where `port` is 0."""
    torch.set_num_threads(1)
    group = None
    if port:
        meeting = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
        group = dist.group.WORLD
    counts = torch.full((classes,), rows / classes, dtype=torch.float64)
    mine = table(rows, classes, block(rows, rank, size))
    noise, solving = Counter(), Counter()
    with noise.counting():
        cleaned = remove_noise(mine, counts, ALPHA, group=group)
    with solving.counting():
        solution = solve(cleaned, counts, group=group)
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(times):
        began = [time.perf_counter(), time.process_time()]
        cleaned = remove_noise(mine, counts, ALPHA, group=group)
        middle = [time.perf_counter(), time.process_time()]
        solve(cleaned, counts, group=group)
        ended = [time.perf_counter(), time.process_time()]
        seconds["noise_s"].append(middle[0] - began[0])
        seconds["solve_s"].append(ended[0] - middle[0])
        seconds["solve_processor_s"].append(ended[1] - middle[1])
    reduction = [0.0]
    if group is not None:
        packed = torch.zeros(classes * classes + classes + 2, dtype=torch.float64)
        for _ in range(PINGS):
            began_ping = time.perf_counter()
            dist.all_reduce(packed, group=group)
            reduction.append(time.perf_counter() - began_ping)
    if rank == 0:
        torch.save(
            {
                "passes": solution.iterations,
                "residual": solution.residual,
                "solve_reductions": solving.calls["all_reduce"],
                "solve_numbers": solving.numbers["all_reduce"],
                "solve_broadcasts": solving.calls["broadcast"],
                "solve_broadcast_numbers": solving.numbers["broadcast"],
                "noise_reductions": noise.calls["all_reduce"],
                "noise_numbers": noise.numbers["all_reduce"],
                "reduction_s": statistics.median(reduction),
                "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
                **{name: statistics.median(found) for name, found in seconds.items()},
                "solve_s_range": [min(seconds["solve_s"]), max(seconds["solve_s"])],
            },
            out,
        )
    if group is not None:
        dist.barrier()
        del group
        dist.destroy_process_group()


def started(work: Any, size: int, in_group: bool, *given: Any) -> dict[str, Any]:
    """What the first of `size` processes that do `work` found."""
    port = 0
    if in_group:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    with TemporaryDirectory() as folder:
        out = str(Path(folder) / "found")
        spawn(work, (size, port, *given, out), nprocs=size)
        found: dict[str, Any] = torch.load(out, weights_only=True)
    return found


def measure(rows: int, classes: int, processes: list[int], times: int) -> list[dict[str, Any]]:
    """A refinement alone, by a group of one, and by more; with the model's prediction for each group."""
    figures: list[dict[str, Any]] = []
    for size in [0, *sorted({1, *processes})]:
        found = started(refinement, max(1, size), size > 0, rows, classes, times)
        figures.append({"rows": rows, "classes": classes, "processes": size or "alone", **found})
    (one,) = (figure for figure in figures if figure["processes"] == 1)
    for figure in figures:
        if figure["processes"] != "alone":
            alone_s = one["solve_s"] - one["solve_reductions"] * one["reduction_s"]
            share = alone_s / figure["processes"]
            figure["model_s"] = share + figure["solve_reductions"] * figure["reduction_s"]
            figure["model_processor_s"] = one["solve_processor_s"] / figure["processes"]
    return figures


def step(rank: int, size: int, port: int, arch: str, out: str) -> None:
    """One of `size` processes that count what a FixMatch step communicates."""
    from semi.config import Config
    from semi.device import Stopwatch
    from semi.job import build_job
    from semi.loop import train_step

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    ranks = Ranks(torch.device("cpu"), rank, size, rank, dist.group.WORLD)
    config = Config(dataset="digits", semi_method="fix", arch=arch, num_max=20, ratio=2.0, imb_ratio_l=1,
                    imb_ratio_u=1, batch_size=4 * size)  # fmt: skip
    job = build_job(config, ranks.device, ranks=ranks)
    learner = ranks.replicated(job.learner)
    gradients = [0, 0]

    def counted(bucket: Any) -> torch.futures.Future[Tensor]:
        gradients[0] += 1
        gradients[1] += bucket.buffer().numel()
        work = dist.all_reduce(bucket.buffer().div_(size), group=ranks.group, async_op=True)
        future: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
        return future

    # A lambda, because torch compares annotations, which are text here.
    learner.register_comm_hook(None, lambda _, bucket: counted(bucket))  # type: ignore[operator]
    job.learner = learner
    watch, counter = Stopwatch(ranks.device), Counter()
    train_step(job, 0, 0, watch)  # DDP arranges its buckets in the first step
    gradients[:] = [0, 0]
    with counter.counting():
        train_step(job, 0, 1, watch)
        ranks.largest(0)  # whether one of them is to save
    if rank == 0:
        torch.save(
            {
                "parameters": sum(p.numel() for p in job.model.parameters() if p.requires_grad),
                "gradient_reductions": gradients[0],
                "gradient_numbers": gradients[1],
                "other_reductions": counter.calls["all_reduce"] - gradients[0],
                "other_numbers": counter.numbers["all_reduce"] - gradients[1],
                "statistics": sum(buffer.numel() for buffer in job.statistics),
            },
            out,
        )
    dist.barrier()
    ranks.leave()


def predict(rows: float, classes: float, processes: int, given: argparse.Namespace) -> dict[str, Any]:
    """The model with a GPU's data sheet in place of measured times."""
    share = rows / processes
    numbers = classes**2 + classes + 2
    reading_s = share * classes * 4 / (given.bandwidth_tb_s * 1e12)
    # X^T diag(h) X, in float64 as the passes of a GPU compute it: a multiplication and an addition for each entry.
    product_s = 2 * share * classes**2 / (given.tflops * 1e12)
    # A ring: each process sends and receives the numbers twice, in 2 (P - 1) steps.
    reduction_s = 2 * numbers * 8 / (given.network_gb_s * 1e9) + 2 * (processes - 1) * given.latency_us * 1e-6
    pass_s = max(reading_s, product_s) + reduction_s
    return {
        "rows": rows,
        "classes": classes,
        "processes": processes,
        "table_gb_each": share * classes * 4 / 1e9,
        "numbers_a_pass": numbers,
        "megabytes_a_pass": numbers * 8 / 1e6,
        "reading_s": reading_s,
        "product_s": product_s,
        "reduction_s": reduction_s,
        "pass_s": pass_s,
        "communication_share": reduction_s / pass_s,
        "solve_s": given.passes * pass_s,
        "gather_s": rows * classes * 4 / (given.network_gb_s * 1e9),
    }


def shown(figures: list[dict[str, Any]]) -> None:
    """Each figure's names and values on a line each."""
    for figure in figures:
        print("  ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                        for name, value in figure.items()))  # fmt: skip


def numbers(text: str) -> list[int]:
    return [int(float(word)) for word in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--step", action="store_true", help="count what a FixMatch step communicates")
    parser.add_argument("--predict", action="store_true", help="the model with a GPU's data sheet")
    parser.add_argument("--rows", type=numbers, default=[1_000_000, 10_000_000])
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--processes", type=numbers, default=[1, 2])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--arch", default="wrn28_2")
    parser.add_argument("--passes", type=int, default=10, help="--predict: over the table, in a cold solve")
    parser.add_argument(
        "--bandwidth_tb_s", type=float, default=3.35, help="of a GPU's memory; H100 SXM's data sheet"
    )
    parser.add_argument(
        "--tflops", type=float, default=67.0, help="float64 on tensor cores; H100 SXM's data sheet"
    )
    parser.add_argument("--network_gb_s", type=float, default=50.0, help="a GPU; one 400 Gbit/s port each")
    parser.add_argument("--latency_us", type=float, default=5.0, help="of a message between two hosts")
    given = parser.parse_args()
    if given.predict:
        shown([predict(rows, given.classes, size, given) for rows in given.rows for size in given.processes])
        return
    if given.step:
        figures = [
            {"arch": given.arch, "processes": size, **started(step, size, True, given.arch)}
            for size in given.processes
        ]
        shown(figures)
        return
    figures = [f for rows in given.rows for f in measure(rows, given.classes, given.processes, given.times)]
    shown(figures)
    keep("scaling", figures)


if __name__ == "__main__":
    main()
