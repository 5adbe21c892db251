"""What each tuned constant of the solver is worth: the same instances at half its value, as it is, and at twice.

    python -m benchmarks.constants [--quick] [NAME ...]

Without names all constants are tried, about 10 minutes; --quick leaves out the large instances and most of
the random ones. The instances are fixed: a balanced table, imbalance 100, a skewed and a collapsed one, a saturated
one (90 % of the rows above 0.999, as late in FixMatch), 100 and 1,000 classes, and some hundred small random ones, of
float32 and float64, with and without noise removal, many with targets near 0. Each is refreshed cold (no warm start)
and warm (3 % of its rows have changed since the last solve).

Readings are passes over the table and products of conjugate gradients, in percent of those as it is, over the fixed
instances cold and warm and over the random ones; "most" is the fixed instance whose readings change most. They are the
same in every run. Time is the ratio of processor time over the fixed instances, the two variants in turn, the least of
REPEATS runs of each; a tenth is noise, and what threads gain is not in it. "lost" is the number of refreshes that do
not converge, minus that number as it is. A line that says "the same" had the same readings everywhere.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import math
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

import darp.engine
from benchmarks.solver import long_tail
from darp import Solution, remove_noise, solve

REPEATS = 2
FUZZ, FUZZ_QUICK = 300, 60
HALF_AND_TWICE = (0.5, 2.0)

# In a compiled module the value is part of the machine code: a variant is compiled from a changed copy of its source.
CONSTANTS: dict[str, tuple[str, ...]] = {
    "darp.solver": (
        "COARSE_STRIDE", "COARSE_ROWS", "COARSE_SHARE", "COARSE_TOL", "COARSE_PASSES", "ASTRAY",
        "ROUGH_TOL", "ROUGH_PASSES",
    ),
    "darp.engine.newton": (
        "GROWTH", "FIRST_EXPONENT", "PATIENCE", "PATIENCE_NEAR", "NEAR", "LAST_STEP", "FIRST_DAMPING",
        "FAIL_DAMPING", "SUCCEED_DAMPING", "AS_PROMISED", "LEAST_DAMPING", "ROUGH_EXPONENT", "CG_TOL", "FALL",
        "PASSING", "TRUST",
    ),
    "darp.engine.curvature": ("REACH",),
    "darp.engine.cpu": ("CHUNK_ELEMENTS", "MAX_CHUNKS", "WIDE_CLASSES"),
    "darp.engine.passes": ("tile_rows",),
    "darp.engine.passes_wide": ("FLUSH", "NEGLIGIBLE"),
    "darp.engine.select": ("BLOCK_ROWS",),
    "darp.noise": ("MOST_CANDIDATES", "PADDING"),
}  # fmt: skip
COMPILED = ("darp.engine.passes_wide", "darp.engine.select")


@dataclass(frozen=True)
class Instance:
    """A table before and after 3 % of its rows changed, and its target."""

    name: str
    before: Tensor
    after: Tensor
    counts: Tensor
    noise: bool

    def refresh(self, table: Tensor, warm_start: Tensor | None) -> Solution:
        return solve(
            remove_noise(table, self.counts, 2.0) if self.noise else table, self.counts, warm_start=warm_start
        )


def softmax_table(
    rows: int, classes: int, margin: float, lean: float, seed: int, spread: float = 1.0
) -> Tensor:
    """Softmax of normal logits with a margin for a random true class and a lean to the first classes, float64."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(rows), torch.randint(classes, (rows,), generator=generator)] += margin
    return torch.softmax(logits + lean * torch.linspace(1, 0, classes, dtype=torch.float64), 1)


def collapsed(rows: int, classes: int, seed: int) -> Tensor:
    """Nearly all of every row on class 0."""
    generator = torch.Generator().manual_seed(seed)
    probs = 1e-6 * torch.rand(rows, classes, generator=generator, dtype=torch.float64)
    probs[:, 0] = 1 - probs[:, 1:].sum(1)
    return probs


