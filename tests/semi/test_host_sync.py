"""No part of a training step waits for the device or makes it wait for the host, shown without a GPU.

torch's FakeTensorMode runs operations on `cuda` tensors that have a shape and no values. Reading a value raises
DataDependentOutputException, and mixing devices raises an error of its own. It cannot show the backward pass, the
optimizer, the average of the weights, and how long anything takes.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorMode,
    unset_fake_temporarily,
)

from darp import NoRefiner, PseudoLabelStore, Refiner
from darp.online_estimate import OnlineEstimate
from darp.refineries.base import Setting
from data import Loader, kernels, randaugment
from models import build_model
from semi.config import Config
from semi.distributed import Ranks
from semi.methods import method_class
from semi.names import METHODS, REFINERIES, found
from tests.semi.runs import TINY

B, K, N = 4, 10, 12


class GpuGenerator(torch.Generator):
    """Says that it is on a GPU, where none is: the draws of a fake tensor have no values in any case."""

    device = torch.device("cuda")

    def __new__(cls, device):
        return super().__new__(cls)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr("data.loader.torch.Generator", GpuGenerator)
    caches = (
        randaugment.affine_table,
        randaugment.blend_table,
        randaugment.tone_table,
        randaugment._square_colour,
        kernels._tables,
    )
    with FakeTensorMode():
        yield
    for cache in caches:  # tables without values must not stay for a test on a real GPU
        cache.cache_clear()


def network() -> nn.Module:
    """On the GPU, with a fake weight in place of each: a module whose weights are fake refuses to be moved."""
    with unset_fake_temporarily():
        model = build_model("small", K)
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(torch.empty(weight.shape, device="cuda"))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
    return model


def parts(method: str, augment: str, *, compiled: bool = False) -> SimpleNamespace:
    config = Config(**TINY | {"semi_method": method, "align": True})
    counts = torch.full((K,), N / K, dtype=torch.float64)
    made = method_class(method).from_config(config, counts, Ranks(torch.device("cuda")))
    images = torch.zeros(N, 3, 32, 32, dtype=torch.uint8)
    loader = Loader(
        images, torch.zeros(N, dtype=torch.int64), images, views_x=made.views_x, views_u=made.views_u, batch_size=B,
        mean=(0.5,) * 3, std=(0.2,) * 3, flip=True, augment=augment, device="cuda", seed=0,
        compiled=compiled,
    )  # fmt: skip
    model = network().train()
    store = PseudoLabelStore(N, K, "cuda")
    return SimpleNamespace(method=made, loader=loader, model=model, store=store)


def step(on: SimpleNamespace, refiner) -> torch.Tensor:
    batch = on.loader.next()
    probs = on.method.guess(on.model, batch)
    on.store.update(batch.index_u, probs)
    refiner.look(on.model)
    targets = refiner.targets(batch.index_u, probs, epoch=3, step=1)
    progress = torch.full((), 0.5, dtype=torch.float64, device="cuda")
    losses = on.method.losses(on.model, batch, targets, progress)
    total: torch.Tensor = losses.total
    return total


@pytest.mark.parametrize("augment", ["fixmatch", "published"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_step_neither_reads_a_value_nor_mixes_devices(fake, method, augment):
    on = parts(method, augment)
    for _ in range(2):  # the second has what the first one left behind
        assert step(on, NoRefiner()).device.type == "cuda"


@pytest.mark.parametrize("augment", ["fixmatch", "published"])
def test_a_step_whose_views_come_from_the_kernels_neither_reads_a_value_nor_mixes_devices(
    fake, augment, monkeypatch
):
    """No kernel runs here: what each is handed lies on the GPU, and its numbers are the host's own."""
    launched = []

    def launch(kernel, programs, pixels, *arguments, **constants):
        launched.append(kernel)
        for argument in arguments:
            assert argument is None or isinstance(argument, int | float) or argument.device.type == "cuda"

    monkeypatch.setattr(kernels, "launch", launch)
    monkeypatch.setattr(Loader, "_fault", lambda loader: "")  # it reads values, once, before the first step
    on = parts("fix", augment, compiled=True)
    for _ in range(2):
        assert step(on, NoRefiner()).device.type == "cuda"
    weak, strong = [kernels._finish] * 2, [kernels._augment] * 2 + [kernels._finish]
    assert launched == 2 * (weak + strong)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_a_gpu_on_which_the_kernels_do_not_run_gets_the_views_of_their_twin_and_one_sentence(fake):
    loader = parts("fix", "published", compiled=True).loader
    assert loader.notice.startswith(
        "views on cuda take hundreds of launches a batch in place of a dozen: the Triton"
    )
    assert "\n" not in loader.notice
    assert loader.next().views_u[1].shape == (B, 3, 32, 32)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_step_between_two_refinements_takes_the_saved_rows_without_waiting(fake, method):
    on = parts(method, "fixmatch")
    refiner = Refiner(
        on.store, [N / K] * K, warm=0, num_iter=10, solver=lambda *_, **__: pytest.fail("solved")
    )
    on.store.refined = on.store.orig.clone()
    assert step(on, refiner).device.type == "cuda"


@pytest.mark.parametrize("refine", [name for name, place in REFINERIES.items() if place])
@pytest.mark.parametrize("method", ["fix", "pseudo", "sup"])
def test_a_refinery_that_works_batch_by_batch_neither_reads_a_value_nor_mixes_devices(fake, method, refine):
    on = parts(method, "fixmatch")
    refinery = found(REFINERIES, refine)(on.store, Setting([1.0] * K, [N / K] * K, 5, 2))
    on.method.shift = refinery.loss_shift()
    refinery.steps_done = 499  # simpro estimates in the second step
    for _ in range(2):
        assert step(on, refinery).device.type == "cuda"
    shift = refinery.test_shift(on.model.eval())
    assert shift is None or shift.device.type == "cuda"


def test_a_step_of_the_online_estimate_neither_reads_a_value_nor_mixes_devices(fake):
    on = parts("fix", "fixmatch")
    estimate = OnlineEstimate(on.store, [1.0] * K, selects=on.method.selects)
    for _ in range(2):
        estimate.update()
    assert estimate.pi.device.type == estimate.phi.device.type == "cuda"


def test_a_value_that_is_read_and_devices_that_are_mixed_are_noticed(fake):
    on = parts("fix", "fixmatch")
    with pytest.raises(DataDependentOutputException):
        float(step(on, NoRefiner()).detach())
    on.model.head.weight = nn.Parameter(torch.zeros(K, 96))  # left on the CPU
    with pytest.raises(Exception, match=r"[Dd]evice"):
        step(on, NoRefiner())
