"""The two halves of a training step, recorded once as CUDA graphs and replayed: two launches in place of hundreds.

    guess   predictions for the unlabeled images, and their rows in the table
            (here the host decides whether to refine)
    learn   losses, gradients, Adam, averaged weights

A replay does what was recorded at the same addresses, so what changes from step to step is copied to where the
recording reads it: the batch, the targets, the progress. All else that a step changes stays in its place on the device.

A recording is trusted after it did what the halves themselves do, from the same state, for STEPS steps. PyTorch's notes
on CUDA graphs are the source of what may be recorded and how.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from data import Batch
from semi.device import NoStopwatch, Stopwatch
from semi.methods import Losses

STEPS = 3
# Of what the steps changed. A stale batch, a missing update or random numbers that repeat change all of it; sums in
# another order change far less. Not tried on a GPU.
TOLERANCE = 0.1


class Halves(NamedTuple):
    """What a step consists of, before and after the targets are known."""

    guess: Callable[[Batch], Tensor]
    """Predictions [B, K] for the unlabeled images of a batch."""
    learn: Callable[[Batch, Tensor, Tensor, Stopwatch], Losses]
    """Learns from the batch with targets [B, K] at a progress, float64 scalar on the device, in 0..1."""


class Capture(Protocol):
    """Records work on a device."""

    def aside(self) -> AbstractContextManager[object]:
        """Where work runs before it is recorded."""

    def record(self, work: Callable[[], Sequence[Tensor]]) -> tuple[Callable[[], None], Sequence[Tensor]]:
        """(what does the work again, the tensors that then hold its results). May leave the work undone."""


class CudaCapture:
    """CUDA graphs, and the stream beside the current one that they are recorded on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @contextmanager
    def aside(self) -> Iterator[None]:
        current, stream = torch.cuda.current_stream(self._device), torch.cuda.Stream(self._device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            yield
        current.wait_stream(stream)

    def record(self, work: Callable[[], Sequence[Tensor]]) -> tuple[Callable[[], None], Sequence[Tensor]]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            try:
                with torch.cuda.graph(graph):
                    results = work()
            except Exception:
                # A recording that broke off leaves the generator waiting for its end: every draw would fail.
                generator = torch.cuda.default_generators[torch.cuda.current_device()]
                generator.graphsafe_set_state(torch.Generator(self._device))
                raise
        return graph.replay, results


def capture_of(graph: str, device: torch.device) -> Capture | None:
    """What --graph records with; None where nothing is recorded."""
    return CudaCapture(device) if graph == "auto" and device.type == "cuda" else None


State = Callable[[], Mapping[str, Tensor]]
"""All tensors that a step changes, by PART/NAME. Those that the first step makes are zero before it."""


def recorded(
    halves: Halves, state: State, batches: Sequence[Batch], capture: Capture
) -> tuple[Halves | None, str]:
    """(the recorded halves, ""), or (None, why there are none). State and random numbers are left as they were.

    batches: one for each step of the trial, on one device.
    """
    device = batches[0].labels_x.device
    before = {name: tensor.detach().clone() for name, tensor in state().items()}
    try:
        with capture.aside():
            expected = trial(halves, state, before, batches)
        with random_numbers_kept(device):
            replayed = record(halves, batches[0], capture)
        found = trial(replayed, state, before, batches)
        fault = difference(before, expected, found)
        return (None, fault) if fault else (replayed, "")
    except Exception as error:  # a driver, an operation that cannot be recorded, memory: none need end a run
        return None, f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    finally:
        put_back(state, before)


def record(halves: Halves, example: Batch, capture: Capture) -> Halves:
    """Both halves, for batches of the shapes of `example`."""
    batch = Batch(
        tuple(view.clone() for view in example.views_x),
        example.labels_x.clone(),
        tuple(view.clone() for view in example.views_u),
        example.index_u.clone(),
    )
    replay_guess, (probs,) = capture.record(lambda: [halves.guess(batch)])
    targets = torch.zeros_like(probs)
    progress = torch.zeros((), dtype=torch.float64, device=probs.device)
    names: list[str] = []

    def work() -> list[Tensor]:
        losses = halves.learn(batch, targets, progress, NoStopwatch())
        names[:] = [part.name for part in fields(losses) if getattr(losses, part.name) is not None]
        return [getattr(losses, name).detach() for name in names]

    replay_learn, values = capture.record(work)

    def guess(new: Batch) -> Tensor:
        for kept, value in zip(tensors_of(batch), tensors_of(new), strict=True):
            kept.copy_(value)
        replay_guess()
        return probs

    def learn(_: Batch, new_targets: Tensor, new_progress: Tensor, watch: Stopwatch) -> Losses:
        """From the batch of the guess before."""
        targets.copy_(new_targets)
        progress.copy_(new_progress)
        replay_learn()
        watch.charge("recorded")
        return Losses(**dict(zip(names, values, strict=True)))

    return Halves(guess, learn)


def tensors_of(batch: Batch) -> tuple[Tensor, ...]:
    return *batch.views_x, batch.labels_x, *batch.views_u, batch.index_u


def trial(
    halves: Halves, state: State, before: Mapping[str, Tensor], batches: Sequence[Batch]
) -> dict[str, Tensor]:
    """The state after a step with each batch from the state `before`, and the losses of the steps."""
    put_back(state, before)
    after: dict[str, Tensor] = {}
    with random_numbers_kept(batches[0].labels_x.device):
        for step, batch in enumerate(batches):
            probs = halves.guess(batch)
            progress = torch.full((), (step + 1) / len(batches), dtype=torch.float64, device=probs.device)
            losses = halves.learn(batch, probs, progress, NoStopwatch())
            for part in fields(losses):
                if (value := getattr(losses, part.name)) is not None:
                    after[f"loss {part.name}/{step}"] = value.detach().clone()
    return after | {name: tensor.detach().clone() for name, tensor in state().items()}


def put_back(state: State, before: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in state().items():
            if name in before:
                tensor.copy_(before[name])
            else:
                tensor.zero_()


@contextmanager
def random_numbers_kept(device: torch.device) -> Iterator[None]:
    """What is drawn inside is drawn again after it."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def difference(
    before: Mapping[str, Tensor], expected: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> str:
    """Which part of the state came out differently, empty where none did. Waits for the device."""
    parts: dict[str, list[str]] = {}
    for name in expected:
        parts.setdefault(name.partition("/")[0], []).append(name)
    for part, names in parts.items():
        away = distance((expected[name], found[name]) for name in names)
        moved = distance(
            (before.get(name, torch.zeros_like(expected[name])), expected[name]) for name in names
        )
        if not away <= TOLERANCE * moved:  # also where one of them is not a number
            return (
                f"{part} after {STEPS} steps differs by {away:.3g}, where the steps changed it by {moved:.3g}"
            )
    return ""


def distance(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Euclidean, over all pairs of tensors."""
    squares = [(one.double() - other.to(one.device).double()).square().sum() for one, other in pairs]
    return math.sqrt(sum(float(square) for square in squares))
