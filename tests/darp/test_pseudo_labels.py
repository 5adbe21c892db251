import math
import re

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from darp.pseudo_labels import BLOCK, COMPILED, PIECE, distribution_metrics, pseudo_label_metrics
from tracking.row import is_known

ORIG = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])
REFINED = torch.tensor([[0.97, 0.03, 0.0], [0.2, 0.7, 0.1], [0.2, 0.6, 0.2], [0.0, 0.04, 0.96]])
TRUE = torch.tensor([0, 1, 1, 2])


@pytest.fixture
def row():
    visited = torch.tensor([True, True, True, False])
    return pseudo_label_metrics(ORIG, REFINED, visited, [1.0, 2.0, 1.0], TRUE, tau=0.95)


def per_class(row, prefix):
    return [row[f"{prefix}/{k}"] for k in range(3)]


def test_shares_are_mean_probabilities_and_sum_to_one(row):
    assert per_class(row, "pseudo/orig") == pytest.approx([0.6, 0.175, 0.225])
    for name in ("orig", "refined", "target", "true", "orig_hard", "refined_hard", "selected"):
        assert sum(per_class(row, f"pseudo/{name}")) == pytest.approx(1), name


def test_hard_shares_are_shares_of_argmax(row):
    assert per_class(row, "pseudo/orig_hard") == [0.75, 0, 0.25]
    assert per_class(row, "pseudo/refined_hard") == [0.25, 0.5, 0.25]


def test_histograms_count_rows_in_bins_that_are_the_classes(row):
    assert row["pseudo_orig"] == pytest.approx([2.4, 0.7, 0.9])
    assert row["pseudo_target"] == pytest.approx([1, 2, 1])
    assert row["pseudo_true"] == pytest.approx([1, 2, 1])


def test_distances_are_total_variation_and_divergence_from_the_truth(row):
    assert row["pseudo/orig/tv_true"] == pytest.approx((0.35 + 0.325 + 0.025) / 2)
    assert row["pseudo/orig/tv_uniform"] == pytest.approx(0.6 - 1 / 3)
    expected = 0.25 * math.log(0.25 / 0.6) + 0.5 * math.log(0.5 / 0.175) + 0.25 * math.log(0.25 / 0.225)
    assert row["pseudo/orig/kl_true"] == pytest.approx(expected, rel=1e-6)
    assert row["pseudo/orig/imbalance"] == pytest.approx(0.6 / 0.175)
    assert row["pseudo/orig/entropy"] == pytest.approx(
        -sum(p * math.log(p) for p in (0.6, 0.175, 0.225)), rel=1e-6
    )


def test_the_threshold_applies_to_the_refined_table(row):
    assert row["pseudo/mask_rate"] == 0.5
    assert per_class(row, "pseudo/selected") == [0.5, 0, 0.5]


def test_a_row_that_just_reaches_the_threshold_counts_as_in_the_loss():
    tau = float(REFINED.max())
    just = (REFINED.max(dim=1).values == REFINED.max()).double().mean()
    row = pseudo_label_metrics(ORIG, REFINED, torch.ones(4, dtype=torch.bool), [1.0, 2.0, 1.0], TRUE, tau=tau)
    assert row["pseudo/mask_rate"] == just > 0


def test_distances_of_class_distributions_are_those_of_scipy():
    generator = torch.Generator().manual_seed(0)
    share, target, true = torch.softmax(2 * torch.randn(3, 7, generator=generator, dtype=torch.float64), 1)
    found = distribution_metrics(share, target, true)
    assert found["effective"] == pytest.approx(math.exp(entropy(share)))
    for name, other in (("target", target), ("true", true)):
        assert found[f"js_{name}"] == pytest.approx(jensenshannon(share, other) ** 2)
        assert found[f"psi_{name}"] == pytest.approx(entropy(share, other) + entropy(other, share))
    assert found["kl_true"] == pytest.approx(entropy(true, share))


def test_distances_are_0_at_the_distribution_itself_and_finite_where_classes_are_gone():
    uniform, gone = (
        torch.full((4,), 0.25, dtype=torch.float64),
        torch.tensor([1.0, 0, 0, 0], dtype=torch.float64),
    )
    same = distribution_metrics(uniform, uniform, uniform)
    assert same["effective"] == pytest.approx(4)
    assert [same[key] for key in ("js_true", "psi_true", "js_target", "psi_target")] == pytest.approx([0] * 4)
    collapsed = distribution_metrics(gone, uniform, uniform)
    assert collapsed["effective"] == pytest.approx(1)
    assert 0 < collapsed["js_true"] < math.log(2)
    assert collapsed["psi_true"] == pytest.approx(0.75 * math.log(4) + 3 * 0.2499 * math.log(2500))
    opposite = distribution_metrics(gone, gone.flip(0), gone.flip(0))
    assert opposite["js_true"] == pytest.approx(math.log(2))


def test_agreement_with_the_true_labels(row):
    assert row["pseudo/orig/accuracy"] == 0.5
    assert row["pseudo/refined/accuracy"] == 1
    assert row["pseudo/orig/precision/0"] == pytest.approx(1 / 3)
    assert "pseudo/orig/precision/1" not in row  # nothing was predicted as class 1
    assert [row[f"pseudo/orig/recall/{k}"] for k in range(3)] == [1, 0, 1]


def test_coverage_is_the_share_of_rows_guessed_so_far(row):
    assert row["pseudo/coverage"] == 0.75


