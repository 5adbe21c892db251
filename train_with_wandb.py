"""The same job as train.py, logged to W&B each epoch. Offline without an account; there is never a prompt.

Example: python3 train_with_wandb.py --config configs/digits_regime_few.yaml --darp
"""

import environment  # noqa: F401  (first: it says what to do where packages are missing)

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from semi.commands import train
from semi.config import ConfigError, WandbOptions
from tracking.base import Tracker
from tracking.online.timeout import close_sdk


def wandb_tracker(folder: Path, consumed: str, options: WandbOptions) -> Sequence[Tracker]:
    from tracking.online.account import Refused  # here and below, because importing wandb takes half a second
    from tracking.online.tracker import WandbTracker

    named = {name.removeprefix("wandb_"): value for name, value in asdict(options).items()}
    named["summary"] = options.summaries
    named["tags"] = [tag for tag in options.wandb_tags.split(",") if tag]
    try:
        return [WandbTracker(folder, consumed=consumed, **named)]
    except Refused as error:
        raise ConfigError(str(error)) from None


def fetched_checkpoint(name: str, folder: Path) -> Path:
    from tracking.online.artifacts import fetch_checkpoint

    return fetch_checkpoint(name, folder)


def fetched_estimate(name: str, folder: Path) -> Path:
    from tracking.online.estimate import fetch_estimate

    return fetch_estimate(name, folder)


if __name__ == "__main__":
    fetch = {"fetch": fetched_checkpoint, "fetch_estimate": fetched_estimate}
    code = train(__doc__, WandbOptions, more=wandb_tracker, **fetch)
    close_sdk()
    sys.exit(code)
