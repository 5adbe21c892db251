"""The configuration of retrain_head.py. Each field is also a flag, as in `semi.config`."""

from __future__ import annotations

from dataclasses import dataclass

from semi.config import ABOVE_ZERO, LARGEST_BATCH, MANY, ConfigError, flag, require_gpu, require_sound

RECIPES: dict[str, dict[str, float]] = {
    "published": {"epochs": 20, "val_iteration": 500, "lr": 0.002},
    "balanced": {"epochs": 10, "val_iteration": 100, "lr": 0.1},
}


@dataclass(frozen=True)
class HeadConfig:
    """The head's training; all else is as the checkpoint's run had it, the seed too."""

    checkpoint: str = flag(
        "",
        "Folder of a finished run, or its checkpoint.pt. The flag may be left out.",
        flags=["pre_trained"],
    )
    recipe: str = flag(
        "published",
        "published: natural sampling, mixup, weighted loss, Adam. balanced: class-balanced sampling, SGD.",
        choices=tuple(RECIPES),
    )
    epochs: int | None = flag(
        None,
        "Number of epochs. None: 20 with published, 10 with balanced.",
        flags=["epoch"],
        minimum=1,
        maximum=MANY,
    )
    val_iteration: int | None = flag(
        None,
        "Steps in an epoch. None: 500 with published, 100 with balanced.",
        flags=["val-iteration"],
        minimum=1,
        maximum=MANY,
    )
    batch_size: int = flag(
        64, "Labeled images in a step.", flags=["batch-size"], minimum=1, maximum=LARGEST_BATCH
    )
    lr: float | None = flag(
        None,
        "Learning rate. None: 0.002 with published (Adam), 0.1 with balanced (SGD, falls to 0 along a cosine).",
        flags=["learning-rate"],
        minimum=ABOVE_ZERO,
        maximum=1e3,
    )
    mix_alpha: float = flag(
        0.75, "published: both parameters of mixup's Beta distribution.", minimum=0.001, maximum=1e3
    )
    ema_decay: float = flag(
        0.999, "published: decay of the averaged weights that are scored.", flags=["ema-decay"]
    )
    gpu: str = flag("0", "Number of the GPU among the visible ones. cpu: use none.")
    data_dir: str = flag("", "Folder of the image files. Empty: where the run had it.", flags=["data-dir"])
    plugin: str = flag("", "Python file of your own that has the run's method or data set.")
    overwrite: bool = flag(False, "Retrain again. The old folder is kept.")
    wandb: bool = flag(False, "Log to W&B too, in the run's group, with the job type crt.")

    def __post_init__(self) -> None:
        if not self.checkpoint:
            raise ConfigError("no run is named; use retrain_head.py RUN_FOLDER")
        require_sound(self)
        for name, value in RECIPES[self.recipe].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"--ema-decay {self.ema_decay}: use a value in [0, 1)")
        require_gpu(self.gpu)
