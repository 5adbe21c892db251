"""Writes run folders as training would, with class shares that collapse as few labels make them."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import yaml

from semi.config import kinds_of
from semi.methods import about_method
from semi.names import METHODS


def write_run(
    parent: Path,
    name: str,
    *,
    num_classes: int = 10,
    epochs: int = 8,
    epochs_done: int | None = None,
    seed: int = 0,
    num_max: int = 60,
    collapse: float = 0.1,
    darp: bool = False,
    with_truth: bool = True,
    class_names: list[str] | None = None,
    imb_ratio: float = 1.0,
    **config: Any,
) -> Path:
    """Write one run folder and return it. `collapse` 0 leaves the shares at the truth, 2 ruins them."""
    folder = parent / name
    folder.mkdir(parents=True)
    truth = _normalised([imb_ratio ** (-k / max(num_classes - 1, 1)) for k in range(num_classes)])
    fields = {
        "semi_method": "fix", "dataset": "digits", "arch": "small", "ratio": 2.0, "num_max": num_max,
        "imb_ratio_l": imb_ratio, "imb_ratio_u": imb_ratio, "refine": "darp" if darp else "none", "alpha": 2.0,
        "warm": 1, "tau": 0.95,
        "epochs": epochs, "val_iteration": 50, "batch_size": 64, "lr": 0.002, "seed": seed, "run_name": name,
        "class_names": class_names or [str(k) for k in range(num_classes)], "device": "cpu",
        "labeled_counts_asked": [num_max] * num_classes, "labeled_counts": [num_max] * num_classes,
        "unlabeled_counts_asked": [120] * num_classes, "unlabeled_counts": [120] * num_classes,
        "versions": {"torch": "2.6"}, "est": False, "out": str(parent), **config,
    }  # fmt: skip
    if fields["semi_method"] in METHODS:
        fields = about_method(fields["semi_method"]) | fields
    fields = {"field_kinds": kinds_of(fields)} | fields
    (folder / "config.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
    noise = random.Random(f"{seed} {num_max}")
    pull = [collapse * noise.gauss(0, 1) for _ in range(num_classes)]
    done = epochs if epochs_done is None else epochs_done
    with open(folder / "metrics.jsonl", "w", encoding="utf-8") as file:
        for epoch in range(done):
            row = _row(epoch, epochs, truth, pull, darp, noise)
            if not with_truth:
                row = {key: value for key, value in row.items() if "true" not in key}
            file.write(json.dumps(row) + "\n")
    return folder


def write_finding(parent: Path, *, seeds: int = 3, **fields: Any) -> Path:
    """The four configurations of the finding: many and few labels, without and with DARP."""
    for num_max, collapse in ((60, 0.12), (1, 1.1)):
        for darp in (False, True):
            for seed in range(seeds):
                write_run(
                    parent, f"fix-{num_max}-{'darp' if darp else 'plain'}-{seed}",
                    num_max=num_max, collapse=collapse, darp=darp, seed=seed, **fields,
                )  # fmt: skip
    return parent


def _row(
    epoch: int, epochs: int, truth: list[float], pull: list[float], darp: bool, noise: random.Random
) -> dict[str, Any]:
    progress = (epoch + 1) / epochs
    refining = darp and epoch > 1
    strength = progress * (0.15 if refining else 1.0)
    jitter = [noise.gauss(0, 0.03) for _ in truth]
    orig = _normalised([t * 2.718 ** (strength * p + j) for t, p, j in zip(truth, pull, jitter, strict=True)])
    refined = (
        _normalised([t * 2.718 ** (0.02 * j) for t, j in zip(truth, jitter, strict=True)])
        if refining
        else orig
    )
    accuracy = max(0.1, progress**0.3 - 1.6 * _distance(orig, truth))
    row: dict[str, Any] = {
        "epoch": epoch, "loss/total": 2.0 / (epoch + 1), "lr": 0.002, "test/acc": accuracy,
        "test/bacc": accuracy, "test/gm": accuracy * 0.95, "last20/bacc": accuracy, "last20/gm": accuracy * 0.95,
        "pseudo/mask_rate": 0.9 * progress, "pseudo/coverage": min(1.0, 2 * progress),
        "data_time": 0.0009 * noise.uniform(0.9, 1.3), "time/epoch": 2.3 * noise.uniform(0.9, 1.1),
        "time/data": 0.1, "time/step": 1.8, "time/refine": 0.2 * refining, "time/eval": 0.1, "time/log": 0.01,
        "time/checkpoint": 0.02, "pseudo_orig": orig,
    }  # fmt: skip
    row |= {
        f"test/recall/{k}": min(1.0, accuracy * s / t)
        for k, (s, t) in enumerate(zip(orig, truth, strict=True))
    }
    for table, shares in (("orig", orig), ("refined", refined), ("target", truth), ("true", truth)):
        row |= {f"pseudo/{table}/{k}": share for k, share in enumerate(shares)}
    for table, shares in (("orig", orig), ("refined", refined)):
        row |= _labels(table, shares, truth)
        row[f"pseudo/{table}/tv_true"] = row[f"pseudo/{table}/tv_target"] = _distance(shares, truth)
        row[f"pseudo/{table}/imbalance"] = max(shares) / min(shares)
    if refining:
        row |= {"darp/residual": 10 ** noise.uniform(-9, -7), "darp/iterations": noise.randint(3, 6)}
        row |= {"darp/seconds": 0.02 * noise.uniform(0.8, 1.2), "darp/solves": 5, "darp/unconverged": 0}
    return row


def _labels(table: str, shares: list[float], truth: list[float]) -> dict[str, float]:
    """Argmax labels of which 9 in 10 are right, where the class has as many as it should have."""
    right = [0.9 * min(s, t) for s, t in zip(shares, truth, strict=True)]
    row = {f"pseudo/{table}_hard/{k}": share for k, share in enumerate(shares)}
    row |= {
        f"pseudo/{table}/precision/{k}": r / s for k, (r, s) in enumerate(zip(right, shares, strict=True))
    }
    row |= {f"pseudo/{table}/recall/{k}": r / t for k, (r, t) in enumerate(zip(right, truth, strict=True))}
    return row | {f"pseudo/{table}/accuracy": sum(right)}


def _normalised(weights: list[float]) -> list[float]:
    return [weight / sum(weights) for weight in weights]


def _distance(one: list[float], other: list[float]) -> float:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / 2


def write_many(parent: Path, *, runs: int = 100, epochs: int = 500, num_classes: int = 10) -> Path:
    """Runs of two regimes, raw and refined, ten settings of lr: 40 configurations of seeds.

    The rows of ten runs serve all of them, as writing 50,000 rows would take most of a test's time.
    """
    rows = []
    for number in range(10):
        darp, few = bool(number % 2), number % 4 > 1
        base = write_run(
            parent / "base", str(number), num_classes=num_classes, epochs=epochs, seed=number, darp=darp,
            num_max=1 if few else 60, collapse=1.1 if few else 0.12,
        )  # fmt: skip
        rows.append(((darp, few), base / "metrics.jsonl"))
    for number in range(runs):
        (darp, few), base = rows[number % 10]
        folder = write_run(
            parent / "runs", f"run {number}", num_classes=num_classes, epochs=epochs, epochs_done=0, darp=darp,
            num_max=1 if few else 60, seed=number, lr=0.001 * (1 + number // 20),
        )  # fmt: skip
        (folder / "metrics.jsonl").unlink()
        os.link(base, folder / "metrics.jsonl")
    return parent / "runs"