def saturated(rows: int, classes: int, seed: int) -> Tensor:
    """90 % of the rows above 0.999, most of them for the first classes."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(long_tail(1, classes, 20), rows, replacement=True, generator=generator)
    sure = torch.rand(rows, generator=generator) < 0.92
    logits[torch.arange(rows), labels] += torch.where(sure, 13.0, 3.0).double()
    return torch.softmax(logits, 1)


def changed(
    name: str, make: Callable[[int], Tensor], counts: Tensor, dtype: torch.dtype, noise: bool
) -> Instance:
    before, other = make(0).to(dtype), make(1).to(dtype)
    after = before.clone()
    rows = torch.randperm(len(before), generator=torch.Generator().manual_seed(2))[
        : max(1, len(before) // 32)
    ]
    after[rows] = other[rows]
    return Instance(name, before, after, counts, noise)


def fixed_instances(quick: bool) -> list[Instance]:
    single = torch.float32

    def table(rows: int, classes: int, lean: float) -> Callable[[int], Tensor]:
        return lambda seed: softmax_table(rows, classes, 2 + math.log(classes), lean, seed)

    found = [
        changed("balanced", table(10_000, 10, 0.0), long_tail(10_000, 10, 1), single, True),
        changed("imbalance 100", table(10_000, 10, 2.0), long_tail(10_000, 10, 100), single, True),
        changed("collapsed", lambda s: collapsed(10_000, 10, s), long_tail(10_000, 10, 1), single, False),
        changed("saturated", lambda s: saturated(10_000, 10, s), long_tail(10_000, 10, 1), single, False),
        changed("saturated 100", lambda s: saturated(10_000, 10, s), long_tail(10_000, 10, 100), single, True),
        changed("100 classes", table(3000, 100, 2.0), long_tail(3000, 100, 10), single, True),
    ]  # fmt: skip
    if not quick:
        found += [
            changed("skewed", table(50_000, 10, 6.0), long_tail(50_000, 10, 1), single, True),
            changed("300 classes", table(3000, 300, 2.0), long_tail(3000, 300, 1), single, True),
            changed("1,000 classes", table(3000, 1000, 2.0), long_tail(3000, 1000, 10), single, True),
        ]
    return found


def random_instance(seed: int) -> Instance:
    """A small table of any sharpness and lean, a target of any skew, some of its counts next to nothing."""
    random = np.random.default_rng(seed)
    rows, classes = int(random.integers(2, 400)), int(random.choice([2, 3, 5, 10, 20, 40, 150]))
    spread, lean = float(random.choice([0.1, 1.0, 3.0, 6.0])), float(random.choice([0.0, 2.0, 6.0]))
    margin, noise = float(random.choice([0.0, 3.0, 10.0])), bool(random.random() < 0.5)
    share = random.dirichlet(np.full(classes, random.choice([0.3, 1.0, 20.0]))) + random.choice([1e-9, 1e-4])
    counts = torch.from_numpy(share / share.sum() * rows)
    dtype = torch.float32 if random.random() < 0.5 else torch.float64
    first = int(random.integers(2**31))
    made = changed(
        "random",
        lambda s: softmax_table(rows, classes, margin, lean, first + s, spread),
        counts,
        dtype,
        noise,
    )
    if noise:
        return made
    floor = 1e-12  # a class whose entries underflow to 0 could not be reached
    before, after = (((t + floor) / (t + floor).sum(1, keepdim=True)) for t in (made.before, made.after))
    return Instance("random", before, after, counts, noise)


@dataclass
class Outcome:
    """Of one instance: readings cold and warm, refreshes that did not converge, the processor time of both."""

    cold: int
    warm: int
    lost: int
    seconds: float


def outcome(instance: Instance, duals: Tensor) -> Outcome:
    start = time.process_time()
    cold = instance.refresh(instance.after, None)
    warm = instance.refresh(instance.after, duals)
    seconds = time.process_time() - start
    lost = (not cold.converged) + (not warm.converged)
    return Outcome(cold.iterations + cold.products, warm.iterations + warm.products, lost, seconds)


@contextmanager
def changed_to(module_name: str, name: str, value: Any, variant: ModuleType | None) -> Iterator[None]:
    """The constant set to `value`; `variant` stands in for a module whose machine code holds it."""
    module = importlib.import_module(module_name)
    if variant is not None:
        last = module_name.rsplit(".", 1)[1]
        setattr(darp.engine, last, variant)
        try:
            yield
        finally:
            setattr(darp.engine, last, module)
        return
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def compiled_variant(module_name: str, name: str, value: Any, folder: Path) -> ModuleType:
    """A copy of a compiled module, with another value in its source."""
    original = importlib.import_module(module_name)
    source = Path(str(original.__file__)).read_text()
    source, times = re.subn(rf"^{name} = [^ \n]+", f"{name} = {value!r}", source, flags=re.MULTILINE)
    assert times == 1, f"{module_name} does not define {name} once"
    path = folder / f"{name.lower()}_{str(value).replace('.', '_').replace('-', '_')}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    variant = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(variant)
    return variant


def percent(now: int, before: int) -> str:
    return f"{100 * (now / max(before, 1) - 1):+.0f} %"


class Trial:
    """All instances as it is, once; and against a variant."""

    def __init__(self, quick: bool) -> None:
        self.instances = fixed_instances(quick)
        self.num_fixed = len(self.instances)
        self.instances += [random_instance(seed) for seed in range(FUZZ_QUICK if quick else FUZZ)]
        self.duals = [i.refresh(i.before, None).duals for i in self.instances]
        self.base = [outcome(i, d) for i, d in zip(self.instances, self.duals, strict=True)]

    def compare(self, variant: Callable[[], AbstractContextManager[None]]) -> str:
        """The columns of a variant. The fixed instances are timed in turn with the solver as it is."""
        found: list[Outcome] = []
        base_s = other_s = 0.0
        for i, (instance, duals) in enumerate(zip(self.instances, self.duals, strict=True)):
            fixed, as_is_s, changed_s = i < self.num_fixed, [], []
            for _ in range(REPEATS if fixed else 1):
                if fixed:
                    as_is_s.append(outcome(instance, duals).seconds)
                with variant():
                    result = outcome(instance, duals)
                changed_s.append(result.seconds)
            found.append(result)
            if fixed:
                base_s, other_s = base_s + min(as_is_s), other_s + min(changed_s)
        return self._line(self.base, found, other_s / base_s)

    def _line(self, base: list[Outcome], other: list[Outcome], seconds: float) -> str:
        fixed, fuzz = slice(self.num_fixed), slice(self.num_fixed, None)
        lost = sum(o.lost for o in other) - sum(o.lost for o in base)
        if [(o.cold, o.warm) for o in base] == [(o.cold, o.warm) for o in other]:
            return f"the same | | | | {seconds:.2f} | {lost:+d}"

        def all_of(outcomes: list[Outcome], part: slice, *, cold: bool = True, warm: bool = True) -> int:
            return sum(cold * o.cold + warm * o.warm for o in outcomes[part])

        def both_of(o: Outcome) -> int:
            return o.cold + o.warm

        most = max(range(self.num_fixed), key=lambda i: abs(both_of(other[i]) / both_of(base[i]) - 1))
        columns = [
            percent(all_of(other, fixed, warm=False), all_of(base, fixed, warm=False)),
            percent(all_of(other, fixed, cold=False), all_of(base, fixed, cold=False)),
            percent(all_of(other, fuzz), all_of(base, fuzz)),
            f"{self.instances[most].name} {percent(both_of(other[most]), both_of(base[most]))}",
            f"{seconds:.2f}",
            f"{lost:+d}",
        ]
        return " | ".join(columns)

    def totals(self) -> str:
        """Readings and refreshes that do not converge, as it is."""
        split = zip(self.instances[: self.num_fixed], self.base[: self.num_fixed], strict=True)
        fixed = ", ".join(f"{i.name} {o.cold}/{o.warm}" for i, o in split)
        fuzz = self.base[self.num_fixed :]
        both = f"{sum(o.cold for o in fuzz)}/{sum(o.warm for o in fuzz)}"
        lost = sum(o.lost for o in self.base)
        return f"Readings cold/warm as it is: {fixed}, all {len(fuzz)} random ones {both}; lost {lost}."


def scaled(value: Any, factor: float) -> Any:
    """`value` times the factor, whole where it is whole; of a rule, what it gives times the factor."""
    if callable(value):
        return lambda classes: scaled(value(classes), factor)
    return max(1, round(value * factor)) if isinstance(value, int) else value * factor


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small instances, and fewer random ones")
    parser.add_argument("names", nargs="*", metavar="NAME", help="constants to try; all by default")
    flags = parser.parse_args()
    chosen = [(m, n) for m, names in CONSTANTS.items() for n in names if n in flags.names or not flags.names]
    unknown = set(flags.names) - {n for _, n in chosen}
    if unknown:
        parser.error(
            f"{', '.join(sorted(unknown))}: no such constant; there are {[n for v in CONSTANTS.values() for n in v]}"
        )
    trial = Trial(flags.quick)
    print(trial.totals() + "\n")
    print("| constant | value | | cold | warm | random | most | time | lost |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for module_name, name in chosen:
            value = getattr(importlib.import_module(module_name), name)
            for factor in HALF_AND_TWICE:
                new = scaled(value, factor)
                copy = (
                    compiled_variant(module_name, name, new, Path(folder))
                    if module_name in COMPILED
                    else None
                )
                line = trial.compare(partial(changed_to, module_name, name, new, copy))
                shown = ["a rule", f"{factor:g} x"] if callable(value) else [f"{value:g}", f"{new:g}"]
                label = f"`{name}` | {shown[0]}" if factor < 1 else " | "
                print(f"| {label} | {shown[1]} | {line} |", flush=True)


if __name__ == "__main__":
    main()
