"""Estimate the class distribution of the unlabeled images from a network that learns from the labels alone.

The estimate is cached for `train.py --est`, and logged to W&B as a run of job type estimate. Example:
python3 estimate.py --dataset fashion_mnist --arch small --imb_ratio_u 1 --epochs 20 --val-iteration 100
"""

import environment  # noqa: F401  (first: it says what to do where packages are missing)

import sys
from pathlib import Path
from typing import Any

from semi.commands import estimate
from semi.config import WandbOptions
from tracking.online.timeout import close_sdk


def log(path: Path, record: dict[str, Any], options: WandbOptions) -> None:
    from tracking.online.estimate import log_estimate  # here, because importing wandb takes half a second

    log_estimate(
        path,
        record,
        mode=options.wandb_mode,
        project=options.wandb_project,
        entity=options.wandb_entity,
        machine_info=options.wandb_machine_info,
    )


if __name__ == "__main__":
    code = estimate(__doc__, WandbOptions, more=log)
    close_sdk()
    sys.exit(code)
