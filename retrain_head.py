"""Retrain the head of a finished run on its labels (cRT), the backbone's weights frozen.

Example: python3 retrain_head.py result/NAME      (its rows go to result/NAME_crt)
"""

import environment  # noqa: F401  (first: it says what to do where packages are missing)

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from semi.commands import retrain_head
from semi.config import ConfigError, WandbOptions
from tracking.base import Tracker
from tracking.online.timeout import close_sdk


def wandb_tracker(folder: Path, options: WandbOptions) -> Sequence[Tracker]:
    from tracking.online.tracker import WandbTracker  # here, because importing wandb takes half a second

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
    code = retrain_head(__doc__, WandbOptions, more=wandb_tracker)
    close_sdk()
    sys.exit(code)
