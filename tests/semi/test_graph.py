"""--graph: recorded steps do what their operations do one by one, or are not used.

No GPU is needed: in place of CUDA graphs stands an object with their interface that calls the Python function again and
writes what it returns where the first results are. Faults are planted in it.
"""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from semi import loop
from semi.config import Config
from semi.device import Stopwatch
from semi.distributed import Ranks
from semi.graph import CudaCapture, capture_of
from semi.job import build_job
from semi.loop import record_step, train_step
from semi.names import METHODS
from semi.snapshot import snapshot
from tests.semi.runs import TINY, Interrupting, Interruption, train

CPU = torch.device("cpu")


class FakeCapture:
    """Counts its replays; `plant` turns the replay of a half (0 guess, 1 learn) into another."""

    def __init__(self, plant=lambda half, replay: replay) -> None:
        self.plant, self.halves, self.replays = plant, 0, 0

    def aside(self):
        return nullcontext()

    def record(self, work):
        results = work()

        def replay() -> None:
            self.replays += 1
            for kept, new in zip(results, work(), strict=True):
                kept.copy_(new)

        half, self.halves = self.halves, self.halves + 1
        return self.plant(half, replay), results


def use(monkeypatch, capture) -> None:
    monkeypatch.setattr(loop, "capture_of", lambda graph, device: capture)


def config(tmp_path, **changes: Any) -> Config:
    short = {"epochs": 2, "val_iteration": 3, "batch_size": 8}
    return Config(**(TINY | short | {"out": str(tmp_path), "refine": "darp", "align": True} | changes))


@pytest.mark.parametrize(
    ("method", "refine"), [*((method, "darp") for method in sorted(METHODS)), ("fix", "cdmad")]
)
def test_a_recorded_run_has_the_rows_of_one_that_is_not(tmp_path, monkeypatch, method, refine, capsys):
    """Refinements happen between the halves. Ramps, mixup's draws and ReMixMatch's running mean go on in replays, and
    CDMAD's look at the constant image."""
    plain = train(config(tmp_path / "plain", semi_method=method, refine=refine))
    capture = FakeCapture()
    use(monkeypatch, capture)
    assert train(config(tmp_path / "recorded", semi_method=method, refine=refine)) == plain
    assert capture.replays == 2 * (3 + 2 * 3)  # the trial, then 2 epochs of 3 steps
    assert "--graph" not in capsys.readouterr().err


@pytest.mark.parametrize(("method", "refine"), [("fix", "darp"), ("remix", "darp"), ("fix", "cdmad")])
def test_a_recorded_run_that_is_cut_within_an_epoch_goes_on_exactly(tmp_path, monkeypatch, method, refine):
    own = {"semi_method": method, "refine": refine}
    whole = train(config(tmp_path / "whole", **own))
    use(monkeypatch, FakeCapture())
    cut = config(tmp_path / "cut", resume="auto", checkpoint_every_s=0.0, **own)
    original = loop.train_step

    def stepping(job, epoch, step, watch):
        if (epoch, step) == (1, 2):
            raise Interruption
        return original(job, epoch, step, watch)

    monkeypatch.setattr(loop, "train_step", stepping)
    with pytest.raises(Interruption):
        train(cut)
    monkeypatch.setattr(loop, "train_step", original)
    use(monkeypatch, FakeCapture())
    with pytest.raises(Interruption):
        train(cut, Interrupting(after=1))
    use(monkeypatch, None)  # the last epoch as on a machine without a GPU
    assert train(cut) == whole


@pytest.mark.parametrize(("method", "refine"), [("remix", "darp"), ("fix", "cdmad")])
def test_recording_leaves_state_random_numbers_and_batches_as_they_were(
    tmp_path, monkeypatch, method, refine
):
    c = config(tmp_path, semi_method=method, refine=refine)
    assert recorded_in_its_second_step(monkeypatch, FakeCapture(), c)


def recorded_in_its_second_step(monkeypatch, capture, config) -> bool:
    """Whether a recording is used. All that a checkpoint holds is compared before and after it was tried."""
    job = build_job(config, CPU)
    job.model.train()
    train_step(job, 0, 0, Stopwatch(CPU))
    before = flat({name: value for name, value in snapshot(job, 0).items() if name != "config"})
    use(monkeypatch, capture)
    record_step(job)
    after = flat({name: value for name, value in snapshot(job, 0).items() if name != "config"})
    assert before.keys() == after.keys()
    for name, value in before.items():
        same = torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name]
        assert same, name
    return job.recorded is not None


def flat(state, at: str = "") -> dict[str, Any]:
    """Copies of the leaves of nested mappings and lists, by their path."""
    if isinstance(state, dict | list):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {name: leaf for key, value in items for name, leaf in flat(value, f"{at}/{key}").items()}
    return {at: state.clone() if isinstance(state, torch.Tensor) else state}


def raising(half, replay):
    def fails() -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nand much more")

    return fails if half == 1 else replay


