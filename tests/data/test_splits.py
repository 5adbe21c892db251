import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.splits import long_tail_counts, make_split

PAPER = [1500, 899, 539, 323, 193, 116, 69, 41, 25, 15]  # CIFAR-10, N1 = 1500, gamma 100


def labels_of(*sizes: int) -> torch.Tensor:
    """Classes interleaved as in a file, class k with sizes[k] images."""
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate(sizes)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


def split(labels, num_classes=10, **changes):
    settings_ = {"num_max": 30, "ratio": 2.0, "imb_ratio_l": 10, "imb_ratio_u": 10, "include_labeled": False}
    return make_split(labels, num_classes, **(settings_ | changes))


def test_counts_of_the_paper_for_1500_and_gamma_100():
    assert long_tail_counts(1500, 100, 10) == PAPER
    assert long_tail_counts(3000, 100, 10) == [3000, 1798, 1078, 646, 387, 232, 139, 83, 50, 30]


@pytest.mark.parametrize(
    ("n_max", "gamma", "num_classes", "expected"),
    [
        (
            512,
            512,
            10,
            [512, 256, 128, 64, 32, 16, 8, 4, 2, 1],
        ),  # 512 * 512 ** (-5 / 9) is 15.999999999999998
        (10, 1.0000000000000002, 10, [10] + [9] * 9),  # in floats, 9.999999999999999... rounds to 10
        (8, 8.0, 4, [8, 4, 2, 1]),
        (100, 1.1, 2, [100, 90]),
        (110, 1.1, 2, [110, 100]),  # 1.1 as written, not the double nearest to it
        (5000, 1, 100, [5000] * 100),
        (7, 3, 1, [7]),
        (10, 100, 3, [10, 1, 0]),
    ],
)
def test_counts_that_should_be_whole_are_not_one_short(n_max, gamma, num_classes, expected):
    assert long_tail_counts(n_max, gamma, num_classes) == expected


@settings(derandomize=True, deadline=None, max_examples=100)
@given(n_max=st.integers(0, 5000), gamma=st.floats(1, 500), num_classes=st.integers(2, 100))
def test_counts_fall_from_n_max_to_n_max_over_gamma_and_are_the_formula_rounded_down(
    n_max, gamma, num_classes
):
    counts = long_tail_counts(n_max, gamma, num_classes)
    assert counts[0] == n_max
    assert counts[-1] == pytest.approx(n_max / gamma, abs=1)
    assert counts == sorted(counts, reverse=True)
    for k, count in enumerate(counts):
        real = n_max * gamma ** (-k / (num_classes - 1))
        assert count - 1e-6 <= real < count + 1 + 1e-6


def test_step_keeps_the_first_half_full_and_divides_the_others():
    assert long_tail_counts(100, 20, 10, step=True) == [100] * 5 + [5] * 5


@pytest.mark.parametrize("step", [False, True])
def test_reversed_order_is_the_same_counts_from_the_other_end(step):
    counts = long_tail_counts(1500, 100, 10, step=step)
    assert long_tail_counts(1500, 100, 10, step=step, reversed_order=True) == counts[::-1]


@pytest.mark.parametrize(
    ("n_max", "gamma", "num_classes"), [(-1, 2, 3), (5, 0.5, 3), (5, float("nan"), 3), (5, 2, 0)]
)
def test_counts_of_impossible_arguments_are_refused(n_max, gamma, num_classes):
    with pytest.raises(ValueError, match=r"n_max|gamma|num_classes"):
        long_tail_counts(n_max, gamma, num_classes)


def test_the_split_takes_the_first_images_of_each_class_labeled_before_unlabeled():
    labels = labels_of(*[100] * 10)
    chosen = split(labels)
    assert chosen.counts_x == chosen.counts_x_asked == long_tail_counts(30, 10, 10)
    assert chosen.counts_u == chosen.counts_u_asked == long_tail_counts(60, 10, 10)
    assert chosen.warnings == ()
    for k in range(10):
        in_file_order = torch.nonzero(labels == k).flatten()
        n, m = chosen.counts_x[k], chosen.counts_u[k]
        assert torch.equal(chosen.index_x[labels[chosen.index_x] == k], in_file_order[:n])
        assert torch.equal(chosen.index_u[labels[chosen.index_u] == k], in_file_order[n : n + m])


def test_the_unlabeled_set_may_contain_the_labeled_images_first():
    labels = labels_of(*[100] * 10)
    without, chosen = split(labels), split(labels, include_labeled=True)
    assert torch.equal(chosen.index_u, torch.cat([without.index_x, without.index_u]))
    assert chosen.counts_u == [a + b for a, b in zip(without.counts_x, without.counts_u, strict=True)]
    assert chosen.counts_u == torch.bincount(labels[chosen.index_u], minlength=10).tolist()
    assert chosen.counts_u_asked == chosen.counts_u


def test_the_unlabeled_imbalance_can_be_reversed_while_the_labeled_is_not():
    chosen = split(labels_of(*[100] * 10), imb_ratio_u_reversed=True)
    assert chosen.counts_x == long_tail_counts(30, 10, 10)
    assert chosen.counts_u == long_tail_counts(60, 10, 10)[::-1]


def test_step_holds_for_both_sets():
    chosen = split(labels_of(*[100] * 10), step=True)
    assert chosen.counts_x == [30] * 5 + [3] * 5
    assert chosen.counts_u == [60] * 5 + [6] * 5


