import math

import pytest
import torch

from tracking.pseudo_labels import pseudo_label_metrics
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
