"""Images of one's own as a `Dataset`: a folder with one folder a class, or one .npz file.

Apart from `data.datasets`, because Pillow takes a while to import and no other data set needs it.
"""

from __future__ import annotations

from data.datasets import Dataset
from data.folder import Source, read_classes, read_unlabeled
from data.npz import read_npz

__all__ = ["Source", "read_own"]


def read_own(name: str, source: Source) -> Dataset:
    """The data set `folder` or `npz`. Raises DataError, one line, for what cannot be read."""
    if name == "npz":
        class_names, train, test, extra = read_npz(source)
    else:
        class_names, train, test = read_classes(source)
        extra = None
    extra = read_unlabeled(source) or extra
    return Dataset(
        name,
        class_names,
        train.images,
        train.labels,
        test.images,
        test.labels,
        extra.images if extra else None,
        train.mean,
        train.std,
        source.flip,
        skipped=train.skipped + test.skipped + (extra.skipped if extra else 0),
    )
