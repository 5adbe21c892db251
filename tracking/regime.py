"""The name of a regime: what decides how many labels there are and how they are spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def regime_name(config: Mapping[str, Any]) -> str:
    """Data set, ratio, num_max and both imbalances, such as `cifar10_r2_n1500_il1_iu1`.

    Method, refinement and seed are not part of it. It stands in a run's folder name, names a cached estimate, and is
    the W&B group.
    """
    reversed_u = "rev" if config["imb_ratio_u_reversed"] else ""
    return (
        f"{config['dataset']}_r{config['ratio']:g}_n{config['num_max']}"
        f"_il{config['imb_ratio_l']:g}_iu{config['imb_ratio_u']:g}{reversed_u}"
    )
