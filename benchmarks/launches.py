"""How many operations the host starts on the device: for the strong views of a batch, and in a step of each method.

    python -m benchmarks.launches

A GPU's step cannot take less time than the host needs to start its operations, some 5 us each. Counted are dispatched
operations that are neither a view nor an allocation, and Triton kernels. Each is at least one launch on a GPU; sorting,
convolutions and fused Adam may be a few. Counts do not depend on the device or on how busy it is, so they are taken
here on the CPU, where Triton's interpreter stands in for the kernels. On a GPU the same command counts what CUDA was
asked to launch, from a profiler's trace.

A step is WRN-28-2's without a refinement, from the batch to the sums of its losses, with views by whole batches and by
the kernels. Recorded, it replays its two halves as CUDA graphs; on a CPU a replay counts as one and does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.record import keep
from data import Loader
from data.loader import View
from data.randaugment import LISTS
from semi.config import Config
from semi.device import NoStopwatch
from semi.epoch import EpochSoFar
from semi.graph import Capture, capture_of
from semi.graph import record as record_halves
from semi.job import build_job
from semi.loop import train_step, unrecorded
from semi.names import METHODS

GPU = torch.cuda.is_available()
if not GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are imported

DEVICE = torch.device("cuda" if GPU else "cpu")
ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias")
BATCH = 2  # the counts are those of any size


class Launches(TorchDispatchMode):
    """Counts what is started on the device while it is active, Triton kernels included."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self._in_kernel = False  # the interpreter of Triton works with tensors of its own

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        self.count += not (self._in_kernel or func.is_view or name in ALLOCATIONS)
        return func(*args, **(kwargs or {}))

    def __enter__(self) -> Launches:
        from data import kernels

        original = self._original = kernels.launch

        def launch(*arguments: Any, **constants: Any) -> None:
            self.count += 1
            self._in_kernel = True
            original(*arguments, **constants)
            self._in_kernel = False

        kernels.launch = launch
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        from data import kernels

        super().__exit__(*error)
        kernels.launch = self._original


class Replays:
    """Stands in for CUDA graphs on a CPU: a replay does nothing. `replayed` counts them."""

    replayed = 0

    def aside(self) -> AbstractContextManager[object]:
        return nullcontext()

    def record(self, work: Callable[[], Sequence[Tensor]]) -> tuple[Callable[[], None], Sequence[Tensor]]:
        return self._replay, work()

    def _replay(self) -> None:
        self.replayed += 1


def launches(work: Callable[[], object]) -> int:
    """What `work` starts on the device, after once without counting."""
    work()
    if GPU:
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            work()
            torch.cuda.synchronize()
        return sum(event.count for event in profiler.key_averages() if "Launch" in event.key)
    with Launches() as counter:
        work()
    return counter.count


class KernelLoader(Loader):
    """A loader that makes its views by the Triton kernels, on a CPU too."""

    def _passes(self) -> Any:
        from data import kernels

        return kernels


def loader_of(
    *, augment: str, compiled: bool, views_x: tuple[View, ...], views_u: tuple[View, ...], side: int = 32
) -> Loader:
    """Batches of made-up images; side: of the images that the operations are applied to."""
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8)
    full = images if side == 32 else torch.randint(0, 256, (BATCH, 3, side, side), dtype=torch.uint8)
    loader = KernelLoader(
        images, torch.zeros(BATCH, dtype=torch.int64), images, views_x=views_x, views_u=views_u, batch_size=BATCH,
        mean=(0.5,) * 3, std=(0.25,) * 3, flip=True, augment=augment, full_x=full, full_u=full, device=DEVICE, seed=0,
        compiled=compiled, prefetch=False,
    )  # fmt: skip
    if loader.notice:
        raise SystemExit(loader.notice)
    return loader


def strong_views(
    augment: str, *, compiled: bool, views_x: tuple[View, ...] = ("weak",), side: int = 32
) -> int:
    """Launches for the strong views of a batch: FixMatch's two, and with views_x ("strong",) ReMixMatch's three."""
    loader = loader_of(
        augment=augment, compiled=compiled, views_x=views_x, views_u=("strong", "strong"), side=side
    )
    index = torch.arange(BATCH, device=loader.device)
    sources = [(images_of["strong"], index) for images_of in (loader._images_x, loader._images_u)]
    parts = sources[:1] * views_x.count("strong") + sources[1:] * 2
    return launches(lambda: loader._make("strong", parts))


def steps(method: str, augment: str) -> dict[str, int]:
    """Launches of a step of `method`, by how it is done."""
    config = Config(
        dataset="digits", semi_method=method, arch="wrn28_2", batch_size=BATCH, num_max=60, ratio=1, imb_ratio_l=1,
        imb_ratio_u=1,
    )  # fmt: skip
    job = build_job(config, DEVICE)
    job.model.train()
    sums = EpochSoFar(DEVICE)

    def step() -> None:
        sums.add(train_step(job, 0, 1, NoStopwatch()))

    counts = {}
    for name, compiled in (("whole batches", False), ("kernels", True)):
        job.loader = loader_of(
            augment=augment, compiled=compiled, views_x=job.method.views_x, views_u=job.method.views_u
        )
        counts[name] = launches(step)
    replays = Replays()
    capture: Capture = capture_of("auto", DEVICE) or replays
    with capture.aside():
        step()
    job.recorded = record_halves(unrecorded(job), job.loader.next(), capture)
    counts["recorded"] = launches(step) + replays.replayed // 2  # it was done twice, and counted once
    return counts


def main() -> None:
    figures: list[dict[str, object]] = []
    print("launches for the strong views of a batch, 3 operations in a row")
    print(f"{'list':<11}{'method':<12}{'side':>5}{'whole batches':>15}{'kernels':>9}")
    cases: tuple[tuple[str, tuple[View, ...], int], ...] = (
        ("FixMatch", ("weak",), 32),
        ("ReMixMatch", ("strong",), 32),
        ("FixMatch", ("weak",), 96),
    )
    for augment in LISTS:
        for method, views_x, side in cases:
            twin, kernels = (
                strong_views(augment, compiled=compiled, views_x=views_x, side=side)
                for compiled in (False, True)
            )
            figures.append({"what": "views", "list": augment, "method": method, "side": side})
            figures[-1] |= {"whole batches": twin, "kernels": kernels}
            print(f"{augment:<11}{method:<12}{side:>5}{twin:>15}{kernels:>9}", flush=True)
    print("\nlaunches of a step, WRN-28-2, views of the list published")
    print(f"{'method':<11}{'whole batches':>15}{'kernels':>9}{'recorded':>10}")
    for method in METHODS:
        counts = steps(method, "published")
        figures.append({"what": "step", "method": method, **counts})
        print(
            f"{method:<11}" + "".join(f"{n:>{w}}" for n, w in zip(counts.values(), (15, 9, 10), strict=True)),
            flush=True,
        )
    print(f"\nkept in {keep('launches', figures, DEVICE)}")


if __name__ == "__main__":
    main()
