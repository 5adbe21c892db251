"""Retrain the head of a finished run on balanced batches of its labels (cRT), the backbone frozen.

Example: python3 retrain_head.py result/NAME/checkpoint.pt      (its rows go to result/NAME_crt)
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from semi.config import WandbOptions
from semi.retrain import main
from tracking.base import Tracker


def wandb_tracker(folder: Path, options: WandbOptions) -> Sequence[Tracker]:
    from train_with_wandb import wandb_tracker as training_tracker  # wandb takes a second to import

    os.environ.setdefault("WANDB_JOB_TYPE", "crt")
    return training_tracker(folder, options)


if __name__ == "__main__":
    sys.exit(main(__doc__, WandbOptions, more=wandb_tracker))
