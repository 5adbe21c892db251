"""What a tracker may show of a job. Reading it leaves the training as it is: no random state of it is used."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from data import Loader
from semi.job import Job, recipe

IMAGES = 8  # of the grid of views; each of another class, as long as there are classes


class JobMedia:
    """A `tracking.media.MediaSource`."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def views(self) -> tuple[Tensor, list[tuple[str, Tensor]]]:
        """Of labeled images, one of each class, as the method's loader makes them of unlabeled ones.

        --loader published makes its views with Pillow in other processes: here they come from the tensor twin.
        """
        job = self._job
        chosen = job.split.index_x[_one_of_each(job.dataset.train_labels[job.split.index_x])]
        images = job.dataset.train_images[chosen]
        full = job.dataset.train_full_size
        kinds = job.method.views_u
        loader = Loader(
            images,
            job.dataset.train_labels[chosen],
            images,
            views_x=(),
            views_u=kinds,
            batch_size=len(images),
            full_u=None if full is None else full[chosen],
            device=job.device,
            seed=job.config.seed,
            augment=job.config.augment,
            prefetch=False,
            **recipe(job.config, job.dataset),
        )
        batch = loader.next()
        order = batch.index_u.argsort()
        made = [self._as_bytes(view[order]) for view in batch.views_u]
        return images, list(zip(kinds, made, strict=True))

    def confusions(self) -> Mapping[str, Tensor]:
        return self._job.confusions

    def pseudo_labels(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        store = self._job.store
        return store.orig, store.refined, store.visited, self._job.true_labels

    def images(self, rows: Tensor) -> Tensor:
        index_u = self._job.split.index_u
        return self._job.dataset.images_at(index_u[self._job.ranks.rows(len(index_u))][rows])

    def _as_bytes(self, view: Tensor) -> Tensor:
        """A normalised view [n, 3, H, W] as uint8 on the CPU."""
        mean, std = (
            torch.tensor(values, device=view.device).view(1, 3, 1, 1)
            for values in (self._job.dataset.mean, self._job.dataset.std)
        )
        return ((view.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).cpu()


def _one_of_each(labels: Tensor) -> Tensor:
    """Positions of the first image of each class, at most IMAGES."""
    first = [(labels == label).nonzero()[0, 0] for label in labels.unique()]
    return torch.stack(first[:IMAGES])
