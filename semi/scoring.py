"""What `eval.py score` says of one checkpoint: recall of each class, confusions, and the means of the papers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from semi.evaluate import confusion, predict, scores
from semi.load_model import Trained
from semi.losses import shifted

WHOLE_MATRIX = 20  # classes up to which the confusion matrix is shown whole
WORST = 15  # confusions that are listed where it is not


class Scores(NamedTuple):
    """Of the averaged weights on the test set."""

    counts: Tensor  # [K, K], row: true class, column: predicted
    row: dict[str, float]
    raw: dict[str, float] | None = (
        None  # the same of the logits without the refinery's shift, where it has one
    )


def score(trained: Trained) -> Scores:
    """As the run's own epochs were scored: with the shift of test logits that its checkpoint holds."""
    images, labels = trained.test_set()
    logits = predict(trained.model, images)
    counts, loss = confusion(shifted(logits, trained.test_shift), labels)
    row = scores(counts) | {"loss": loss}
    if trained.test_shift is None:
        return Scores(counts, row)
    raw, loss = confusion(logits, labels)
    return Scores(counts, row, scores(raw) | {"loss": loss})


def show(console: Console, found: Scores, class_names: Sequence[str]) -> None:
    """Recall of each class beside the confusion matrix, then one line of means; two where the refinery shifts."""
    counts, row, raw = found
    console.print(
        _matrix(counts, class_names) if len(counts) <= WHOLE_MATRIX else _worst(counts, class_names)
    )
    if len(counts) > WHOLE_MATRIX:
        recalls = "  ".join(
            f"{name} {row.get(f'recall/{k}', float('nan')):.2f}" for k, name in enumerate(class_names)
        )
        console.print(Text(f"recall: {recalls}"))
    if raw is None:
        console.print(Text(_means(row)))
        return
    console.print(Text(f"with the refinery's shift of test logits (test):  {_means(row)}"))
    console.print(Text(f"without it (test_raw):                            {_means(raw)}"))


def _means(row: dict[str, float]) -> str:
    names = [name for name in ("acc", "bacc", "gm", "many", "medium", "few", "loss") if name in row]
    return "  ".join(f"{name} {row[name]:.4f}" for name in names)


def _matrix(counts: Tensor, class_names: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="rows: true class, columns: predicted class")
    table.add_column("class")
    table.add_column("recall", justify="right")
    for k in range(len(counts)):
        table.add_column(str(k), justify="right")
    for k, line in enumerate(counts.tolist()):
        total = sum(line)
        recall = f"{line[k] / total:.3f}" if total else "-"
        table.add_row(Text(f"{k} {class_names[k]}"), recall, *(str(n) if n else "·" for n in line))
    return table


def _worst(counts: Tensor, class_names: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"the {WORST} most frequent confusions")
    for heading in ("true", "predicted"):
        table.add_column(heading)
    table.add_column("images", justify="right")
    off = counts.clone()
    off.fill_diagonal_(0)
    for cell in off.flatten().argsort(descending=True, stable=True)[:WORST].tolist():
        true, predicted = divmod(cell, len(counts))
        table.add_row(Text(class_names[true]), Text(class_names[predicted]), str(int(off[true, predicted])))
    return table
