import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from darp import remove_noise
from darp.engine import cpu
from darp.noise import _few_candidates, _level_by_level, _on_device

quick = settings(deadline=None, derandomize=True, max_examples=50)


def by_sorting(probs, counts, alpha):
    """The published definition, a class at a time; ties in the order of the rows."""
    table = probs.double()
    kept = torch.zeros_like(table)
    for k in range(table.shape[1]):
        count = min(int(alpha * float(counts[k])), len(table))
        rows = torch.argsort(table[:, k], descending=True, stable=True)[:count]
        values = table[rows, k]
        kept[rows, k] = values * ((float(counts[k]) + 1e-6) / (float(values.sum()) + 1e-6))
    kept += 1e-6
    return kept / kept.sum(1, keepdim=True)


@st.composite
def tables(draw):
    """A table, often with many ties and zeros, and counts."""
    rows, classes = draw(st.integers(1, 80)), draw(st.integers(1, 7))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    probs = torch.softmax(
        draw(st.sampled_from([0.5, 3.0, 30.0])) * torch.randn(rows, classes, generator=generator), 1
    )
    levels = draw(st.sampled_from([0, 1, 3]))
    if levels:
        probs = (probs * levels).round() / levels
    counts = rows * torch.rand(classes, generator=generator, dtype=torch.float64)
    return probs.to(draw(st.sampled_from([torch.float32, torch.float64]))), counts


@given(tables(), st.sampled_from([0.0, 0.3, 1.0, 2.0, 50.0]))
@quick
def test_removal_agrees_with_sorting_each_column(table, alpha):
    probs, counts = table
    expected = by_sorting(probs, counts, alpha)
    tolerance = 1e-6 if probs.dtype == torch.float32 else 1e-12
    ours = remove_noise(probs, counts, alpha)
    assert ours.dtype == probs.dtype
    assert (ours.double() - expected).abs().max() <= tolerance
    device = _on_device(probs, counts, torch.floor(alpha * counts), None)
    assert (device.double() - expected).abs().max() <= tolerance


@pytest.mark.parametrize("levels", [0, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_setting_candidates_aside_agrees_with_going_level_by_level(monkeypatch, levels, dtype):
    monkeypatch.setattr(cpu, "CHUNK_ELEMENTS", 5000)
    probs = torch.softmax(3 * torch.randn(4000, 7, generator=torch.Generator().manual_seed(0)), 1).to(dtype)
    if levels:  # many ties, over several chunks
        probs = (probs * levels).round() / levels
    table = probs.numpy()
    bits, chunks = table.view(f"u{table.itemsize}"), cpu.Chunks(4000, 7)
    assert len(chunks) > 1
    keep = np.array([0, 1, 40, 300, 900, 2000, 4000])
    few, levelled = (
        _few_candidates(table, bits, chunks, keep),
        _level_by_level(table, bits, chunks, keep, None),
    )
    assert few is not None
    assert (few[0] == levelled[0]).all()
    assert (few[1] == levelled[1]).all()
    assert few[2] == pytest.approx(levelled[2], rel=1e-9)


def test_a_table_of_equal_entries_is_not_set_aside():
    table = np.full((1000, 4), 0.25, np.float32)
    assert _few_candidates(table, table.view(np.uint32), cpu.Chunks(1000, 4), np.full(4, 10)) is None


@given(tables(), st.floats(0, 3))
@quick
def test_rows_sum_to_one_and_no_entry_is_zero(table, alpha):
    probs, counts = table
    cleaned = remove_noise(probs, counts, alpha)
    assert (cleaned.double().sum(1) - 1).abs().max() <= 1e-6
    assert cleaned.min() > 0


@pytest.mark.parametrize("implementation", ["processor", "device"])
def test_exactly_as_many_entries_survive_as_asked_even_where_all_are_equal(implementation):
    probs, counts = torch.full((1000, 4), 0.25), torch.tensor([100.0, 33.4, 0.4, 0.0], dtype=torch.float64)
    if implementation == "processor":
        cleaned = remove_noise(probs, counts, 2.0)
    else:
        cleaned = _on_device(probs, counts, torch.floor(2 * counts), None)
    survived = cleaned * 4 > 1 - 1e-6  # of a row that kept an entry; rows without one are uniform
    assert (cleaned[200:] == cleaned[200:, :1]).all()
    assert survived[:200, 0].sum() == 200
    assert survived[:66, 1].all()
    assert not survived[66:200, 1].any()
    assert not survived[:200, 2:].any()


def test_columns_are_scaled_to_their_targets_before_the_floor_is_added():
    probs = torch.tensor([[0.8, 0.2], [0.7, 0.3], [0.1, 0.9], [0.4, 0.6]], dtype=torch.float64)
    cleaned = remove_noise(probs, [1.0, 3.0], 1.0)
    kept_0 = [0.8 * (1 + 1e-6) / (0.8 + 1e-6), 0.0, 0.0, 0.0]
    kept_1 = [v * (3 + 1e-6) / (1.8 + 1e-6) for v in (0.0, 0.3, 0.9, 0.6)]
    expected = torch.tensor([kept_0, kept_1], dtype=torch.float64).T + 1e-6
    assert torch.allclose(cleaned, expected / expected.sum(1, keepdim=True), atol=1e-14)


def test_the_input_is_left_alone():
    probs = torch.softmax(torch.randn(100, 5, generator=torch.Generator().manual_seed(0)), 1)
    before = probs.clone()
    remove_noise(probs, [20.0] * 5, 0.5)
    assert torch.equal(probs, before)


def test_a_large_table_in_many_chunks_agrees_with_sorting():
    probs = torch.softmax(3 * torch.randn(60_000, 10, generator=torch.Generator().manual_seed(0)), 1)
    probs = (probs * 200).round() / 200  # ties across chunks
    counts = torch.linspace(1, 12_000, 10, dtype=torch.float64)
    assert (remove_noise(probs, counts, 2.0).double() - by_sorting(probs, counts, 2.0)).abs().max() <= 1e-6


@pytest.mark.parametrize("implementation", ["processor", "device"])
def test_tiny_and_subnormal_entries_are_ordered(implementation):
    probs = torch.tensor([[1e-42], [3e-42], [0.0], [2e-42], [1e-30]])
    counts = torch.tensor([2.0], dtype=torch.float64)
    if implementation == "processor":
        cleaned = remove_noise(probs, counts, 1.0)
    else:
        cleaned = _on_device(probs, counts, torch.floor(counts), None)
    assert torch.equal(
        cleaned, torch.ones(5, 1)
    )  # one class: rows are normalised to 1, and nothing overflows


@pytest.mark.parametrize(
    ("probs", "counts", "alpha", "message"),
    [
        (torch.tensor([[0.5, -0.5]]), [1.0, 1.0], 1.0, "1 entries that are negative, not finite"),
        (torch.tensor([[0.5, float("nan")]]), [1.0, 1.0], 1.0, "class 1"),
        (torch.tensor([[0.5, float("inf")]]), [1.0, 1.0], 1.0, "not finite"),
        (torch.ones(2, 2), [1.0], 1.0, "target_counts has shape"),
        (torch.ones(2, 2), [1.0, -1.0], 1.0, "at least 0"),
        (torch.ones(2, 2), [1.0, 1.0], -1.0, "alpha -1"),
        (torch.ones(2, 2).int(), [1.0, 1.0], 1.0, "float32 or float64"),
    ],
)
def test_input_that_makes_no_sense_is_refused_by_name(probs, counts, alpha, message):
    with pytest.raises(ValueError, match=message):
        remove_noise(probs, counts, alpha)
