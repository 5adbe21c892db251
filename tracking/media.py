"""Pictures of a run beside its rows: confusion matrices, the pseudo-labels worth looking at, some views.

The run's folder keeps the newest (`media.npz`), so that they can be sent later. `tracking.pictures` makes them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tracking.local import replacing

if TYPE_CHECKING:  # who sends what is kept needs no torch, whose import takes seconds
    from torch import Tensor

MEDIA_FILE = "media.npz"


class MediaSource(Protocol):
    """What a run shows between two epochs. Nothing of it changes the training."""

    def views(self) -> tuple[Tensor, list[tuple[str, Tensor]]]:
        """Some images, uint8 [n, 3, H, W] on the CPU, and the views that training makes of them, each by its kind."""

    def confusions(self) -> Mapping[str, Tensor]:
        """Counts [K, K] of the last evaluation (row: true class, column: predicted) of test, orig and refined; empty
        before the first."""

    def pseudo_labels(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """This process's rows: orig and refined [N, K], visited [N] bool, true classes int64 [N] (None: unknown)."""

    def images(self, rows: Tensor) -> Tensor:
        """Unlabeled images, uint8 [n, 3, H, W] on the CPU, by their rows int64 [n] in the tables."""


@runtime_checkable
class TakesMedia(Protocol):
    """A tracker that shows pictures."""

    def take_media(self, source: MediaSource) -> None: ...


@dataclass(frozen=True)
class Examples:
    """Pseudo-labels worth looking at, the most wrong ones first, then the least sure ones.

    Attributes:
        wrong: bool [n], whether it is one of the most wrong ones.
        row, true: int64 [n], its row in the tables and its class (-1: not known).
        image: uint8 [n, H, W, 3].
        orig, refined: float32 [n, K], its pseudo-label before and after the refinement.
    """

    wrong: NDArray[np.bool_]
    row: NDArray[np.int64]
    true: NDArray[np.int64]
    image: NDArray[np.uint8]
    orig: NDArray[np.float32]
    refined: NDArray[np.float32]


@dataclass(frozen=True)
class Media:
    """What is kept and sent.

    Attributes:
        grid, grid_rows: uint8 [H, W, 3], one column an image; and what each row is. Made at the start.
        confusions: counts int64 [K, K] by what is compared with the truth: test, orig, refined.
    """

    grid: NDArray[np.uint8] | None = None
    grid_rows: Sequence[str] = ()
    confusions: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    examples: Examples | None = None

    def write(self, folder: Path) -> None:
        """Raises OSError when the disk does not take it; the file before stays then."""
        arrays: dict[str, Any] = {f"confusion/{name}": counts for name, counts in self.confusions.items()}
        if self.grid is not None:
            arrays |= {"grid": self.grid, "grid_rows": np.array(self.grid_rows)}
        if self.examples is not None:
            arrays |= {f"example/{name}": value for name, value in vars(self.examples).items()}
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / MEDIA_FILE) as file:
            np.savez_compressed(file, **arrays)


def read_media(folder: Path) -> Media:
    """The newest pictures of a run's folder; none where there are none that can be read."""
    try:
        with np.load(folder / MEDIA_FILE) as kept:
            arrays = dict(kept)
        examples = _below("example", arrays)
        return Media(
            grid=arrays.get("grid"),
            grid_rows=arrays["grid_rows"].tolist() if "grid" in arrays else (),
            confusions=_below("confusion", arrays),
            examples=Examples(**examples) if examples else None,
        )
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
        return Media()


def read_confusions(folder: Path) -> dict[str, NDArray[np.int64]]:
    """The confusion matrices of `read_media` alone; pictures are not unpacked."""
    try:
        with np.load(folder / MEDIA_FILE) as kept:
            return {
                name.partition("/")[2]: kept[name] for name in kept.files if name.startswith("confusion/")
            }
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return {}


def _below(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(f"{prefix}/"): value for key, value in arrays.items() if key.startswith(prefix)}
