"""--amp: which arithmetic the network has, and that nothing but the network has it."""

from dataclasses import replace

import pytest
import torch

from models import build_model
from semi.config import Config
from semi.device import Stopwatch, about_bf16, computes_in_bf16
from semi.job import build_job, describe
from semi.loop import train_step
from semi.run_folder import digest
from tests.semi.runs import TINY

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("amp", "device", "gpu_has_it", "expected"),
    [
        ("auto", GPU, True, True),
        ("auto", GPU, False, False),
        ("off", GPU, True, False),
        ("bf16", GPU, False, True),
        ("auto", CPU, True, False),
        ("bf16", CPU, False, True),
    ],
)
def test_auto_is_bf16_on_a_gpu_that_has_it_and_on_nothing_else(
    monkeypatch, amp, device, gpu_has_it, expected
):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpu_has_it)
    assert computes_in_bf16(amp, device) is expected


@pytest.mark.parametrize(
    ("amp", "arch", "cpu_has_it", "said"),
    [
        ("auto", "wrn28_2", True, "try both"),
        ("auto", "small", True, ""),
        ("off", "wrn28_2", True, ""),
        ("auto", "wrn28_2", False, ""),
        ("bf16", "small", False, "slower than --amp off"),
    ],
)
def test_a_sentence_says_where_another_arithmetic_may_be_faster(monkeypatch, amp, arch, cpu_has_it, said):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: cpu_has_it)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    sentence = about_bf16(amp, CPU, arch)
    assert said in sentence
    assert bool(sentence) == bool(said)


def test_the_layers_compute_in_bf16_and_weights_gradients_and_logits_are_float32():
    torch.manual_seed(0)
    model = build_model("small", 10, bf16=True)
    twin = build_model("small", 10)
    twin.load_state_dict(model.state_dict())
    seen = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    images = torch.randn(8, 3, 32, 32)
    logits, turns = model(images), model.rotation(images)
    assert set(seen) == {torch.bfloat16}
    assert logits.dtype == turns.dtype == torch.float32
    assert torch.allclose(logits, twin(images), atol=0.05)
    logits.sum().backward()
    assert {p.grad.dtype for p in model.backbone.parameters() if p.grad is not None} == {torch.float32}


@pytest.mark.parametrize("method", ["fix", "mix", "remix", "pseudo", "sup"])
def test_under_bf16_losses_and_pseudo_labels_are_float32(method):
    job = build_job(Config(**TINY | {"semi_method": method, "amp": "bf16", "refine": "darp"}), CPU)
    job.model.train()
    losses = [train_step(job, 1, step, Stopwatch(CPU)) for step in range(3)]
    assert losses[-1].total.dtype == torch.float32
    assert torch.isfinite(losses[-1].total)
    assert job.store.orig.dtype == job.store.refined.dtype == torch.float32
    assert {p.dtype for p in job.ema.model.parameters()} == {torch.float32}


def test_what_a_run_is_described_by_says_which_arithmetic_was_taken():
    for amp, arithmetic in (("auto", "float32"), ("bf16", "bf16")):
        assert describe(build_job(Config(**TINY | {"amp": amp}), CPU))["arithmetic"] == arithmetic


def test_a_field_at_its_default_renames_no_run_and_another_value_does():
    config = Config(**TINY)
    assert digest(replace(config, amp="auto")) == digest(config)
    assert digest(replace(config, amp="bf16")) != digest(config)
    assert digest(replace(config, tau=0.9)) != digest(replace(config, tau=0.8)) != digest(config)
