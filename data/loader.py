"""Endless batches of augmented views, made on the device where the images live.

The images stay there as uint8, and so do the random generator and the permutations: a step copies nothing
from the host and waits for nothing. Its cost does not depend on how many labeled images there are.

Views are made by passes that give each image the operations that it drew and no others: Triton kernels on a GPU
(`data.kernels`), machine code on a CPU (`data.compiled`), where a thread makes the next batch while the network learns
from this one. Their slow twin is operations on whole batches (`data.augment`), some hundreds of launches on a GPU. The
batches are the same either way.

Images that a GPU has no room for can stay in the host's memory (`placement`). Then a thread makes its next batch too,
on a stream of its own: the drawn rows are gathered into pinned memory and sent while the network learns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from data.archives import DataError
from data.augment import draw_centre, draw_move, normalized_values, strong_view, weak_view
from data.randaugment import LISTS, draw_operations, require_in_range

View = Literal["weak", "strong"]
PLACEMENTS = ("device", "host")
CHECKED = 256  # images on which a GPU's kernels are held against their twin: each operation some fifty times


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


class BatchSource(Protocol):
    """What training asks of a loader."""

    def next(self) -> Batch:
        """The next batch, on the device."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


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

    def rest(self) -> Tensor:
        """The positions that are drawn and not used yet. Nothing writes into them, so that this may be kept."""
        return self._order[self._used :]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._order = state["order"].to(self._generator.device)
        self._used = 0


class _State(NamedTuple):
    """Where a loader is between two batches."""

    generator: Tensor
    orders: dict[str, Tensor]


