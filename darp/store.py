"""The two tables of pseudo-labels: what the model said (`orig`) and what training uses (`refined`)."""

from __future__ import annotations

import torch
from torch import Tensor


class PseudoLabelStore:
    """One row for each unlabeled image, on one device.

    Attributes:
        orig: [N, K], rows sum to 1; uniform until the row's image was guessed for the first time.
        visited: [N] bool, whether the image was guessed yet. Unvisited rows are uniform and flatter `orig`.
    """

    def __init__(self, num_rows: int, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.orig = torch.full((num_rows, num_classes), 1.0 / num_classes, device=device)
        self.visited = torch.zeros(num_rows, dtype=torch.bool, device=device)
        self._refined: Tensor | None = None

    @property
    def refined(self) -> Tensor:
        """[N, K], the rows of the last refinement; `orig` itself as long as there was none."""
        return self.orig if self._refined is None else self._refined

    @refined.setter
    def refined(self, table: Tensor) -> None:
        self._refined = table

    def update(self, index: Tensor, probs: Tensor) -> None:
        """Overwrite rows `index` [B] of `orig` with `probs` [B, K]. Nothing is copied but these rows."""
        self.orig[index] = probs
        self.visited[index] = True

    def state_dict(self) -> dict[str, Tensor]:
        state = {"orig": self.orig, "visited": self.visited}
        if self._refined is not None:
            state["refined"] = self._refined
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.orig.copy_(state["orig"])
        self.visited.copy_(state["visited"])
        refined = state.get("refined")
        self._refined = None if refined is None else refined.to(self.orig.device)
