"""A FixMatch step of this code beside a step of the published training loop, on one device.

    python -m benchmarks.published_step [--device cuda] [--times 7] [--steps N]
    python -m benchmarks.published_step --small      # on a CPU in a minute: shows that it runs, and no speed

WRN-28-2, batch 64 + 3 x 64, made-up images of CIFAR's shape, 50,000 of them unlabeled, no refinement. The ways:

- published: the loop of the first public implementation, in our own words. A batch comes from the host and is copied
  to the device in each step, the table of pseudo-labels [N, K] lies on the host and is cloned in each step, three
  losses are read back with `.item()`, and averaged weights are a Python loop over tensors. Its weights lie in torch's
  default order. Its batches are ready when a step begins, as if its workers cost nothing.
- float32, default order: `semi.loop.train_step` with weights in that order, as this code had them too: what the order
  alone brings.
- float32 and bf16: the same as it is now, weights channels last, with `--amp off` and `--amp bf16`; on a GPU also
  recorded as CUDA graphs (`--graph auto`). Batches are made within these steps.

The ways take turns, `--steps` steps a turn, after one turn that is not counted. Printed are the median milliseconds of
a step over the turns with their spread, images a second (labeled and unlabeled, as `throughput/images_per_s` counts
them), and the median of the ratios to the published step of the same turn. On a GPU also the largest gap, the longest
time within five steps, after two, in which no kernel ran: there the GPU waited for the host. A run that is not small is
kept in benchmarks/results/published_step.json.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.growth import made_up
from benchmarks.record import keep
from data import Batch
from semi.config import Config
from semi.device import NoStopwatch
from semi.epoch import EpochSoFar
from semi.job import Job, build_job
from semi.loop import DECAY, record_step, train_step


@dataclass
class PublishedLoop:
    """The published FixMatch step, with all that it sends to the host and back.

    model: on its device. orig: the table [N, K], on the host. sums: of the three losses that are read back.
    """

    model: nn.Module
    orig: Tensor
    tau: float
    lr: float
    ema_decay: float
    sums: list[float] = field(default_factory=lambda: [0.0] * 3)

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.averaged = copy.deepcopy(self.model)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.lr)

    def step(self, batch: Batch) -> None:
        """Learn from a batch that lies in the host's memory."""
        images_x, labels = batch.views_x[0].to(self.device), batch.labels_x.to(self.device)
        weak, strong, strong2 = (view.to(self.device) for view in batch.views_u)
        with torch.no_grad():
            guesses = torch.softmax(self.model(weak), dim=1)
        self.orig[batch.index_u] = guesses.cpu()
        self.backup = self.orig.clone()
        confidence, label = guesses.max(dim=1)
        mask = (confidence >= self.tau).float().repeat(2)
        hot_x, hot_u = (F.one_hot(each, guesses.shape[1]).float() for each in (labels, label.repeat(2)))
        logits = self.model(torch.cat([images_x, strong, strong2]))
        logits_x, logits_u = logits[: len(labels)], logits[len(labels) :]
        loss_x = -(F.log_softmax(logits_x, dim=1) * hot_x).sum(dim=1).mean()
        loss_u = (-(F.log_softmax(logits_u, dim=1) * hot_u).sum(dim=1) * mask).mean()
        loss = loss_x + loss_u
        for place, value in enumerate((loss, loss_x, loss_u)):
            self.sums[place] += value.item()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self._average()

    @torch.no_grad()
    def _average(self) -> None:
        """Tensor by tensor: averaged, then shrunk, batch norm's statistics too."""
        pairs = zip(self.model.state_dict().values(), self.averaged.state_dict().values(), strict=True)
        for current, averaged in pairs:
            if averaged.dtype == torch.float32:
                averaged.mul_(self.ema_decay)
                averaged.add_(current * (1 - self.ema_decay))
                current.mul_(1 - DECAY * self.lr)


def job_of(rows: int, device: torch.device, *, arch: str, batch_size: int, amp: str) -> Job:
    """A FixMatch run on made-up images, `rows` of them unlabeled."""
    config = Config(
        dataset="cifar10", semi_method="fix", arch=arch, num_max=100, ratio=rows / 1000 - 1, imb_ratio_l=1,
        imb_ratio_u=1, batch_size=batch_size, amp=amp,
    )  # fmt: skip
    job = build_job(config, device, dataset=made_up(rows))
    job.model.train()
    return job


def published_way(job: Job) -> Callable[[], None]:
    """A step of the published loop with the weights of `job`; its batches are drawn once and kept on the host."""
    config = job.config
    in_default_order(job.model)
    table = torch.full(job.store.orig.shape, 1 / job.store.orig.shape[1])
    loop = PublishedLoop(job.model, table, config.tau, config.lr, config.ema_decay)
    batches = [on_host(job.loader.next()) for _ in range(8)]

    def step() -> None:
        batches.append(batches.pop(0))
        loop.step(batches[-1])

    return step


