"""A trained network out of a run's checkpoint, with the data that it was trained and is tested on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from data import Dataset, normalize
from models import Classifier, build_model
from semi import checkpoint
from semi.checkpoint import CheckpointError
from semi.config import Config, ConfigError
from semi.device import computes_in_bf16
from semi.split import dataset_for


@dataclass(frozen=True)
class Trained:
    """The averaged weights of a run, frozen and in evaluation mode, on `device`."""

    path: Path
    config: Config
    epoch: int  # the last one that was trained
    dataset: Dataset
    model: Classifier
    device: torch.device
    test_shift: Tensor | None  # [K], what the run's refinery adds to test logits

    def test_set(self) -> tuple[Tensor, Tensor]:
        """Normalised float32 [M, 3, 32, 32] and int64 [M], on the device."""
        data = self.dataset
        return normalize(data.test_images.to(self.device), data.mean, data.std), data.test_labels.to(
            self.device
        )


def checkpoint_of(run: Path) -> Path:
    """The checkpoint of a run: `run` itself, or its `checkpoint.pt` where it is a folder."""
    return run / "checkpoint.pt" if run.is_dir() else run


def load_trained(path: Path, device: torch.device, data_dir: str = "") -> Trained:
    """Read a `checkpoint.pt`; the data set is looked for where the run had it unless `data_dir` is given.

    Raises CheckpointError or DataError, one line each.
    """
    state = checkpoint.load(path, said="")
    known = {field.name for field in dataclasses.fields(Config)}
    try:
        config = Config(**{name: value for name, value in state["config"].items() if name in known})
        weights, epoch = state["ema"], int(state["epoch"])
    except ConfigError as error:  # a name that only the run's own file knows, most likely
        raise CheckpointError(
            f"{path}: {error}, or name the file that it comes from: --plugin FILE"
        ) from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not the checkpoint of a training run ({error})") from None
    dataset = dataset_for(replace(config, data_dir=data_dir) if data_dir else config)
    bf16 = computes_in_bf16(config.amp, device)  # as its own evaluations were made
    model = build_model(config.arch, len(dataset.class_names), bf16=bf16).to(device)
    try:
        model.load_state_dict(weights)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"{path}: its weights do not fit --arch {config.arch} ({str(error).splitlines()[0]})"
        ) from None
    model.eval().requires_grad_(False)
    shift: Tensor | None = state.get("test_shift")
    shift = None if shift is None else shift.to(device)
    return Trained(path, config, epoch, dataset, model, device, shift)
