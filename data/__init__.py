"""Data sets, long-tailed splits, and batches of augmented views made on the device."""

from data.archives import FilesMissingError
from data.augment import normalize, rotate90
from data.datasets import DataError, Dataset, load_dataset, make_dataset
from data.known_counts import known_counts
from data.loader import Batch, BatchSource, Loader
from data.published_loader import PublishedLoader
from data.splits import Split, long_tail_counts, make_split

__all__ = [
    "Batch",
    "BatchSource",
    "DataError",
    "Dataset",
    "FilesMissingError",
    "Loader",
    "PublishedLoader",
    "Split",
    "known_counts",
    "load_dataset",
    "long_tail_counts",
    "make_dataset",
    "make_split",
    "normalize",
    "rotate90",
]