def on_host(batch: Batch) -> Batch:
    return Batch(
        tuple(view.cpu() for view in batch.views_x),
        batch.labels_x.cpu(),
        tuple(view.cpu() for view in batch.views_u),
        batch.index_u.cpu(),
    )


def in_default_order(model: nn.Module) -> None:
    model.to(memory_format=torch.contiguous_format)


def our_way(job: Job) -> Callable[[], None]:
    """A step of this code, to the sums of its losses."""
    sums = EpochSoFar(job.device)
    return lambda: sums.add(train_step(job, 0, 1, NoStopwatch()))


def ways(rows: int, device: torch.device, *, arch: str, batch_size: int) -> dict[str, Callable[[], None]]:
    """A step by each way of doing it. Raises SystemExit where a GPU refuses the recording."""

    def job(amp: str) -> Job:
        return job_of(rows, device, arch=arch, batch_size=batch_size, amp=amp)

    before = job("off")
    in_default_order(before.model)
    steps = {
        "published": published_way(job("off")),
        "float32, default order": our_way(before),
        "float32": our_way(job("off")),
        "bf16": our_way(job("bf16")),
    }
    if device.type == "cuda":
        for name, amp in (("float32, recorded", "off"), ("bf16, recorded", "bf16")):
            recorded = job(amp)
            record_step(recorded)
            if recorded.recorded is None:
                raise SystemExit(1)  # record_step has said why
            steps[name] = our_way(recorded)
    return steps


def milliseconds(
    steps: Mapping[str, Callable[[], None]], device: torch.device, *, times: int, number: int
) -> dict[str, list[float]]:
    """Milliseconds of a step in each of `times` turns of `number` steps, by way; the ways take turns."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(times + 1):
        for name, step in steps.items():
            wait_for(device)
            start = time.perf_counter()
            for _ in range(number):
                step()
            wait_for(device)
            if turn:
                taken[name].append(1e3 * (time.perf_counter() - start) / number)
    return taken


def largest_gap(spans: Iterable[tuple[float, float]]) -> float:
    """The longest time between the first start and the last end of `spans` that none of them covers."""
    gap, end = 0.0, math.inf
    for start, stop in sorted(spans):
        gap = max(gap, start - end)
        end = max(end, stop) if end < math.inf else stop
    return gap


def gap_us(step: Callable[[], None], device: torch.device) -> float:
    """Microseconds of the largest gap between the kernels of five steps, from a profiler's trace."""
    for _ in range(2):  # so that the host is ahead of the device, as it is in the middle of an epoch
        step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(5):
            step()
        wait_for(device)
    on_device = (e.time_range for e in profiler.events() if e.device_type.name == "CUDA")
    return largest_gap((span.start, span.end) for span in on_device)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def lines(taken: dict[str, list[float]], batch_size: int) -> list[dict[str, object]]:
    """A line of the table for each way."""
    figures: list[dict[str, object]] = []
    for name, times in taken.items():
        ratios = [base / own for base, own in zip(taken["published"], times, strict=True)]
        median = statistics.median(times)
        figures.append({"way": name, "ms": median, "least_ms": min(times), "most_ms": max(times)})
        figures[-1] |= {
            "images_per_s": 2e3 * batch_size / median,
            "times_published": statistics.median(ratios),
        }
        figures[-1] |= {"least_times": min(ratios), "most_times": max(ratios)}
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.published_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--times", type=int, default=7, help="turns of each way (default: 7)")
    parser.add_argument("--steps", type=int, help="steps of a turn (default: 50 on a GPU, 2 on a CPU)")
    parser.add_argument(
        "--small", action="store_true", help="the small network, batch 8, 2,000 rows, 2 steps a turn"
    )
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    rows, arch, batch_size, number = (
        (2000, "small", 8, 2) if given.small else (50_000, "wrn28_2", 64, 50 if device.type == "cuda" else 2)
    )
    number = given.steps or number
    steps = ways(rows, device, arch=arch, batch_size=batch_size)
    taken = milliseconds(steps, device, times=given.times, number=number)
    figures = lines(taken, batch_size)
    print(
        f"{arch}, batch {batch_size} + 3 x {batch_size}, N {rows}, {device}, {given.times} turns of {number} steps"
    )
    print(
        f"{'way':<24}{'ms a step':>11}{'least':>9}{'most':>9}{'images/s':>11}{'x published':>13}{'least':>7}{'most':>7}"
    )
    for line in figures:
        print(
            f"{line['way']:<24}{line['ms']:>11.2f}{line['least_ms']:>9.2f}{line['most_ms']:>9.2f}"
            f"{line['images_per_s']:>11.0f}{line['times_published']:>13.2f}{line['least_times']:>7.2f}"
            f"{line['most_times']:>7.2f}"
        )
    if device.type == "cuda":
        for line, step in zip(figures, steps.values(), strict=True):
            line["gap_us"] = gap_us(step, device)
            print(f"{line['way']:<24}largest gap {line['gap_us']:.0f} us")
    if given.small:
        print("nothing is kept of a small run")
    else:
        print(f"kept in {keep('published_step', figures, device)}")


if __name__ == "__main__":
    main()
