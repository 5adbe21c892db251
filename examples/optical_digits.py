"""scikit-learn's digits at their own 8 x 8 pixels, doubled to 16, as a data set of one file.

python3 train.py --plugin examples/optical_digits.py --dataset digits16 --arch small --semi_method fix --num_max 5 \
    --ratio 10 --imb_ratio_l 1 --imb_ratio_u 1 --epochs 3 --val_iteration 20 --gpu cpu

A reader gets the folder --data-dir and whether it may download there. It gives whole arrays: uint8 images [N, 3, S, S]
and int64 labels. Where it finds no files and may not download, it raises `data.FilesMissingError`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from data import Dataset, make_dataset
from semi.names import DATASETS

TEST_FROM = 1400  # of 1,797; the classes take turns in the file


def read(data_dir: Path, download: bool) -> Dataset:
    from sklearn.datasets import load_digits  # here: it takes a second, and --help need not wait

    digits = load_digits()
    grey = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)
    images = grey.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2).unsqueeze(1).repeat(1, 3, 1, 1)
    labels: Tensor = torch.from_numpy(digits.target).long()
    return make_dataset(
        "digits16",
        [str(k) for k in range(10)],
        train=(images[:TEST_FROM], labels[:TEST_FROM]),
        test=(images[TEST_FROM:], labels[TEST_FROM:]),
        flip=False,
    )


DATASETS["digits16"] = read
