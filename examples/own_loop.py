"""A training loop of one's own whose pseudo-labels are watched and refined: pip install . scikit-learn, then

    python examples/own_loop.py [--tracker none|wandb|trackio] [--epochs 20] [--no-refine]

Two lines watch (`monitor.update` at each step, `monitor.log` at each epoch), one refines. The rest is any plain
semi-supervised loop: digits with a long tail, a few of them labeled, and the model's own guesses for the others. With
--out FOLDER the rows go to FOLDER/metrics.jsonl too, which report.py reads.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from darp import PseudoLabelMonitor, refine

LABELS, BATCH = 20, 64


def long_tailed_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images [N, 64] in 0..1 and labels [N] of 10 classes; the first 20 balanced, the rest with a long tail of 50."""
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    of_class = [(labels == k).nonzero().flatten() for k in range(10)]
    rest = torch.cat([rows[2 : 2 + int(170 * 50 ** (-k / 9))] for k, rows in enumerate(of_class)])
    order = torch.cat([*(rows[:2] for rows in of_class), rest[torch.randperm(len(rest))]])
    return images[order], labels[order]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tracker", choices=("none", "wandb", "trackio"), default="none")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--no-refine", action="store_true", help="watch only")
    parser.add_argument("--out", type=Path, help="folder for metrics.jsonl")
    given = parser.parse_args()
    torch.manual_seed(0)
    images, labels = long_tailed_digits()
    images_x, labels_x, images_u, labels_u = (
        images[:LABELS],
        labels[:LABELS],
        images[LABELS:],
        labels[LABELS:],
    )
    target = torch.bincount(labels_u)  # a known prior, such as a census; `estimate.py` estimates one
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    monitor = PseudoLabelMonitor(len(images_u), 10, labels_u, target_counts=target)
    run = None
    if given.tracker != "none":
        run = importlib.import_module(given.tracker).init(
            project="own-loop", config=vars(given) | {"out": None}
        )
    if given.out:
        given.out.mkdir(parents=True)
    table = None
    for epoch in range(given.epochs):
        for index in torch.randperm(len(images_u)).split(BATCH):
            probs = model(images_u[index]).softmax(1).detach()
            targets = probs if table is None else table[index]
            monitor.update(index, probs, targets)
            batch = torch.randint(LABELS, (BATCH,))
            noisy = images_u[index] + 0.2 * torch.randn_like(images_u[index])
            loss = functional.cross_entropy(model(images_x[batch]), labels_x[batch])
            loss = loss + functional.cross_entropy(model(noisy), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if not given.no_refine and epoch >= 2:
            table = refine(monitor.orig, target).refined
        row = monitor.row()
        if given.out:
            with (given.out / "metrics.jsonl").open("a") as file:
                print(json.dumps({"epoch": epoch, **row}), file=file)
        if run:
            monitor.log(run, epoch, {"loss": loss.item()})
        right, off = (
            [row[f"pseudo/{table}/{key}"] for table in ("orig", "refined")] for key in ("accuracy", "tv_true")
        )
        print(
            f"epoch {epoch}  guesses right {right[0]:.3f}, refined {right[1]:.3f}, "
            f"distance to the truth {off[0]:.3f} -> {off[1]:.3f}"
        )
    if run:
        run.finish()


if __name__ == "__main__":
    main()
