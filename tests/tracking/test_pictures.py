"""The pictures of a run: which examples are picked, what is counted, and that a folder gives back what was kept."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tracking.media import MEDIA_FILE, Media, MediaSource, read_media
from tracking.pictures import (
    EXAMPLES,
    GAP,
    SIDE,
    after_an_epoch,
    at_the_start,
    grid_of,
    least_sure,
    most_wrong,
    shrunk,
)

N, K = 500, 4


class Shown:
    """A source whose image of row i is filled with i mod 256."""

    def __init__(self, known: bool = True, num_classes: int = K) -> None:
        generator = torch.Generator().manual_seed(0)
        self.num_classes = num_classes
        self.orig = torch.rand(N, num_classes, generator=generator).softmax(dim=1)
        self.refined = torch.rand(N, num_classes, generator=generator).softmax(dim=1)
        self.visited = torch.rand(N, generator=generator) < 0.5
        self.true = torch.randint(num_classes, (N,), generator=generator) if known else None

    def views(self) -> tuple[Tensor, list[tuple[str, Tensor]]]:
        images = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 8, 8)
        return images, [("weak", images + 10), ("strong", images + 20)]

    def confusions(self) -> dict[str, Tensor]:
        counts = torch.arange(self.num_classes**2).view(self.num_classes, self.num_classes)
        return {"test": counts, "orig": counts + 1, "refined": counts + 2} if self.true is not None else {}

    def pseudo_labels(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        return self.orig, self.refined, self.visited, self.true

    def images(self, rows: Tensor) -> Tensor:
        return (rows % 256).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)


def test_the_most_wrong_are_those_whose_guess_exceeds_the_truth_by_most() -> None:
    source = Shown()
    table, true = source.refined, source.true
    assert true is not None
    excess = [
        (float(row.max() - row[label]), -k)
        for k, (row, label) in enumerate(zip(table, true, strict=True))
        if row.argmax() != label
    ]
    slow = [-k for _, k in sorted(excess, reverse=True)[:EXAMPLES]]
    assert most_wrong(table, true).tolist() == slow
    right = torch.eye(K)[true]
    assert most_wrong(right, true).tolist() == [], "nothing is wrong"


def test_the_least_sure_were_guessed_at_all() -> None:
    source = Shown()
    source.refined[~source.visited] = 1 / K  # uniform: less sure than any guess
    found = least_sure(source.refined, source.visited)
    confidence = source.refined.max(dim=1).values
    guessed = [k for k in range(N) if source.visited[k]]
    assert found.tolist() == sorted(guessed, key=lambda k: float(confidence[k]))[:EXAMPLES]


def test_a_folder_gives_back_what_was_kept(tmp_path: Path) -> None:
    source: MediaSource = Shown()
    made = after_an_epoch(source, at_the_start(source))
    made.write(tmp_path)
    kept = read_media(tmp_path)
    assert kept.grid is not None and made.grid is not None and kept.examples is not None  # noqa: PT018
    np.testing.assert_array_equal(kept.grid, made.grid)
    assert list(kept.grid_rows) == ["image", "weak", "strong"]
    assert kept.confusions.keys() == source.confusions().keys()
    for name, counts in source.confusions().items():
        np.testing.assert_array_equal(kept.confusions[name], counts)
    examples = kept.examples
    assert examples.wrong.tolist() == [True] * EXAMPLES + [False] * EXAMPLES
    assert (examples.image[:, 0, 0, 0] == examples.row % 256).all(), "each row has its own image"
    np.testing.assert_array_equal(examples.true, source.pseudo_labels()[3][examples.row])  # type: ignore[index]
    np.testing.assert_array_equal(examples.orig, source.pseudo_labels()[0][examples.row])
    np.testing.assert_array_equal(examples.refined, source.pseudo_labels()[1][examples.row])


def test_where_the_truth_is_not_known_only_the_least_sure_are_shown() -> None:
    source = Shown(known=False)
    made = after_an_epoch(source, Media())
    assert made.examples is not None
    assert not made.examples.wrong.any()
    assert set(made.examples.true.tolist()) == {-1}


def test_before_the_first_guess_there_is_no_example() -> None:
    source = Shown(known=False)
    source.visited[:] = False
    assert after_an_epoch(source, Media()).examples is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"no archive at all"])
def test_a_damaged_file_is_no_pictures(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MEDIA_FILE).write_bytes(content)
    assert read_media(tmp_path) == read_media(tmp_path / "nowhere") == Media()


def test_large_images_are_shrunk_and_small_ones_are_left_alone() -> None:
    small = torch.randint(256, (2, 3, 32, SIDE), dtype=torch.uint8)
    assert shrunk(small) is small
    large = torch.full((2, 3, 2 * SIDE, 4 * SIDE), 200, dtype=torch.uint8)
    large[:, :, :, : 2 * SIDE] = 10
    found = shrunk(large)
    assert found.shape == (2, 3, SIDE // 2, SIDE)
    assert (found[..., : SIDE // 2 - 2] == 10).all()
    assert (found[..., SIDE // 2 + 2 :] == 200).all()
    source = Shown()
    source.images = lambda rows: torch.zeros(len(rows), 3, 224, 224, dtype=torch.uint8)  # type: ignore[method-assign]
    made = after_an_epoch(source, Media())
    assert made.examples is not None
    assert made.examples.image.shape == (2 * EXAMPLES, SIDE, SIDE, 3)


def test_the_grid_has_a_row_for_each_kind_and_a_column_for_each_image() -> None:
    images, views = Shown().views()
    grid = grid_of([images, *(view for _, view in views)])
    assert grid.shape == (3 * 8 + 2 * GAP, 3 * 8 + 2 * GAP, 3)
    for line in range(3):
        for column in range(3):
            top, left = line * (8 + GAP), column * (8 + GAP)
            assert (grid[top : top + 8, left : left + 8] == 10 * line + column).all()
    assert (grid[8 : 8 + GAP] == 255).all()