def without_learning(half, replay):
    return replay if half == 0 else lambda: None


def without_guessing(half, replay):
    return replay if half == 1 else lambda: None


def with_the_same_random_numbers(half, replay):
    """As a generator would that the recording does not know of."""

    def seeded() -> None:
        torch.manual_seed(0)
        replay()

    return seeded if half == 1 else replay


def once(half, replay):
    """The second and third replay do nothing."""
    calls: list[None] = []

    def first() -> None:
        calls.append(None)
        if len(calls) == 1:
            replay()

    return first


@pytest.mark.parametrize(
    ("method", "plant", "reason"),
    [
        ("fix", raising, "RuntimeError: operation not permitted when stream is capturing"),
        ("fix", without_learning, "loss total after 3 steps differs by"),
        ("fix", without_guessing, "differs by"),
        ("sup", without_guessing, "table after 3 steps differs by"),  # whose losses do not need it
        ("mix", with_the_same_random_numbers, "differs by"),
        ("fix", once, "differs by"),
    ],
)
def test_a_recording_that_fails_or_does_something_else_is_not_used_and_one_line_says_so(
    tmp_path, monkeypatch, capsys, method, plant, reason
):
    assert not recorded_in_its_second_step(
        monkeypatch, FakeCapture(plant), config(tmp_path, semi_method=method)
    )
    said = [line for line in capsys.readouterr().err.splitlines() if "--graph" in line]
    assert len(said) == 1
    assert said[0].startswith("--graph auto: steps are launched operation by operation (")
    assert reason in said[0]


@pytest.mark.parametrize("half", [0, 1])
def test_a_half_that_cannot_be_recorded_is_not_used_either(tmp_path, monkeypatch, capsys, half):
    class Refusing(FakeCapture):
        def record(self, work):
            if self.halves == half:
                work()  # what was begun has changed the state
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().record(work)

    assert not recorded_in_its_second_step(monkeypatch, Refusing(), config(tmp_path))
    assert "(OutOfMemoryError: CUDA out of memory.)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lost", "seen_in"),
    [
        ("ema", "averaged weights"),
        ("optimizer", ""),
        ("table", "table"),
        ("statistics", "statistics"),
    ],
)
def test_an_update_that_replays_leave_out_is_noticed(tmp_path, monkeypatch, capsys, lost, seen_in):
    """In the recording alone, one of the things that a step updates is not updated."""
    job = build_job(config(tmp_path), CPU)
    frozen = {
        "ema": lambda: list(job.ema.model.parameters()),
        "optimizer": lambda: [s["exp_avg_sq"] for s in job.optimizer.state.values()],
        "table": lambda: [job.store.orig],
        "statistics": lambda: [b for b in job.model.buffers() if b.is_floating_point()],
    }[lost]

    def plant(half, replay):
        def replay_without() -> None:
            kept = [tensor.clone() for tensor in frozen()]
            replay()
            with torch.no_grad():
                for tensor, value in zip(frozen(), kept, strict=True):
                    tensor.copy_(value)

        return replay_without

    use(monkeypatch, FakeCapture(plant))
    record_step(job)
    assert job.recorded is None
    assert f"{seen_in} after 3 steps differs" in capsys.readouterr().err


def test_only_a_gpu_records_and_only_where_it_is_asked_to():
    assert isinstance(capture_of("auto", torch.device("cuda")), CudaCapture)
    assert capture_of("off", torch.device("cuda")) is None
    assert capture_of("auto", CPU) is None


def test_several_processes_do_not_record_because_their_gradients_meet_within_the_step(tmp_path, monkeypatch):
    job = build_job(config(tmp_path), CPU)
    job.ranks = Ranks(CPU, size=2)
    capture = FakeCapture()
    use(monkeypatch, capture)
    record_step(job)
    assert job.recorded is None
    assert capture.halves == 0


def test_a_recording_that_broke_off_leaves_a_generator_that_draws(monkeypatch):
    """PyTorch's would refuse every draw after it ("Offset increment outside graph capture"). CUDA is made up here."""
    replaced: list[str] = []
    generator = SimpleNamespace(graphsafe_set_state=replaced.append)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", SimpleNamespace)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "default_generators", (None, generator))
    monkeypatch.setattr(torch, "Generator", lambda device: f"new on {device}")
    with pytest.raises(ZeroDivisionError):
        CudaCapture(torch.device("cuda", 1)).record(lambda: [1 / 0])  # type: ignore[list-item]
    assert replaced == ["new on cuda:1"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", sorted(METHODS))
def test_cuda_graphs_record_the_steps_of_each_method(tmp_path, capsys, method):
    job = build_job(config(tmp_path, semi_method=method, gpu="0"), torch.device("cuda"))
    record_step(job)
    assert job.recorded is not None, capsys.readouterr().err
    job.model.train()
    losses = [train_step(job, 0, step, Stopwatch(job.device)).total.item() for step in range(5)]
    assert all(torch.isfinite(torch.tensor(losses)))
