"""The monitor as a hook of USB (semilearn 0.3), for algorithms whose masking hook sees the guesses, such as FixMatch.

    algorithm = get_algorithm(config, get_net_builder(...), None, None)
    algorithm.register_hook(PseudoLabelHook(len(unlabeled), num_classes, labels, run=wandb))
    Trainer(config, algorithm).fit(...)

semilearn trains on a GPU only. It is not among this project's requirements: it brings transformers, timm and aim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from semilearn.core.hooks import Hook

from darp import PseudoLabelMonitor


class PseudoLabelHook(Hook):
    """Watches the guesses of the weak views, and prints (or logs to `run`) what they say of the classes each epoch."""

    def __init__(
        self, num_rows: int, num_classes: int, true_labels: Sequence[int] | None = None, run: Any = None
    ) -> None:
        super().__init__()
        self.monitor = PseudoLabelMonitor(num_rows, num_classes, true_labels)
        self.run = run
        self.index = torch.empty(0, dtype=torch.int64)

    def before_run(self, algorithm: Any) -> None:
        """Listen where the algorithm takes a batch, for the positions, and where it masks, for the guesses."""
        process_batch, masking = algorithm.process_batch, algorithm.hooks_dict["MaskingHook"].masking

        def listening_batch(**batch: Any) -> Any:
            self.index = batch["idx_ulb"]
            return process_batch(**batch)

        def listening_mask(algorithm: Any, logits_x_ulb: torch.Tensor, *rest: Any, **options: Any) -> Any:
            is_logits = options.get("softmax_x_ulb", True)
            self.monitor.update(
                self.index, algorithm.compute_prob(logits_x_ulb) if is_logits else logits_x_ulb
            )
            return masking(algorithm, logits_x_ulb, *rest, **options)

        algorithm.process_batch = listening_batch
        algorithm.hooks_dict["MaskingHook"].masking = listening_mask

    def after_train_epoch(self, algorithm: Any) -> None:
        """By all processes of a distributed run; the first one speaks."""
        row = self.monitor.row()
        if algorithm.rank == 0:
            shown = {
                key: row[key] for key in ("pseudo/coverage", "pseudo/orig/entropy", "pseudo/orig/imbalance")
            }
            algorithm.print_fn(f"epoch {algorithm.epoch}: {shown}")
        self.monitor.log(self.run if algorithm.rank == 0 else None, algorithm.epoch)