def test_a_shuffle_seed_gives_another_split_with_the_same_counts_and_is_repeatable():
    labels = labels_of(*[100] * 10)
    plain, first, again, other = (split(labels, shuffle_seed=s) for s in (None, 1, 1, 2))
    assert torch.equal(first.index_x, again.index_x)
    assert torch.equal(first.index_u, again.index_u)
    for one, two in ((plain, first), (first, other)):
        assert not torch.equal(one.index_x.sort().values, two.index_x.sort().values)
        assert one.counts_x == two.counts_x
    assert not set(first.index_x.tolist()) & set(first.index_u.tolist())
    assert torch.bincount(labels[first.index_x], minlength=10).tolist() == first.counts_x


def test_capped_classes_are_reported_with_what_was_asked_and_obtained():
    chosen = make_split(
        labels_of(*[5000] * 10),
        10,
        num_max=10,
        ratio=500,
        imb_ratio_l=1,
        imb_ratio_u=1,
        include_labeled=False,
    )
    assert chosen.counts_u_asked == [5000] * 10
    assert chosen.counts_u == [4990] * 10
    (warning,) = chosen.warnings
    assert "49900" in warning
    assert "50000" in warning
    assert "class 3 asked 5000 got 4990" in warning
    assert "\n" not in warning


def test_the_grid_of_ratios_and_label_counts_is_legal_and_its_capped_cells_say_so():
    labels = labels_of(*[5000] * 10)
    for ratio in (2, 500):
        for num_max in (1500, 10):
            chosen = make_split(
                labels, 10, num_max=num_max, ratio=ratio, imb_ratio_l=1, imb_ratio_u=1, include_labeled=True
            )
            assert chosen.counts_u_asked == [num_max + ratio * num_max] * 10
            assert chosen.counts_u == [min(5000, num_max + ratio * num_max)] * 10
            assert len(chosen.warnings) == (ratio == 500)


def test_a_labeled_set_that_is_capped_is_reported_and_leaves_nothing_unlabeled_in_that_class():
    chosen = split(labels_of(20, 100, 100), 3, num_max=50, imb_ratio_l=1, imb_ratio_u=1, ratio=1)
    assert chosen.counts_x == [20, 50, 50]
    assert chosen.counts_u == [0, 50, 50]
    assert [re.findall(r"class 0 asked \d+ got \d+", w) for w in chosen.warnings] == [
        ["class 0 asked 50 got 20"],
        ["class 0 asked 50 got 0"],
    ]


def test_a_warning_about_a_hundred_classes_names_some_and_counts_the_rest():
    chosen = split(labels_of(*[20] * 100), 100, num_max=15, imb_ratio_l=1, imb_ratio_u=1)
    (warning,) = chosen.warnings
    assert "and 90 more classes" in warning


def test_a_class_without_a_labeled_image_is_refused_with_the_way_out():
    with pytest.raises(
        ValueError, match=r"imb_ratio_l 100.*num_max 10; use imb_ratio_l of at most 10 or .*100"
    ):
        split(labels_of(*[100] * 10), num_max=10, imb_ratio_l=100)
    assert min(split(labels_of(*[100] * 10), num_max=10, imb_ratio_l=10).counts_x) == 1


def test_a_class_without_an_unlabeled_image_is_legal_and_said():
    chosen = split(labels_of(*[100] * 10), num_max=10, ratio=1, imb_ratio_l=1, imb_ratio_u=20)
    assert chosen.counts_u[-1] == 0
    assert any("no image of class" in w and "9" in w for w in chosen.warnings)


def test_an_empty_unlabeled_set_is_refused():
    with pytest.raises(ValueError, match="ratio"):
        split(labels_of(*[30] * 3), 3, imb_ratio_l=1, imb_ratio_u=1)
    with pytest.raises(ValueError, match="ratio"):
        split(labels_of(*[30] * 3), 3, num_max=2, ratio=0.1, imb_ratio_l=1)


@pytest.mark.parametrize(
    "bad", [{"num_max": 0}, {"ratio": 0.0}, {"ratio": float("nan")}, {"imb_ratio_l": 0.5}, {"imb_ratio_u": 0}]
)
def test_impossible_settings_are_refused_by_name(bad):
    (field,) = bad
    with pytest.raises(ValueError, match=field):
        split(labels_of(*[100] * 10), **bad)


def test_the_largest_unlabeled_class_is_the_ratio_as_written_times_num_max():
    chosen = split(labels_of(*[300] * 2), 2, num_max=100, ratio=0.29, imb_ratio_l=1, imb_ratio_u=1)
    assert chosen.counts_u == [29, 29]  # int(0.29 * 100) is 28


def test_extra_unlabeled_images_stand_behind_the_training_images_and_their_classes_are_unknown():
    chosen = split(labels_of(*[50] * 10), extra_unlabeled=700)
    assert torch.equal(chosen.index_u, torch.arange(500, 1200))
    assert chosen.counts_u == chosen.counts_u_asked == []
    assert chosen.counts_x == long_tail_counts(30, 10, 10)
    assert chosen.warnings == ()


def test_the_labeled_images_belong_to_the_unlabeled_set_beside_the_extra_ones():
    chosen = split(labels_of(*[50] * 10), extra_unlabeled=700, include_labeled=True)
    assert torch.equal(chosen.index_u, torch.cat([chosen.index_x, torch.arange(500, 1200)]))
    assert chosen.counts_u == chosen.counts_u_asked == []
    assert chosen.warnings == ()
