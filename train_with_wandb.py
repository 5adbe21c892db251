"""The same job as train.py, logged to W&B each epoch. Offline without an account; there is never a prompt.

Example: python3 train_with_wandb.py --config configs/digits_regime_few.yaml --darp
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from semi.config import WandbOptions
from semi.entry import train
from tracking.base import Tracker
from tracking.wandb_artifacts import fetch_checkpoint
from tracking.wandb_tracker import WandbTracker


def wandb_tracker(folder: Path, consumed: str, options: WandbOptions) -> Sequence[Tracker]:
    tracker = WandbTracker(
        folder,
        mode=options.wandb_mode,
        project=options.wandb_project,
        entity=options.wandb_entity,
        group=options.wandb_group,
        tags=[tag for tag in options.wandb_tags.split(",") if tag],
        machine_info=options.wandb_machine_info,
        artifacts=options.wandb_artifacts,
        charts=options.wandb_charts,
        consumed=consumed,
    )
    return [tracker]


if __name__ == "__main__":
    sys.exit(train(__doc__, WandbOptions, more=wandb_tracker, fetch=fetch_checkpoint))