class Loader:
    """Labeled and unlabeled batches for one training step after another.

    images_x, images_u: uint8 [n, 3, H, W]; labels_x: int64 [n_x]; all are moved to `device` and kept there, or with
    placement "host" stay where they are: in the host's memory, or mapped from a file.
    views_x, views_u: which views of each image a batch holds, in order, such as ("weak", "strong", "strong").
    mean, std: of the three channels, on the scale 0..1. augment, num_ops, magnitude: of the views (see
    `data.augment`). full_x, full_u: the same images at a larger size, uint8 [n, 3, H, W], of which the strong views are
    then made; they are kept likewise. The sequence of batches depends on `seed`, these arguments and the kind of
    device, and on nothing else.

    compiled: make views by the passes of `data.kernels` on a GPU and `data.compiled` on a CPU, not by their slow twin.
    prefetch: on a CPU, or with placement "host", in a thread one batch ahead. These three change how long a step waits
    and no pixel.

    Attributes:
        notice: one sentence where a GPU cannot have the kernels, empty elsewhere. One batch of views is compared with
            the twin's, so that no GPU trains on other pixels than a CPU.

    Raises ValueError for an empty set, labels that do not match the images, an unknown view or augmentation, a number
    or magnitude of operations out of range, and DataError where the device has not enough memory for the images.
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
        augment: str = "fixmatch",
        num_ops: int = 3,
        magnitude: int = 4,
        full_x: Tensor | None = None,
        full_u: Tensor | None = None,
        device: torch.device | str,
        seed: int,
        placement: str = "device",
        compiled: bool = True,
        prefetch: bool = True,
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
        if augment not in LISTS:
            raise ValueError(f"augment {augment!r} is unknown; use one of {', '.join(LISTS)}")
        if placement not in PLACEMENTS:
            raise ValueError(f"placement {placement!r} is unknown; use one of {', '.join(PLACEMENTS)}")
        require_in_range(num_ops, magnitude)
        self.placement = placement
        self.device = torch.device(device)
        self.views_x, self.views_u = tuple(views_x), tuple(views_u)
        self.augment, self.num_ops, self.magnitude, self.flip = augment, num_ops, magnitude, flip
        self._size = images_x.shape[-1]
        # By view: a weak view is made of the small images, a strong one of the large ones, where there are any.
        self._images_x: dict[View, Tensor] = {"weak": self._stored(images_x)}
        self._images_u: dict[View, Tensor] = {"weak": self._stored(images_u)}
        self._images_x["strong"] = self._images_x["weak"] if full_x is None else self._stored(full_x)
        self._images_u["strong"] = self._images_u["weak"] if full_u is None else self._stored(full_u)
        self._labels_x = labels_x.to(self.device)
        self._mean = torch.tensor(mean, dtype=torch.float32, device=self.device)
        self._std = torch.tensor(std, dtype=torch.float32, device=self.device)
        self._generator = torch.Generator(device=self.device).manual_seed(seed)
        self._orders = {
            "labeled": EndlessOrder(len(images_x), batch_size, self._generator),
            "unlabeled": EndlessOrder(len(images_u), batch_size, self._generator),
        }
        self._normal = normalized_values(self._mean, self._std)
        self._make = self._compiled if compiled else self._batched
        self.notice = ""
        on_cpu = self.device.type == "cpu"
        if compiled and not on_cpu and (fault := self._fault()):
            self._make = self._batched
            self.notice = (
                f"views on {self.device} take hundreds of launches a batch in place of a dozen: {fault}"
            )
        self._state = (
            self._state_now()
        )  # after the last batch that was handed out, not the last that was made
        ahead = prefetch and (on_cpu or placement == "host")
        self._thread = ThreadPoolExecutor(1, "batches") if ahead else None
        self._ahead: Future[tuple[Batch, _State]] | None = None
        self._stream: torch.cuda.Stream | None = None
        if ahead and not on_cpu:
            self._stream = torch.cuda.Stream(self.device)
            self._stream.wait_stream(torch.cuda.current_stream(self.device))  # for what is made above

    def next(self) -> Batch:
        """The next batch, on the device."""
        if self._thread is None:
            batch, self._state = self._made()
            return batch
        ahead = self._ahead or self._thread.submit(self._made_beside)
        batch, self._state = ahead.result()
        if self._stream:
            learning = torch.cuda.current_stream(self.device)
            learning.wait_stream(self._stream)
            for tensor in (*batch.views_x, batch.labels_x, *batch.views_u, batch.index_u):
                tensor.record_stream(learning)  # so that its memory is not given away while the step reads it
        self._ahead = self._thread.submit(self._made_beside)
        return batch

    def _made_beside(self) -> tuple[Batch, _State]:
        """As `_made`, in the thread, on a stream of its own where the device has streams."""
        if self._stream is None:
            return self._made()
        with torch.cuda.stream(self._stream):
            return self._made()

    def _made(self) -> tuple[Batch, _State]:
        """A new batch, and the state after it."""
        index_x, index_u = self._orders["labeled"].next(), self._orders["unlabeled"].next()
        kinds = self.views_x + self.views_u
        at_x, at_u = (
            {kind: self._at_hand(images[kind], index) for kind in dict.fromkeys(views)}
            for images, index, views in (
                (self._images_x, index_x, self.views_x),
                (self._images_u, index_u, self.views_u),
            )
        )
        sources = [at_x[kind] for kind in self.views_x] + [at_u[kind] for kind in self.views_u]
        views: list[Tensor] = [index_x] * len(kinds)
        for kind in (
            "weak",
            "strong",
        ):  # all views of a kind in one call: each image has its own draw in any case
            slots = [i for i, k in enumerate(kinds) if k == kind]
            made = self._make(kind, [sources[i] for i in slots]) if slots else []
            for i, view in zip(slots, made, strict=True):
                views[i] = view
        split = len(self.views_x)
        batch = Batch(tuple(views[:split]), self._labels_x[index_x], tuple(views[split:]), index_u)
        return batch, self._state_now()

    def _at_hand(self, images: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images on the device and the positions in them of those at `index`: all of them, or a batch that is sent."""
        if self.placement == "device":
            return images, index
        pinned = self.device.type == "cuda"  # for a copy that nothing waits for
        staged = torch.empty(len(index), *images.shape[1:], dtype=images.dtype, pin_memory=pinned)
        torch.index_select(images, 0, index.cpu(), out=staged)
        return staged.to(self.device, non_blocking=True), torch.arange(len(index), device=self.device)

    def _batched(self, kind: View, sources: Sequence[tuple[Tensor, Tensor]]) -> Sequence[Tensor]:
        """Views of images[index] of each source, by operations on the whole batch."""
        with _one_thread():
            batch = torch.cat([images[index] for images, index in sources])
            if kind == "weak":
                views = weak_view(
                    batch, self._generator, self._mean, self._std, flip=self.flip, augment=self.augment
                )
            else:
                views = strong_view(
                    batch,
                    self._generator,
                    self._mean,
                    self._std,
                    flip=self.flip,
                    augment=self.augment,
                    num_ops=self.num_ops,
                    magnitude=self.magnitude,
                    size=self._size,
                )
            return views.split([len(index) for _, index in sources])

    def _compiled(self, kind: View, sources: Sequence[tuple[Tensor, Tensor]]) -> Sequence[Tensor]:
        """The same views as `_batched`, of the same draws, by a pass that goes over each image once."""
        passes = self._passes()
        sizes = [len(index) for _, index in sources]
        parts: Sequence[tuple[Tensor, Tensor | None]] = sources
        if kind == "strong":
            drawn = draw_operations(sum(sizes), self._generator, num_ops=self.num_ops, which=self.augment)
            augmented = passes.rand_augmented(
                sources, drawn, magnitude=self.magnitude, which=self.augment, size=self._size
            )
            parts = [(augmented, None)]
        move = draw_move(sum(sizes), self._generator, flip=self.flip, side=self._size)
        centre = draw_centre(sum(sizes), self._generator) if kind == "strong" else None
        views: Tensor = passes.moved_views(parts, move, centre, normal=self._normal, augment=self.augment)
        return views.split(sizes)

    def _passes(self) -> Any:
        """The module of this device: importing Triton or Numba takes what no other device need wait for."""
        return import_module("data.compiled" if self.device.type == "cpu" else "data.kernels")

    def _fault(self) -> str:
        """Why the kernels cannot be used, from one batch of each kind of view beside the twin's; empty if they can."""
        before = self._generator.get_state()
        try:
            for kind, images in self._images_u.items():
                sources = [self._at_hand(images, torch.arange(CHECKED, device=self.device) % len(images))]
                views: list[Tensor] = []
                for make in (self._compiled, self._batched):
                    self._generator.set_state(before)
                    views += make(kind, sources)
                if not torch.equal(*views):
                    return f"the {kind} views of the Triton kernels differ from those of PyTorch"
        except Exception as error:  # a compiler, a driver, a missing package: none of them need end a run
            reason = str(error).strip().splitlines() or [""]
            return f"the Triton kernels do not run here ({type(error).__name__}: {reason[0]})"
        finally:
            self._generator.set_state(before)
        return ""

    def _stored(self, images: Tensor) -> Tensor:
        if self.placement == "host":
            return images
        try:
            return images.to(self.device)
        except torch.OutOfMemoryError:
            gigabytes = images.numel() / 1e9
            raise DataError(
                f"{len(images)} images of {images.shape[-1]} x {images.shape[-1]} take {gigabytes:.1f} GB, more than "
                f"{self.device} has free; use --augment fixmatch for smaller ones, or --data_placement host"
            ) from None

    def _state_now(self) -> _State:
        return _State(
            self._generator.get_state(), {name: order.rest() for name, order in self._orders.items()}
        )

    def state_dict(self) -> dict[str, Any]:
        """All that the coming batches depend on, tensors on the CPU: the generator and what is left of each
        pass."""
        orders = {
            name: {"n": self._orders[name].n, "order": rest.cpu().clone()}
            for name, rest in self._state.orders.items()
        }
        return {"generator": self._state.generator, **orders}

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
        if self._ahead:
            self._ahead.exception()  # it is not of use any more, but must not draw while the state changes
            self._ahead = None
        for name, order in self._orders.items():
            order.load_state_dict(state[name])
        self._generator.set_state(generator_state)
        self._state = self._state_now()


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