def test_unknown_classes_leave_out_what_needs_them():
    row = pseudo_label_metrics(
        ORIG, REFINED, torch.ones(4, dtype=torch.bool), [1.0, 2.0, 1.0], None, tau=0.99
    )
    assert not any("true" in key or "accuracy" in key or "recall" in key for key in row)
    assert row["pseudo/mask_rate"] == 0
    assert "pseudo/selected/0" not in row
    assert all(is_known(key) for key in row)


def slow_twin(orig, refined, visited, target_counts, true_labels, tau):
    """The same by whole tables: a float64 copy of each, torch's own argmax, and a mask for the hits."""
    num_rows, num_classes = orig.shape
    target = torch.tensor(target_counts, dtype=torch.float64) / sum(target_counts)
    true = None
    if true_labels is not None:
        true = torch.bincount(true_labels, minlength=num_classes).double().cpu() / num_rows
    row: dict[str, float | list[float]] = {"pseudo/coverage": float(visited.double().mean())}

    for name, table in (("orig", orig), ("refined", refined)):
        confidence, label = table.max(dim=1)
        share = table.double().mean(dim=0).cpu()
        row |= per_class_of(f"pseudo/{name}", share)
        row |= per_class_of(f"pseudo/{name}_hard", class_share(label, num_classes))
        row |= {
            f"pseudo/{name}/{key}": value for key, value in distribution_metrics(share, target, true).items()
        }
        row[f"pseudo_{name}"] = (share * num_rows).tolist()
        if true_labels is not None:
            row |= {f"pseudo/{name}/{k}": v for k, v in agreement(label, true_labels, num_classes).items()}
    selected = label[confidence >= tau]  # of the refined table, which came last
    row["pseudo/mask_rate"] = len(selected) / num_rows
    if len(selected):
        row |= per_class_of("pseudo/selected", class_share(selected, num_classes))
    row |= per_class_of("pseudo/target", target)
    row["pseudo_target"] = (target * num_rows).tolist()
    if true is not None:
        row |= per_class_of("pseudo/true", true)
        row["pseudo_true"] = (true * num_rows).tolist()
    return row


def per_class_of(prefix, values):
    return {f"{prefix}/{k}": value for k, value in enumerate(values.tolist())}


def class_share(labels, num_classes):
    return torch.bincount(labels, minlength=num_classes).double() / len(labels)


def agreement(label, true, num_classes):
    hit = torch.bincount(true[label == true], minlength=num_classes).double().cpu()
    predicted = torch.bincount(label, minlength=num_classes).double().cpu()
    there = torch.bincount(true, minlength=num_classes).double().cpu()
    row = {"accuracy": float(hit.sum() / len(true))}
    row |= {f"precision/{k}": float(hit[k] / predicted[k]) for k in range(num_classes) if predicted[k] > 0}
    row |= {f"recall/{k}": float(hit[k] / there[k]) for k in range(num_classes) if there[k] > 0}
    return row


def tables(num_rows, num_classes):
    generator = torch.Generator().manual_seed(0)
    orig = torch.softmax(3 * torch.randn(num_rows, num_classes, generator=generator), dim=1)
    orig[::7] = 1 / num_classes  # rows that were not guessed yet: every class is largest
    refined = orig.flip(0).contiguous()
    true = torch.randint(0, num_classes, (num_rows,), generator=generator)
    return orig, refined, true


@pytest.mark.parametrize("num_rows", [1, BLOCK, BLOCK + 1, COMPILED, COMPILED + 3 * BLOCK + 5, 2 * PIECE + 5])
@pytest.mark.parametrize("refines", [True, False])
def test_the_metrics_are_those_of_the_slow_twin(num_rows, refines):
    orig, refined, true = tables(num_rows, 11)
    given = (orig, refined if refines else orig, orig[:, 0] != 1 / 11, [num_rows / 11] * 11)
    for known in (true, None):
        fast, slow = pseudo_label_metrics(*given, known, 0.9), slow_twin(*given, known, 0.9)
        assert list(fast) == list(slow)
        for key, value in slow.items():
            if re.search("hard|selected|accuracy|precision|recall|mask|coverage", key):
                assert fast[key] == value  # counts
            else:
                assert fast[key] == pytest.approx(value, rel=1e-5, abs=1e-6)


def test_a_large_table_is_read_the_same_through_a_stride_and_with_nan_in_it():
    orig, refined, true = tables(COMPILED, 11)
    given = (refined, orig[:, 0] != 1 / 11, [COMPILED / 11] * 11, true, 0.9)
    assert pseudo_label_metrics(orig.T.contiguous().T, *given) == pseudo_label_metrics(orig, *given)
    orig[5] = math.nan
    row = pseudo_label_metrics(orig, *given)
    assert str(row["pseudo/orig/0"]) == "nan"
    assert row["pseudo/orig_hard/0"] == float((orig.argmax(dim=1) == 0).double().mean())


class LargestMade(TorchDispatchMode):
    """Bytes of the largest tensor that an operation made; one in the memory of a table that it was given is a view."""

    def __init__(self, *tables):
        super().__init__()
        self.tables, self.largest = {table.untyped_storage().data_ptr() for table in tables}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in (x for x in tree_leaves(made) if isinstance(x, torch.Tensor)):
            if (storage := tensor.untyped_storage()).data_ptr() not in self.tables:
                self.largest = max(self.largest, storage.nbytes())
        return made


def test_nothing_as_large_as_a_table_is_made():
    orig, refined, true = tables(2 * COMPILED, 40)
    visited = orig[:, 0] > 0
    with LargestMade(orig, refined) as seen:
        pseudo_label_metrics(orig, refined, visited, [1.0] * 40, true, 0.9)
    assert 0 < seen.largest <= len(orig) * 8  # a column of it, in 64 bits
