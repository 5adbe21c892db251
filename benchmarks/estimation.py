"""How near the estimated unlabeled class distribution comes to the truth, beside the labeled one, on Fashion-MNIST.

    python -m benchmarks.estimation [--seeds 3]

gamma_l = 100, num_max 1500, ratio 2, the small network, the published recipe in 20 epochs of 100 steps.
About a minute a row and seed on one CPU core. Prints a Markdown table: total variation, mean and standard deviation.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import numpy as np
import torch

from data import load_dataset
from semi.config import EstimateConfig
from semi.device import pick_device
from semi.distributed import Ranks
from semi.estimation import run_estimation
from semi.split import split_for

CASES = ((1.0, False), (50.0, False), (100.0, False), (150.0, False), (100.0, True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--gpu", default="0")
    parser.add_argument("--data-dir", default="dataset")
    arguments = parser.parse_args()
    ranks = Ranks(pick_device(arguments.gpu)[0])
    print(f"device {ranks.device}, {torch.get_num_threads()} threads, seeds 0 to {arguments.seeds - 1}")
    print(
        "| gamma_u | labeled | estimate | published rule | accepted epochs | condition | truth in interval |"
    )
    print("|---|---|---|---|---|---|---|")
    for gamma, reversed_u in CASES:
        records = []
        for seed in range(arguments.seeds):
            config = EstimateConfig(
                dataset="fashion_mnist", arch="small", imb_ratio_l=100.0, imb_ratio_u=gamma, gpu=arguments.gpu,
                imb_ratio_u_reversed=reversed_u, shuffle_split="seed", seed=seed, epochs=20, val_iteration=100,
                data_dir=arguments.data_dir,
            )  # fmt: skip
            dataset = load_dataset(config.dataset, config.data_dir)
            split = split_for(config, dataset, include_labeled=False)
            records.append(run_estimation(config, ranks, dataset, split))
            print(f"gamma_u {gamma:g} seed {seed}: {records[-1]['tv_true']:.3f}", file=sys.stderr)
        published = [tv(r["published_dist"], r["true_dist"]) for r in records if r["published_dist"]]
        inside = np.mean(
            [
                (np.array(r["low"]) <= r["true_dist"]) & (np.array(r["true_dist"]) <= r["high"])
                for r in records
            ]
        )
        cells = [
            f"{gamma:g}{' reversed' if reversed_u else ''}",
            spread([r["tv_true_of_labeled_prior"] for r in records]),
            spread([r["tv_true"] for r in records]),
            spread(published)
            + (f" ({len(published)} of {len(records)})" if len(published) < len(records) else ""),
            f"{np.mean([r['accepted_epochs'] for r in records]):.0f} of 20",
            f"{np.mean([r['condition'] for r in records]):.1f}",
            f"{inside:.0%}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


def tv(a: list[float], b: list[float]) -> float:
    return float(np.abs(np.array(a) - np.array(b)).sum() / 2)


def spread(values: list[float]) -> str:
    if not values:
        return "none"
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


if __name__ == "__main__":
    main()
