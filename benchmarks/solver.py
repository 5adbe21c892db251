"""A full refresh (noise removal, then the solve) against the published scheme, and against the memory's speed.

    python -m benchmarks.solver [--quick]

Ours and the reference take turns in one run, at each turn once after a pause and then twice more in a row. Times are
medians of the latter, in milliseconds; "rested" are the ratios of the first ones: in training a refresh follows ten
steps of the network, which leave other data in the caches and the threads asleep. Warm: 640 rows have changed since
the last solve (new guesses for the images of ten batches of 64) and the solve starts from its duals; the reference
always starts afresh, as published. Passes are readings of the table; for the reference, K steps of its root searches
count as one. Residual: max over classes of |column sum - target| / max(1, target). The roofline is the time that a
refresh would take if it only moved its bytes (each pass reads the table, the last one also writes the result) at the
bandwidth that a copy of a large array reaches here, or, if that is longer, only computed its exponentials in float32
at the speed of a loop of them. About 10 minutes on 2 cores; with --quick the small cases only, in a minute.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.record import keep
from darp import Solution, remove_noise, solve, solve_reference
from darp.engine.exp_log import CONTRACT, exp_, njit

ALPHA = 2.0
CHANGED_ROWS = 640
PAUSE_S = 0.02
IN_A_ROW = 3
SURE_MARGIN = 13.0


@dataclass(frozen=True)
class Case:
    """One table: labels with `imbalance_true`, predictions that lean to the first classes by `bias` logits.

    `sure` is the share of rows with a margin of SURE_MARGIN logits, which puts them above 0.999, as late in FixMatch.
    """

    name: str
    rows: int
    classes: int
    imbalance_true: float
    imbalance_target: float
    bias: float
    repeats: int
    reference_repeats: int
    quick: bool
    sure: float = 0.0


CASES = (
    Case("imbalance 150", 10_000, 10, 150, 150, 2.0, 15, 7, True),
    Case("balanced", 30_000, 10, 1, 1, 0.0, 15, 7, True),
    Case("skewed", 50_000, 10, 1, 1, 6.0, 15, 5, True),
    Case("imbalance 100", 100_000, 10, 100, 100, 2.0, 9, 3, False),
    Case("imbalance 10", 10_000, 100, 10, 10, 2.0, 9, 5, True),
    Case("imbalance 100", 1_000_000, 10, 100, 100, 2.0, 5, 1, False),
    Case("imbalance 10", 10_000, 1000, 10, 10, 2.0, 5, 2, False),
    Case("imbalance 10", 100_000, 1000, 10, 10, 2.0, 2, 1, False),
    Case("saturated 20 to 1", 10_000, 10, 20, 1, 0.0, 15, 7, True, sure=0.92),
    Case("saturated 100 to 1", 50_000, 10, 100, 1, 0.0, 15, 5, True, sure=0.92),
    Case("saturated 100", 50_000, 10, 100, 100, 0.0, 15, 5, True, sure=0.92),
    Case("saturated 1 to 100", 50_000, 10, 1, 100, 0.0, 15, 5, True, sure=0.92),
)


def long_tail(rows: int, classes: int, imbalance: float) -> Tensor:
    """Counts [K] that sum to `rows`, the first `imbalance` times the last."""
    share = imbalance ** -torch.linspace(0, 1, classes, dtype=torch.float64)
    return share / share.sum() * rows


def predictions(case: Case, seed: int) -> Tensor:
    """Softmax [N, K] float32 of normal logits with a margin for the true class and a lean to the first ones.

    The seed is that of the logits; the true classes are the same for all seeds.
    """
    share = long_tail(1, case.classes, case.imbalance_true)
    generator = torch.Generator().manual_seed(0)
    labels = torch.multinomial(share, case.rows, replacement=True, generator=generator)
    logits = torch.randn(case.rows, case.classes, generator=torch.Generator().manual_seed(1 + seed))
    sure = torch.rand(case.rows, generator=generator) < case.sure
    logits[torch.arange(case.rows), labels] += torch.where(sure, SURE_MARGIN, 2.0 + math.log(case.classes))
    logits += case.bias * torch.linspace(1, 0, case.classes)
    return torch.softmax(logits, 1)


def remove_noise_by_sorting(probs: Tensor, counts: Tensor, alpha: float) -> Tensor:
    """Noise removal as published: a loop over the classes, each column sorted."""
    kept = torch.zeros_like(probs)
    for k in range(probs.shape[1]):
        order = torch.sort(probs[:, k], descending=True).indices[: int(alpha * float(counts[k]))]
        values = probs[order, k]
        kept[order, k] = values * ((counts[k] + 1e-6) / (values.sum() + 1e-6)).float()
    kept += 1e-6
    return kept / kept.sum(1, keepdim=True)


@dataclass
class Times:
    """Milliseconds of one contender: first calls after a pause, and calls right after one of its own."""

    rested: list[float]
    in_a_row: list[float]

    def take_turn(self, work: Callable[[], Solution]) -> Solution:
        """A pause, in which the threads of earlier work come to rest, and IN_A_ROW calls."""
        time.sleep(PAUSE_S)
        for i in range(IN_A_ROW):
            start = time.perf_counter()
            solution = work()
            took = (time.perf_counter() - start) * 1e3
            (self.in_a_row if i else self.rested).append(took)
        return solution

    def ratios(self, other: Times) -> str:
        """How many times longer than `other`, in a row and rested."""
        row = statistics.median(self.in_a_row) / statistics.median(other.in_a_row)
        rested = statistics.median(self.rested) / statistics.median(other.rested)
        return f"{row:>6.1f}x {rested:>6.1f}x"


def copy_bandwidth() -> float:
    """Bytes per second that a copy of 256 MB moves, reading and writing counted."""
    source = torch.ones(64_000_000)
    target = torch.empty_like(source)
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        target.copy_(source)
        best = min(best, time.perf_counter() - start)
    return 2 * source.numel() * 4 / best


@njit(**CONTRACT)
def exp_rate_loop(values: Any, repeats: int) -> float:
    """Sum of exp over `values` (none above 0), `repeats` times."""
    total = np.zeros_like(values)
    for i in range(repeats):
        shift = values.dtype.type(-1e-9 * i)
        for j in range(values.size):
            total[j] += exp_(values[j] + shift)
    return total.sum()


def exp_rate() -> float:
    """Exponentials per second of the solver's own routine on all threads, its argument in the first-level cache."""
    threads, repeats = torch.get_num_threads(), 20_000
    values = [np.linspace(-20, 0, 1024, dtype=np.float32) for _ in range(threads)]
    exp_rate_loop(values[0], 1)
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        list(pool.map(lambda v: exp_rate_loop(v, repeats), values))
        return threads * 1024 * repeats / (time.perf_counter() - start)


