"""Retrain the head of a finished run on its labels (cRT), the backbone's weights frozen.

Example: python3 retrain_head.py result/NAME      (its rows go to result/NAME_crt)
"""

import environment  # noqa: F401  (first: it says what to do where packages are missing)

import atexit
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from semi.commands import retrain_head
from semi.config import ConfigError, WandbOptions
from tracking.base import Tracker


def wandb_tracker(folder: Path, options: WandbOptions) -> Sequence[Tracker]:
    # here, because importing wandb takes half a second
    from tracking.online.timeout import close_sdk
    from tracking.online.tracker import WandbTracker

    atexit.register(close_sdk)
    os.environ.setdefault("WANDB_JOB_TYPE", "crt")
    try:
        tracker = WandbTracker(
            folder,
            mode=options.wandb_mode,
            project=options.wandb_project,
            entity=options.wandb_entity,
            group=options.wandb_group,
            tags=[tag for tag in (*options.wandb_tags.split(","), "crt") if tag],
            machine_info=options.wandb_machine_info,
            per_class=options.wandb_per_class,
            media=False,
        )
    except ValueError as error:  # what W&B would not take
        raise ConfigError(str(error)) from None
    return [tracker]


if __name__ == "__main__":
    sys.exit(retrain_head(__doc__, WandbOptions, more=wandb_tracker))
