"""The input pipeline that makes `data_time` large: Pillow images, worker processes, an iterator made anew.

`--loader published` trains with it, so that its cost can be seen in W&B beside `data.loader`'s. Two torch DataLoaders
with 4 worker processes each, `drop_last`, one image at a time. When an iterator is exhausted, a new one is made: the
workers are ended and others started. Labeled images that fill one batch are exhausted at every step.

Fewer images than a batch: with `drop_last` such a loader would be empty, and the first step would raise StopIteration.
Here the set is repeated as often as it takes to fill one batch, as the device loader does too.

What it cannot do is go on exactly: workers have their own random states, and the place within a pass is lost. A
resumed run goes on with other batches than an uninterrupted one.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from data.augment import CUTOUT_PARTS, PAD_PARTS
from data.loader import Batch, View
from data.pillow_augment import PillowRandAugment

WORKERS = 4


class PublishedLoader:
    """Batches of the published views by worker processes; `data.loader.Loader`'s interface.

    The arguments are those of `Loader`, without `augment`. randaugment: "published" is the list of 16 with `num_ops`
    and `magnitude`; "package" is the PyPI package `randaugment`, which knows neither of the two. workers: processes of
    each of the two DataLoaders. Raises ValueError for an empty set, ImportError where the package is missing.
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
        full_x: Tensor | None = None,
        full_u: Tensor | None = None,
        randaugment: str = "published",
        device: torch.device | str,
        seed: int,
        workers: int = WORKERS,
    ) -> None:
        self.device = torch.device(device)
        self.views_x, self.views_u = tuple(views_x), tuple(views_u)
        self.num_ops, self.magnitude = num_ops, magnitude
        operations = PillowRandAugment(num_ops, magnitude) if randaugment == "published" else packaged()
        recipes = pillow_views(operations, images_x.shape[-1], mean, std, flip=flip)
        self._generator = torch.Generator().manual_seed(seed)
        sets = (
            PillowViews(images_x, full_x, labels_x, [(kind, recipes[kind]) for kind in views_x], batch_size),
            PillowViews(images_u, full_u, None, [(kind, recipes[kind]) for kind in views_u], batch_size),
        )
        self._loaders = [
            DataLoader(
                part,
                batch_size,
                shuffle=True,
                drop_last=True,
                num_workers=workers,
                worker_init_fn=_leave_ctrl_c_to_the_run,
                generator=self._generator,
            )
            for part in sets
        ]
        self._iterators: list[Any] = [None, None]

    def next(self) -> Batch:
        """The next batch, on the device."""
        (views_x, labels_x), (views_u, index_u) = self._batch_of(0), self._batch_of(1)
        return Batch(
            tuple(view.to(self.device) for view in views_x),
            labels_x.to(self.device),
            tuple(view.to(self.device) for view in views_u),
            index_u.to(self.device),
        )

    def _batch_of(self, slot: int) -> tuple[list[Tensor], Tensor]:
        """The trouble, as published: what is exhausted is replaced by a new iterator with new processes."""
        if self._iterators[slot] is None:
            self._iterators[slot] = iter(self._loaders[slot])
        batch = next(self._iterators[slot], None)
        if batch is None:
            self._iterators[slot] = iter(self._loaders[slot])
            batch = next(self._iterators[slot])
        views, number = batch
        return views, number

    def state_dict(self) -> dict[str, Any]:
        """The generator that the orders and the workers' seeds come from; not the place within a pass."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Start new passes, in an order that the saved run had not come to."""
        self._generator.set_state(state["generator"].cpu())
        self._iterators = [None, None]


class PillowViews(TorchDataset):
    """Item i: the views of image i mod n, and its label, or its position where there are no labels.

    images: uint8 [n, 3, H, W]; full: the same at a larger size, for the strong views; labels: int64 [n]. The length is
    n, or the multiple of n that fills one batch.
    """

    def __init__(
        self,
        images: Tensor,
        full: Tensor | None,
        labels: Tensor | None,
        views: Sequence[tuple[View, Callable[[Image.Image], Tensor]]],
        batch_size: int,
    ) -> None:
        if len(images) < 1:
            raise ValueError("there are no images to draw from; a set needs at least one")
        # NumPy arrays are shared with forked workers; Pillow images would be copied as they are touched.
        self.images = {
            "weak": _channels_last(images),
            "strong": _channels_last(images if full is None else full),
        }
        self.numbers = range(len(images)) if labels is None else labels.tolist()
        self.views = views
        self.copies = -(-batch_size // len(images))

    def __len__(self) -> int:
        return len(self.numbers) * self.copies

    def __getitem__(self, item: int) -> tuple[list[Tensor], int]:
        row = item % len(self.numbers)
        return [view(Image.fromarray(self.images[kind][row])) for kind, view in self.views], self.numbers[row]


def pillow_views(
    operations: Callable[[Image.Image], Image.Image],
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    flip: bool,
) -> dict[View, Callable[[Image.Image], Tensor]]:
    """Weak and strong view of one Pillow image: float32 [3, size, size], normalised."""
    from torchvision import transforms  # here: it takes a second, and few runs use this loader

    moved = [
        transforms.RandomCrop(size, padding=size // PAD_PARTS),
        *([transforms.RandomHorizontalFlip()] if flip else []),
    ]
    normalised = [transforms.ToTensor(), transforms.Normalize(tuple(mean), tuple(std))]
    return {
        "weak": transforms.Compose([*moved, *normalised]),
        "strong": transforms.Compose([operations, transforms.Resize(size), *moved, *normalised, _cut_out]),
    }


def packaged() -> Callable[[Image.Image], Image.Image]:
    """The operations of the PyPI package `randaugment` 1.0.2, which is not the code that the notes link to.

    Its 15 operations come in pairs with one of 9 magnitudes each, both drawn, and each is applied with probability 0.5:
    there is no (n, m). It uses `np.int`, which NumPy removed in 1.24. The name is given back here, before the workers
    are forked from this process. Raises ImportError where the package is not installed.
    """
    if not hasattr(np, "int"):
        setattr(np, "int", int)  # noqa: B010, because mypy knows that NumPy has no such name
    from randaugment.randaugment import RandAugment

    augment: Callable[[Image.Image], Image.Image] = RandAugment()
    return augment


def _cut_out(image: Tensor) -> Tensor:
    """A square of zeros, the mean colour, in a normalised image [3, H, W]; its centre is anywhere."""
    side = image.shape[2] // CUTOUT_PARTS
    top, left = (int(torch.randint(length, ())) - side // 2 for length in image.shape[1:])
    image[:, max(0, top) : top + side, max(0, left) : left + side] = 0
    return image


def _channels_last(images: Tensor) -> np.ndarray:
    array: np.ndarray = images.permute(0, 2, 3, 1).numpy()
    return array if images.shape[-1] > 32 else np.ascontiguousarray(array)


def _leave_ctrl_c_to_the_run(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the run itself ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
