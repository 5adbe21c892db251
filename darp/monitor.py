"""Pseudo-labels of any training loop, watched: what the model says of each unlabeled image, class by class.

>>> monitor = PseudoLabelMonitor(num_rows=50_000, num_classes=10)
>>> for epoch in range(epochs):
...     for index, images in loader:  # index: positions in the unlabeled set
...         probs = model(images).softmax(1)
...         monitor.update(index, probs)
...     monitor.log(wandb, epoch)
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from darp.pseudo_labels import pseudo_label_metrics


class PseudoLabelMonitor:
    """The last guess of each unlabeled row, and what it says of the classes.

    `update` costs a write of B rows, waits for nothing and keeps no graph. `row` reads the tables once, at an epoch's
    end say. The keys are those of this project's own runs, so `report.py` reads them too.

    Under `torch.distributed` each process updates the rows that it sees. `row` and `log` must then be called by all
    of them; a row that several have seen counts with the mean of their guesses.

    Args:
        num_rows: unlabeled images N. Unvisited rows are uniform, as `pseudo/coverage` tells.
        num_classes: K.
        true_labels: int [N], where they are known, for diagnosis alone.
        target_counts: [K], sums to N: the class counts that the pseudo-labels should have, where one is known.
        tau: confidence from which a pseudo-label counts as selected.

    Raises ValueError, one line, for labels or counts that do not fit N and K.
    """

    def __init__(
        self,
        num_rows: int,
        num_classes: int,
        true_labels: Tensor | Sequence[int] | None = None,
        *,
        target_counts: Tensor | Sequence[float] | None = None,
        tau: float = 0.95,
    ) -> None:
        if num_rows < 1 or num_classes < 2:
            raise ValueError(
                f"num_rows {num_rows}, num_classes {num_classes}: use at least one row and two classes"
            )
        self.num_rows, self.num_classes, self.tau = num_rows, num_classes, tau
        self._true = None if true_labels is None else self._labels(true_labels)
        self._target = None if target_counts is None else self._counts(target_counts)
        self._orig: Tensor | None = None  # made on the device of the first guesses
        self._refined: Tensor | None = None
        self._visited = torch.zeros(num_rows, dtype=torch.bool)

    def update(self, index: Tensor, probs: Tensor, refined: Tensor | None = None) -> None:
        """Keep the guesses of a batch.

        Args:
            index: int64 [B], positions of the rows in the unlabeled set, 0..N-1.
            probs: [B, K], rows sum to 1: what the model says (after softmax).
            refined: [B, K], what training uses in their place, if it is something else.

        Raises ValueError where the shapes do not fit.
        """
        self._check(index, probs, "probs")
        if self._orig is None:
            self._orig = probs.new_full(
                (self.num_rows, self.num_classes), 1 / self.num_classes, dtype=torch.float32
            )
            self._visited = self._visited.to(probs.device)
        index = index.to(self._orig.device)
        if refined is not None:
            self._check(index, refined, "refined")
            if self._refined is None:
                self._refined = self._orig.clone()
            self._refined[index] = refined.detach().to(self._refined)
        elif self._refined is not None:
            self._refined[index] = probs.detach().to(self._refined)
        self._orig[index] = probs.detach().to(self._orig)
        self._visited[index] = True

    @property
    def orig(self) -> Tensor:
        """[N, K], the last guess of each row; of this process's rows. What `darp.refine` takes."""
        if self._orig is None:
            raise ValueError("the monitor has no guesses yet: call update first")
        return self._orig

    def row(self) -> dict[str, float]:
        """Plain numbers for any tracker. `pseudo/orig/3` is the share of class 3 in the guesses, and so on."""
        return {key: value for key, value in self._metrics().items() if not isinstance(value, list)}

    def log(self, run: Any, epoch: int, extra: Mapping[str, Any] | None = None) -> None:
        """Log an epoch to a run of W&B or trackio, or to either's module, with histograms whose bins are the classes.

        Each class's own numbers are in the histograms; `row` has them as numbers. `extra` goes into the same call,
        such as the loss. In a distributed run the processes other than the first give None for `run`.
        """
        metrics = self._metrics()
        if run is None:
            return
        tracker = (
            run
            if isinstance(run, ModuleType)
            else importlib.import_module(type(run).__module__.split(".")[0])
        )
        edges = np.arange(self.num_classes + 1) - 0.5
        shown: dict[str, Any] = {"epoch": epoch}
        for key, value in metrics.items():
            if isinstance(value, list):
                shown[key] = tracker.Histogram(np_histogram=(np.array(value), edges))
            elif not key.rsplit("/", 1)[-1].isdigit():
                shown[key] = value
        run.log({**shown, **(extra or {})})

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint needs; of this process's rows."""
        state = {"orig": self._orig, "refined": self._refined, "visited": self._visited}
        return {name: tensor for name, tensor in state.items() if tensor is not None}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken. Raises ValueError where it is of another number of rows or classes."""
        shape = (self.num_rows, self.num_classes)
        for name in ("orig", "refined"):
            if name in state and tuple(state[name].shape) != shape:
                found = " x ".join(str(n) for n in state[name].shape)
                raise ValueError(
                    f"the saved monitor holds {found}, this one {shape[0]} x {shape[1]}: make it with the saved numbers"
                )
        self._orig, self._refined = (
            state[name].clone() if name in state else None for name in ("orig", "refined")
        )
        self._visited = state["visited"].clone()

    def _metrics(self) -> dict[str, float | list[float]]:
        orig, refined, visited = self._of_all_processes()
        return pseudo_label_metrics(
            orig, refined, visited, self._target, self._true_on(orig.device), self.tau
        )

    def _of_all_processes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Both tables and which rows were visited, over all processes."""
        orig = self._orig
        if orig is None:
            orig = torch.full((self.num_rows, self.num_classes), 1 / self.num_classes)
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return orig, orig if self._refined is None else self._refined, self._visited
        times = self._visited.to(orig)
        both = torch.cat([orig, orig if self._refined is None else self._refined], 1) * times.unsqueeze(1)
        dist.all_reduce(both)
        dist.all_reduce(times)
        visited = times > 0
        mean = both / times.clamp(min=1).unsqueeze(1)
        mean[~visited] = 1 / self.num_classes
        return mean[:, : self.num_classes], mean[:, self.num_classes :], visited

    def _true_on(self, device: torch.device) -> Tensor | None:
        if self._true is not None:
            self._true = self._true.to(device)
        return self._true

    def _check(self, index: Tensor, probs: Tensor, name: str) -> None:
        if probs.dim() != 2 or probs.shape[1] != self.num_classes or index.shape != probs.shape[:1]:
            raise ValueError(
                f"index {list(index.shape)}, {name} {list(probs.shape)}: "
                f"give as many positions as rows, and rows of {self.num_classes} classes"
            )

    def _labels(self, true_labels: Tensor | Sequence[int]) -> Tensor:
        labels = torch.as_tensor(true_labels)
        if labels.shape != (self.num_rows,):
            raise ValueError(
                f"true_labels {list(labels.shape)}: give one label for each of {self.num_rows} rows"
            )
        if labels.is_floating_point() or labels.min() < 0 or labels.max() >= self.num_classes:
            raise ValueError(f"true_labels: give whole numbers from 0 to {self.num_classes - 1}, or None")
        return labels.long()

    def _counts(self, target_counts: Tensor | Sequence[float]) -> list[float]:
        counts = torch.as_tensor(target_counts, dtype=torch.float64)
        if counts.shape != (self.num_classes,) or not bool((counts >= 0).all()):
            raise ValueError(
                f"target_counts {list(counts.shape)}: give {self.num_classes} counts, none below 0"
            )
        if not torch.isclose(
            counts.sum(), torch.tensor(float(self.num_rows), dtype=torch.float64), rtol=1e-6
        ):
            raise ValueError(
                f"target_counts sum to {float(counts.sum()):g}: multiply them so that they sum to {self.num_rows}"
            )
        values: list[float] = counts.tolist()
        return values