def run_case(case: Case, bandwidth: float, exponentials: float) -> dict[str, object]:
    """One line of the table, printed, and its figures."""
    counts = long_tail(case.rows, case.classes, case.imbalance_target)
    before = predictions(case, seed=0)
    after = before.clone()
    changed = torch.randperm(case.rows, generator=torch.Generator().manual_seed(0))[:CHANGED_ROWS]
    after[changed] = predictions(case, seed=1)[changed]

    def refresh(warm_start: Tensor | None) -> Solution:
        return solve(remove_noise(after, counts, ALPHA), counts, warm_start=warm_start)

    def published() -> Solution:
        return solve_reference(remove_noise_by_sorting(after, counts, ALPHA), counts)

    duals = solve(remove_noise(before, counts, ALPHA), counts).duals
    refresh(duals)
    cold_times, warm_times, reference_times = (Times([], []) for _ in range(3))
    for turn in range(case.repeats):
        cold = cold_times.take_turn(lambda: refresh(None))
        warm = warm_times.take_turn(lambda: refresh(duals))
        if turn < case.reference_repeats:
            reference = reference_times.take_turn(published)
    cold_time, warm_time, reference_time = (
        statistics.median(t.in_a_row) for t in (cold_times, warm_times, reference_times)
    )
    entries = case.rows * case.classes
    bytes_moved = (
        4 * entries * (cold.iterations + cold.products + 1 + 4)
    )  # 3 readings and a writing remove noise
    roofline = 1e3 * max(bytes_moved / bandwidth, entries * cold.iterations / exponentials)
    print(
        f"{case.rows:>9,} x {case.classes:<4} {case.name:<18}"
        f" {reference_time:>9.1f} {reference.iterations:>4} {reference.residual:>8.0e}"
        f" {cold_time:>8.2f} {cold.iterations:>3}+{cold.products:<3} {cold.residual:>7.0e}"
        f" {reference_times.ratios(cold_times)}"
        f" {warm_time:>8.2f} {warm.iterations:>3}+{warm.products:<3} {warm.residual:>7.0e}"
        f" {reference_times.ratios(warm_times)}"
        f" {100 * roofline / cold_time:>4.0f}%  {case.repeats}/{case.reference_repeats}",
        flush=True,
    )
    figures: dict[str, object] = {
        "case": case.name,
        "rows": case.rows,
        "classes": case.classes,
        "roofline_ms": roofline,
    }
    for name, solution, times in (
        ("published", reference, reference_times),
        ("cold", cold, cold_times),
        ("warm", warm, warm_times),
    ):
        figures |= {f"{name}_ms": times.in_a_row, f"{name}_rested_ms": times.rested}
        figures |= {f"{name}_passes": solution.iterations, f"{name}_residual": solution.residual}
    return figures


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small cases only")
    quick = parser.parse_args().quick
    solve(torch.full((64, 3), 1 / 3), [10, 20, 34])  # loads or builds the machine code
    bandwidth, exponentials = copy_bandwidth(), exp_rate()
    print(
        f"{torch.get_num_threads()} threads, copy {bandwidth / 1e9:.1f} GB/s, {exponentials / 1e9:.2f} G exp/s"
    )
    print(
        "times in ms; passes + products of conjugate gradients; repeats of ours/of the reference (slow ones fewer)"
    )
    print(
        f"{'N x K':>16} {'':<18} {'reference':>9} {'pass':>4} {'residual':>8}"
        f" {'cold':>8} {'passes':>7} {'resid.':>7} {'':>7} {'rested':>7}"
        f" {'warm':>8} {'passes':>7} {'resid.':>7} {'':>7} {'rested':>7} {'roof':>5}"
    )
    figures = [run_case(case, bandwidth, exponentials) for case in CASES if case.quick or not quick]
    print(f"kept in {keep('solver', figures)}")


if __name__ == "__main__":
    main()
