"""What a job shows is what it trains on, and showing it changes nothing of the training."""

from pathlib import Path

import pytest
import torch

from semi.config import Config
from semi.distributed import Ranks
from semi.epoch import EpochSoFar
from semi.job import build_job
from semi.loop import evaluate, train_epoch
from semi.media import JobMedia
from semi.progress import Progress
from tests.semi.runs import TINY, train
from tracking.media import TakesMedia
from tracking.online.tracker import WandbTracker
from tracking.pictures import after_an_epoch, at_the_start

CPU = torch.device("cpu")


def config(**changes) -> Config:
    return Config(**(TINY | changes))


@pytest.mark.parametrize("augment", ["fixmatch", "published"])
def test_the_grid_shows_an_image_of_each_class_and_the_views_of_the_method(augment: str) -> None:
    job = build_job(config(augment=augment), CPU)
    images, views = JobMedia(job).views()
    assert images.shape == (8, 3, 32, 32)
    assert [kind for kind, _ in views] == ["weak", "strong", "strong"]
    weak, strong, _ = (view.float() for _, view in views)
    for k, image in enumerate(images.float()):  # a weak view is its own image, moved by a few pixels
        moved = [image.roll((dy, dx), (1, 2)) for dy in range(-4, 5) for dx in range(-4, 5)]
        centre = (slice(None), slice(4, -4), slice(4, -4))
        distance = min(float((m[centre] - weak[k][centre]).abs().mean()) for m in moved)
        assert distance < 2, "rounding, and nothing else"
    assert (strong - weak).abs().mean() > 10


def test_looking_at_a_job_changes_no_batch_and_no_random_number() -> None:
    seen, left_alone = (build_job(config(), CPU) for _ in range(2))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    source = JobMedia(seen)
    after_an_epoch(source, at_the_start(source))
    assert torch.equal(torch.get_rng_state(), state)
    for _ in range(3):
        one, other = seen.loader.next(), left_alone.loader.next()
        assert torch.equal(one.index_u, other.index_u)
        for a, b in zip(one.views_u, other.views_u, strict=True):
            assert torch.equal(a, b)


def test_the_pictures_of_an_epoch_are_those_of_its_row() -> None:
    job = build_job(config(refine="darp"), CPU)
    with Progress(4, 0) as progress:
        train_epoch(job, 1, EpochSoFar(CPU), progress)
    row = evaluate(job)
    source = JobMedia(job)
    made = after_an_epoch(source, at_the_start(source))
    for name in ("orig", "refined"):
        counts = made.confusions[name]
        assert counts.trace() / counts.sum() == pytest.approx(row[f"pseudo/{name}/accuracy"])
    test = made.confusions["test"]
    assert test.trace() / test.sum() == pytest.approx(row["test/acc"])
    examples = made.examples
    assert examples is not None
    assert job.true_labels is not None
    for k, position in enumerate(job.split.index_u[torch.from_numpy(examples.row)]):
        image = job.dataset.images_at(position.unsqueeze(0))[0].permute(1, 2, 0)
        assert (examples.image[k] == image.numpy()).all()
        assert examples.true[k] == job.dataset.train_labels[position]


def test_a_process_of_several_shows_the_images_of_its_own_rows() -> None:
    job = build_job(config(), CPU, ranks=Ranks(CPU, rank=1, size=2))
    assert job.true_labels is not None
    rows = torch.arange(len(job.true_labels))
    shown = JobMedia(job).images(rows)
    second_half = job.split.index_u[job.ranks.rows(len(job.split.index_u))]
    assert len(second_half) == len(rows) < len(job.split.index_u)
    assert torch.equal(shown, job.dataset.images_at(second_half))
    assert torch.equal(job.true_labels, job.dataset.train_labels[second_half])


def test_a_tracker_of_wandb_takes_them(tmp_path: Path) -> None:
    assert isinstance(WandbTracker(tmp_path / "r", mode="disabled"), TakesMedia)
    assert len(train(config(out=str(tmp_path), epochs=1))) == 1, "and a run without one trains"
