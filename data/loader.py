"""Endless batches of augmented views, made on the device where the images live.

The images stay there as uint8, and so do the random generator and the permutations: a step copies nothing
from the host and waits for nothing. Its cost does not depend on how many labeled images there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from data.augment import normalize, strong, weak

View = Literal["weak", "strong"]


@dataclass(frozen=True)
class Batch:
    """One step's images, normalised. Views of one image stand in the same row of every tensor."""

    views_x: tuple[Tensor, ...]
    """Labeled images, each float32 [B, 3, H, W]."""
    labels_x: Tensor
    """Classes of the labeled images, int64 [B]."""
    views_u: tuple[Tensor, ...]
    """Unlabeled images, each float32 [B, 3, H, W]."""
    index_u: Tensor
    """Positions of the unlabeled images in the unlabeled set, 0..n_u-1, int64 [B]."""


class EndlessOrder:
    """Positions 0..n-1 without end, in a new order each pass; a batch may span passes.

    Every position comes once before any comes again. With fewer positions than a batch, all the passes that a
    batch needs are drawn at once, so that a step costs the same for one image as for many. The bookkeeping is
    in Python integers, known without asking the device.
    """

    def __init__(self, n: int, batch_size: int, generator: torch.Generator) -> None:
        if n < 1:
            raise ValueError("there are no images to draw from; a set needs at least one")
        self.n = n
        self.batch_size = batch_size
        self._generator = generator
        self._passes = -(-batch_size // n)
        self._order = torch.empty(0, dtype=torch.int64, device=generator.device)
        self._used = 0

    def next(self) -> Tensor:
        """int64 [batch_size] on the generator's device."""
        rest = len(self._order) - self._used
        if rest < self.batch_size:
            # Sorting random keys gives a permutation of each row in one call, for any number of rows.
            keys = torch.rand(self._passes, self.n, generator=self._generator, device=self._generator.device)
            self._order = torch.cat([self._order[self._used :], keys.argsort(dim=1).flatten()])
            self._used = 0
        batch = self._order[self._used : self._used + self.batch_size]
        self._used += self.batch_size
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"n": self.n, "order": self._order[self._used :].cpu().clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._order = state["order"].to(self._generator.device)
        self._used = 0


class Loader:
    """Labeled and unlabeled batches for one training step after another.

    images_x, images_u: uint8 [n, 3, H, W]; labels_x: int64 [n_x]; all are moved to `device` and kept there.
    views_x, views_u: which views of each image a batch holds, in order, such as ("weak", "strong", "strong").
    mean, std: of the three channels, on the scale 0..1. num_ops, magnitude: of the strong view (see
    `data.augment`). The sequence of batches depends on `seed`, the arguments and the kind of device, and on
    nothing else. Raises ValueError for an empty set, labels that do not match the images, or an unknown view.
    """

    def __init__(
        self,
        images_x: Tensor,
        labels_x: Tensor,
        images_u: Tensor,
        *,
        views_x: Sequence[View],
        views_u: Sequence[View],
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        flip: bool,
        num_ops: int = 3,
        magnitude: int = 4,
        device: torch.device | str,
        seed: int,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size}: a batch holds at least one image")
        if len(labels_x) != len(images_x):
            raise ValueError(
                f"{len(labels_x)} labels for {len(images_x)} labeled images; give one label an image"
            )
        for view in (*views_x, *views_u):
            if view not in ("weak", "strong"):
                raise ValueError(f"view {view!r} is unknown; use 'weak' or 'strong'")
        self.device = torch.device(device)
        self.views_x, self.views_u = tuple(views_x), tuple(views_u)
        self.num_ops, self.magnitude, self.flip = num_ops, magnitude, flip
        self._images_x = images_x.to(self.device)
        self._labels_x = labels_x.to(self.device)
        self._images_u = images_u.to(self.device)
        self._mean = torch.tensor(mean, dtype=torch.float32, device=self.device)
        self._std = torch.tensor(std, dtype=torch.float32, device=self.device)
        self._generator = torch.Generator(device=self.device).manual_seed(seed)
        self._orders = {
            "labeled": EndlessOrder(len(images_x), batch_size, self._generator),
            "unlabeled": EndlessOrder(len(images_u), batch_size, self._generator),
        }

    def next(self) -> Batch:
        """The next batch, on the device."""
        with _one_thread():
            return self._next()

    def _next(self) -> Batch:
        index_x, index_u = self._orders["labeled"].next(), self._orders["unlabeled"].next()
        images = [self._images_x[index_x]] * len(self.views_x) + [self._images_u[index_u]] * len(self.views_u)
        views = self._augmented(images, self.views_x + self.views_u)
        split = len(self.views_x)
        return Batch(tuple(views[:split]), self._labels_x[index_x], tuple(views[split:]), index_u)

    def _augmented(self, images: Sequence[Tensor], kinds: Sequence[View]) -> list[Tensor]:
        """All weak views in one call and all strong ones in another: each image has its own draw in any
        case."""
        out: list[Tensor] = list(images)
        for kind in ("weak", "strong"):
            slots = [i for i, k in enumerate(kinds) if k == kind]
            if not slots:
                continue
            batch = torch.cat([images[i] for i in slots])
            if kind == "weak":
                batch = weak(batch, self._generator, flip=self.flip)
            else:
                batch = strong(
                    batch, self._generator, flip=self.flip, num_ops=self.num_ops, magnitude=self.magnitude
                )
            views = normalize(batch, self._mean, self._std).split([len(images[i]) for i in slots])
            for i, view in zip(slots, views, strict=True):
                out[i] = view
        return out

    def state_dict(self) -> dict[str, Any]:
        """All that the coming batches depend on, tensors on the CPU: the generator and what is left of each
        pass."""
        orders = {name: order.state_dict() for name, order in self._orders.items()}
        return {"generator": self._generator.get_state(), **orders}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken, given the same images and arguments.

        Raises ValueError, and changes nothing, when the state is of another number of images or another kind
        of device.
        """
        generator_state = state["generator"].cpu()
        if generator_state.numel() != self._generator.get_state().numel():
            raise ValueError(
                f"the saved random state is not one of a {self.device.type} device; "
                "resume on the kind of device that the run was started on"
            )
        for name, order in self._orders.items():
            if state[name]["n"] != order.n:
                raise ValueError(
                    f"the saved loader drew from {state[name]['n']} {name} images, this one has {order.n}; "
                    "resume with the data set, num_max, ratio and imbalance of the saved run"
                )
        for name, order in self._orders.items():
            order.load_state_dict(state[name])
        self._generator.set_state(generator_state)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Work on one CPU thread for a while.

    A batch is some four hundred operations of a few hundredths of a millisecond. Shared between threads, each
    of them waits for the last thread to be scheduled, and on cores that others use too a step takes many times
    as long. On a GPU this changes nothing.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
