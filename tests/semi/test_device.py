import time

import pytest
import torch

from semi.device import Stopwatch, choose_algorithms, pick_device


@pytest.mark.parametrize("gpu", ["", "cpu"])
def test_the_cpu_can_be_asked_for(gpu):
    assert pick_device(gpu) == (torch.device("cpu"), "")


@pytest.mark.parametrize(
    ("count", "gpu", "device", "said"),
    [
        (0, "3", "cpu", "no GPU is visible"),
        (2, "3", "cuda:0", "2 GPU"),
        (4, "3", "cuda:3", ""),
        (1, "0", "cuda:0", ""),
    ],
)
def test_a_gpu_that_is_not_there_is_replaced_and_said(monkeypatch, count, gpu, device, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    found, sentence = pick_device(gpu)
    assert found == torch.device(device)
    assert said in sentence
    assert bool(sentence) == bool(said)


@pytest.mark.parametrize(
    ("device", "deterministic", "benchmark", "only"),
    [
        ("cuda", False, True, False),
        ("cuda", True, False, True),
        ("cpu", False, False, False),
        ("cpu", True, False, False),
    ],
)
def test_a_gpu_takes_the_fastest_algorithms_or_the_deterministic_ones(
    monkeypatch, device, deterministic, benchmark, only
):
    chosen = []
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode, warn_only: chosen.append(mode))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    choose_algorithms(torch.device(device), deterministic)
    assert torch.backends.cudnn.benchmark is benchmark
    assert chosen == [True] * only


def test_time_is_charged_to_what_took_it():
    watch = Stopwatch(torch.device("cpu"))
    watch.start()
    time.sleep(0.02)
    watch.charge("data")
    time.sleep(0.04)
    watch.charge("step")
    time.sleep(0.01)
    watch.start()  # what passed between two steps belongs to neither
    time.sleep(0.02)
    watch.charge("data")
    seconds = watch.read()
    assert set(seconds) == {"data", "step"}
    assert 0.04 <= seconds["data"] < 0.2
    assert 0.04 <= seconds["step"] < 0.2
    assert watch.read() == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_time_is_the_devices_own():
    watch = Stopwatch(torch.device("cuda"))
    watch.start()
    torch.cuda._sleep(50_000_000)
    watch.charge("step")
    assert watch.read()["step"] > 0.005
