import math

import pytest
import torch
from torch import nn

from semi.evaluate import confusion, predict, scores


def test_a_confusion_counts_true_rows_and_predicted_columns_in_evaluation_mode():
    class Fixed(nn.Module):
        def forward(self, x):
            assert not self.training
            return x.flatten(1)

    images = torch.tensor([[3.0, 0, 0], [3, 0, 0], [0, 3, 0], [0, 0, 3]])[:, :, None, None]
    model = Fixed().train()
    counts, loss = confusion(predict(model, images), torch.tensor([0, 1, 1, 2]))
    assert counts.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    right = math.log(math.exp(3) + 2) - 3
    assert loss == pytest.approx((3 * right + (right + 3)) / 4, rel=1e-5)
    assert model.training
    predict(model.eval(), images)
    assert not model.training


def test_scores_of_a_known_confusion():
    counts = torch.tensor([[8, 2, 0], [0, 5, 5], [0, 0, 20]])
    row = scores(counts)
    assert row["acc"] == pytest.approx(33 / 40)
    assert row["bacc"] == pytest.approx((0.8 + 0.5 + 1) / 3)
    assert row["gm"] == pytest.approx((0.8 * 0.5 * 1) ** (1 / 3))
    assert (row["many"], row["medium"], row["few"]) == pytest.approx((0.8, 0.5, 1.0))
    assert row["recall/1"] == pytest.approx(0.5)


def test_a_zero_recall_counts_as_one_over_a_hundred_classes_in_the_geometric_mean():
    assert scores(torch.tensor([[10, 0], [10, 0]]))["gm"] == pytest.approx(math.sqrt(1 / 200))


def test_thirds_of_ten_classes_are_three_four_three():
    row = scores(torch.diag(torch.arange(1, 11)) + 10 * torch.eye(10, dtype=torch.int64).roll(1, 1))
    recall = [k / (k + 10) for k in range(1, 11)]
    assert row["many"] == pytest.approx(sum(recall[:3]) / 3)
    assert row["medium"] == pytest.approx(sum(recall[3:7]) / 4)
    assert row["few"] == pytest.approx(sum(recall[7:]) / 3)


def test_a_class_without_a_test_image_is_left_out():
    row = scores(torch.tensor([[4, 0, 0], [0, 0, 0], [0, 0, 4]]))
    assert row["bacc"] == 1
    assert "recall/1" not in row
