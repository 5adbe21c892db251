"""Scores on the test set, as DARP reports them (Kim et al. 2020, section 4.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semi.distributed import Ranks

# Images at a time. On a CPU what a batch makes should stay in its cache: 500 take WRN-28-2 1.6 times as long as 200,
# and the small network 0.94 times (python -m benchmarks.epoch_end).
CPU_BATCH, BATCH = 200, 500


@torch.no_grad()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Logits [N, K] for normalised float32 images [N, 3, H, W]. The model is put in evaluation mode and back."""
    training = model.training
    model.eval()
    size = CPU_BATCH if images.device.type == "cpu" else BATCH
    logits = torch.cat([model(chunk) for chunk in images.split(size)])
    model.train(training)
    return logits


def confusion(logits: Tensor, labels: Tensor, ranks: Ranks | None = None) -> tuple[Tensor, float]:
    """Confusion counts [K, K] (row: true class, column: predicted) and the mean cross-entropy.

    logits: [N, K]; labels: int64 [N].
    ranks: processes that have the images between them, this one those that are given; all get the whole result.
    """
    ranks = ranks or Ranks(logits.device)
    num_classes = logits.shape[1]
    cells = labels * num_classes + logits.argmax(dim=1)
    counts = torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)
    loss = ranks.sum_(F.cross_entropy(logits, labels, reduction="sum").double())
    counts = ranks.sum_(counts)
    return counts.cpu(), float(loss / counts.sum())


def scores(counts: Tensor) -> dict[str, float]:
    """Accuracy, balanced accuracy, geometric mean, thirds and per-class recall from confusion counts [K, K].

    A class without a test image has no recall and is left out of the means. In the geometric mean a recall of zero
    counts as 1 / (100 K). Thirds are by class index, so by size in a long tail: many, medium, few.
    """
    num_classes = len(counts)
    size = counts.sum(dim=1)
    recall = counts.diagonal() / size  # nan where a class is empty
    known = recall[size > 0]
    third = num_classes // 3
    groups = {
        "many": recall[:third],
        "medium": recall[third : num_classes - third],
        "few": recall[num_classes - third :],
    }
    row = {
        "acc": float(counts.diagonal().sum() / counts.sum()),
        "bacc": float(known.mean()),
        "gm": float(known.clamp(min=1 / (100 * num_classes)).log().mean().exp()),
        **{name: float(part.nanmean()) for name, part in groups.items() if len(part)},
    }
    row.update({f"recall/{k}": float(r) for k, r in enumerate(recall) if size[k] > 0})
    return row
