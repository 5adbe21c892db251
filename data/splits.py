"""Long-tailed labeled and unlabeled sets out of a balanced training set.

Kim et al., NeurIPS 2020, section 4.1: class k of K holds `n_max * gamma ** (-k / (K - 1))` images, so that
the first class is gamma times the last. Labeled and unlabeled set have each their own n_max and gamma.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

_CLASSES_NAMED = 10  # a warning names at most this many classes, then says how many more there are


@dataclass(frozen=True)
class Split:
    """Which training images are labeled and which are unlabeled, with the counts that were asked for.

    As `make_split` returns it, `index_u` holds class after class; where the unlabeled set contains the labeled images,
    they come first, and are part of `counts_u`.
    """

    index_x: Tensor
    """Rows of the training images, int64 [n_x], class by class."""
    index_u: Tensor
    """Rows of the training images, int64 [n_u], in the order of the table of pseudo-labels. An extra unlabeled image
    has the number that it would have behind them (`Dataset.images_at`)."""
    counts_x_asked: list[int]
    """Labeled images of each class by the formula, K entries."""
    counts_x: list[int]
    """Labeled images of each class as obtained, K entries that sum to n_x."""
    counts_u_asked: list[int]
    """Unlabeled images of each class by the formula; empty where their classes are unknown (STL-10)."""
    counts_u: list[int]
    """Unlabeled images of each class as obtained, summing to n_u; empty where their classes are unknown."""
    warnings: tuple[str, ...]
    """One sentence for each set that is not what was asked for."""


def long_tail_counts(
    n_max: int, gamma: float, num_classes: int, *, step: bool = False, reversed_order: bool = False
) -> list[int]:
    """Images per class of a long-tailed set: int(n_max * gamma ** (-k / (K - 1))) for class k.

    The rounding down is done in whole numbers: in floating point a count that should be exact may come out
    one short, such as 512 * 512 ** (-5 / 9) = 16. gamma is taken as the decimal number it is written as.

    step: the first half of the classes (K // 2) holds n_max each, every other one int(n_max / gamma).
    reversed_order: the first class is the smallest.
    Raises ValueError for n_max < 0, gamma < 1 or not finite, num_classes < 1.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes {num_classes}: there must be at least one class")
    if n_max < 0:
        raise ValueError(f"n_max {n_max}: a class cannot hold a negative number of images")
    if not (math.isfinite(gamma) and gamma >= 1):
        raise ValueError(
            f"gamma {gamma}: the imbalance is largest over smallest class; use a number of at least 1"
        )
    if num_classes == 1:
        return [n_max]
    ratio = Fraction(str(gamma))
    last = num_classes - 1
    if step:
        counts = [n_max if k < num_classes // 2 else int(n_max / ratio) for k in range(num_classes)]
    else:
        counts = [_decayed(n_max, ratio, k, last) for k in range(num_classes)]
    return counts[::-1] if reversed_order else counts


def make_split(
    labels: Tensor,
    num_classes: int,
    *,
    num_max: int,
    ratio: float,
    imb_ratio_l: float,
    imb_ratio_u: float,
    include_labeled: bool,
    step: bool = False,
    imb_ratio_u_reversed: bool = False,
    shuffle_seed: int | None = None,
    extra_unlabeled: int = 0,
) -> Split:
    """Choose the labeled and then, from what is left, the unlabeled images of each class.

    labels: int64 [N], true classes of the training images. Images are taken in file order, or after one
    shuffle per class when `shuffle_seed` is given. The largest labeled class holds `num_max` images, the
    largest unlabeled one int(ratio * num_max). A class with too few images gives all it has, and `warnings`
    says so.

    include_labeled: the labeled images are part of the unlabeled set too, first in it (FixMatch).
    extra_unlabeled: M > 0 when the data set brings M unlabeled images of its own (STL-10). No training image is then
    unlabeled but the labeled ones with `include_labeled`. `index_u` counts the M images from N on, and the class counts
    of the unlabeled set are empty because the classes are unknown.

    Raises ValueError when a class would have no labeled image, or the unlabeled set would be empty.
    """
    _check(num_max, ratio, imb_ratio_l, imb_ratio_u)
    by_class = _rows_of_each_class(labels, num_classes, shuffle_seed)
    asked_x = long_tail_counts(num_max, imb_ratio_l, num_classes, step=step)
    if min(asked_x) == 0:
        raise ValueError(
            f"imb_ratio_l {imb_ratio_l:g} leaves class {asked_x.index(0)} without a labeled image at "
            f"num_max {num_max}; use imb_ratio_l of at most {num_max} or "
            f"num_max of at least {math.ceil(imb_ratio_l)}"
        )
    rows_x = [rows[:n] for rows, n in zip(by_class, asked_x, strict=True)]
    got_x = [len(rows) for rows in rows_x]
    if min(got_x) == 0:
        raise ValueError(f"class {got_x.index(0)} has no training image; use a data set that has every class")
    warnings = [_shortfall("labeled", asked_x, got_x)]
    index_x = torch.cat(rows_x)
    if extra_unlabeled > 0:
        index_u = torch.arange(len(labels), len(labels) + extra_unlabeled)
        if include_labeled:
            index_u = torch.cat([index_x, index_u])
        return Split(index_x, index_u, asked_x, got_x, [], [], tuple(w for w in warnings if w))

    max_u = int(Fraction(str(ratio)) * num_max)
    asked_u = long_tail_counts(
        max_u, imb_ratio_u, num_classes, step=step, reversed_order=imb_ratio_u_reversed
    )
    rows_u = [rows[n : n + m] for rows, n, m in zip(by_class, got_x, asked_u, strict=True)]
    got_u = [len(rows) for rows in rows_u]
    if sum(got_u) == 0:
        raise ValueError(
            f"ratio {ratio:g} with num_max {num_max} leaves no unlabeled image; "
            "raise ratio, or lower num_max so that not every image is labeled"
        )
    warnings.append(_empty_classes(asked_u))
    warnings.append(_shortfall("unlabeled", asked_u, got_u))
    index_u = torch.cat(rows_u)
    if include_labeled:
        index_u = torch.cat([index_x, index_u])
        asked_u = [a + b for a, b in zip(asked_x, asked_u, strict=True)]
        got_u = [a + b for a, b in zip(got_x, got_u, strict=True)]
    return Split(index_x, index_u, asked_x, got_x, asked_u, got_u, tuple(w for w in warnings if w))


def _decayed(n_max: int, ratio: Fraction, k: int, last: int) -> int:
    """The largest m with m <= n_max * ratio ** (-k / last), that is m ** last * ratio ** k <= n_max **
    last."""
    power, bound = ratio**k, n_max**last
    m = int(n_max * float(ratio) ** (-k / last))
    while (m + 1) ** last * power <= bound:
        m += 1
    while m**last * power > bound:
        m -= 1
    return m


def _check(num_max: int, ratio: float, imb_ratio_l: float, imb_ratio_u: float) -> None:
    if num_max < 1:
        raise ValueError(f"num_max {num_max}: the largest class needs a labeled image; use 1 or more")
    if not (math.isfinite(ratio) and ratio > 0):
        raise ValueError(f"ratio {ratio}: unlabeled images per labeled one; use a finite number above 0")
    for name, value in (("imb_ratio_l", imb_ratio_l), ("imb_ratio_u", imb_ratio_u)):
        if not (math.isfinite(value) and value >= 1):
            raise ValueError(
                f"{name} {value}: largest over smallest class; use a finite number of at least 1"
            )


def _rows_of_each_class(labels: Tensor, num_classes: int, shuffle_seed: int | None) -> list[Tensor]:
    rows = [torch.nonzero(labels == k).flatten() for k in range(num_classes)]
    if shuffle_seed is None:
        return rows
    generator = torch.Generator().manual_seed(shuffle_seed)
    return [r[torch.randperm(len(r), generator=generator)] for r in rows]


def _shortfall(name: str, asked: Sequence[int], got: Sequence[int]) -> str:
    """One sentence on the classes that are smaller than asked, or nothing."""
    short = [k for k, (a, g) in enumerate(zip(asked, got, strict=True)) if g < a]
    if not short:
        return ""
    named = ", ".join(f"class {k} asked {asked[k]} got {got[k]}" for k in short[:_CLASSES_NAMED])
    more = f", and {len(short) - _CLASSES_NAMED} more classes" if len(short) > _CLASSES_NAMED else ""
    return (
        f"The {name} set has {sum(got)} images where {sum(asked)} were asked for, "
        f"because the training set has too few: {named}{more}."
    )


def _empty_classes(asked: Sequence[int]) -> str:
    empty = [k for k, n in enumerate(asked) if n == 0]
    if not empty:
        return ""
    named = ", ".join(str(k) for k in empty[:_CLASSES_NAMED])
    more = f" and {len(empty) - _CLASSES_NAMED} more" if len(empty) > _CLASSES_NAMED else ""
    return (
        f"The unlabeled set has no image of class {named}{more}, because imb_ratio_u exceeds ratio x num_max."
    )
