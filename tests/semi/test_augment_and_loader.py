"""--augment, --loader and --randaugment, from the command line to the rows of a run."""

from pathlib import Path

import pytest
import torch
import yaml

from data import Loader, PublishedLoader
from data import loader as loader_module
from semi.cli import parse
from semi.config import PLACEMENTS, Config, ConfigError
from semi.device import Stopwatch
from semi.estimation import estimate_config
from semi.job import build_job, describe, warnings
from semi.loop import train_step
from semi.run_folder import default_run_name
from tests.semi.runs import TINY, Interrupting, Interruption, train
from tracking.local import read_rows

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
SLOW = {"loader": "published", "augment": "published", "epochs": 2, "val_iteration": 3}
REGIMES = {"many": {"num_max": 60, "ratio": 1.2}, "few": {"num_max": 1, "ratio": 130.0}}
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def config(text: str) -> Config:
    return parse(text.split(), "test", Config)[0]


@pytest.mark.parametrize("regime", REGIMES)
def test_the_published_pipeline_trains_in_both_regimes_and_its_data_time_is_logged(tmp_path, regime):
    """With one label a class there are fewer labels than a batch, where the original crashes."""
    c = Config(**TINY | SLOW | REGIMES[regime] | {"batch_size": 64, "out": str(tmp_path)})
    rows = train(c)
    assert [row["epoch"] for row in rows] == [0, 1]
    assert all(0 <= row["test/bacc"] <= 1 for row in rows)
    (folder,) = tmp_path.iterdir()
    timed = read_rows(folder)
    assert all(row["data_time"] > 0 for row in timed)
    assert all(row["time/data"] == pytest.approx(row["data_time"] * 3) for row in timed)


def test_a_run_with_the_published_pipeline_goes_on_after_an_interruption_and_said_at_its_start_how(tmp_path):
    c = Config(**TINY | SLOW | {"out": str(tmp_path), "resume": "auto"})
    with pytest.raises(Interruption):
        train(c, Interrupting(after=1))
    assert [row["epoch"] for row in train(c)] == [0, 1]
    (sentence,) = [said for said in warnings(build_job(c, CPU)) if "--loader" in said]
    assert sentence.startswith("--loader published: a resumed run does not go on with the batches")
    assert "\n" not in sentence
    assert warnings(build_job(Config(**TINY), CPU)) == []


@pytest.mark.parametrize(
    ("dataset", "augment"),
    [
        ("cifar10", "published"),
        ("cifar100", "published"),
        ("stl10", "published"),
        ("fashion_mnist", "fixmatch"),
        ("digits", "fixmatch"),
    ],
)
def test_the_augmentation_goes_by_the_data_set_unless_it_is_chosen(dataset, augment):
    chosen = config(f"--dataset {dataset}")
    assert chosen.augment == augment
    assert default_run_name(chosen) == default_run_name(config(f"--dataset {dataset} --augment {augment}"))
    (other,) = {"published", "fixmatch"} - {augment}
    different = config(f"--dataset {dataset} --augment {other}")
    assert different.augment == other
    assert default_run_name(different) != default_run_name(chosen)
    assert estimate_config(different).augment == other


def test_the_resolved_augmentation_is_logged_and_reaches_the_loader():
    for augment in ("published", "fixmatch"):
        job = build_job(Config(**TINY | {"augment": augment}), CPU)
        assert isinstance(job.loader, Loader)
        assert job.loader.augment == describe(job)["augment"] == augment
    assert describe(build_job(Config(**TINY), CPU))["augment"] == "fixmatch"


def test_the_placement_of_the_images_reaches_the_loader_and_trains_the_same_weights():
    rows = []
    for placement in PLACEMENTS:
        job = build_job(Config(**TINY | {"data_placement": placement}), CPU)
        assert isinstance(job.loader, Loader)
        assert job.loader.placement == placement
        train_step(job, 0, 0, Stopwatch(CPU))
        rows.append(torch.cat([weights.detach().flatten() for weights in job.model.parameters()]))
    assert torch.equal(*rows)
    assert loader_module.PLACEMENTS == PLACEMENTS


def test_the_published_loader_takes_the_settings_of_the_run():
    job = build_job(Config(**TINY | SLOW | {"randaugment": "published"}), CPU)
    assert isinstance(job.loader, PublishedLoader)
    assert (job.loader.num_ops, job.loader.magnitude) == (3, 4)
    assert {name: describe(job)[name] for name in ("loader", "randaugment")} == {
        "loader": "published",
        "randaugment": "published",
    }


@pytest.mark.parametrize("preset", sorted(ROOT.glob("configs/*.yaml")), ids=lambda path: path.stem)
def test_presets_of_data_without_a_published_view_choose_theirs_and_say_why(preset):
    text = preset.read_text()
    content = yaml.safe_load(text)
    if content["dataset"] in ("digits", "fashion_mnist"):
        (line,) = [line for line in text.splitlines() if line.startswith("augment:")]
        assert line.startswith("augment: fixmatch # ")
    else:
        assert config(f"--config {preset}").augment == "published"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--dataset digits --loader published", "add --augment published"),
        ("--randaugment package", "add --loader published, or leave it out"),
        (
            "--loader published --data_placement host",
            "so does --loader published in any case; leave one of them out",
        ),
        ("--data_placement disk", "use one of device, host"),
        ("--loader fast", "use one of device, published"),
        ("--augment autoaugment", "use one of auto, published, fixmatch"),
    ],
)
def test_what_cannot_work_together_is_refused_in_one_line(text, message):
    with pytest.raises(ConfigError, match=message) as refused:
        config(text)
    assert "\n" not in str(refused.value)


def test_a_missing_package_is_refused_with_what_installs_it(monkeypatch):
    monkeypatch.setattr("semi.config.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"--randaugment package: PyPI's randaugment is not installed; run make"
    ):
        config("--loader published --randaugment package")


def test_a_run_whose_gpu_cannot_have_the_kernels_says_so_once():
    job = build_job(Config(**TINY), torch.device("cpu"))
    assert isinstance(job.loader, Loader)
    job.loader.notice = "views on cuda:0 take hundreds of launches"
    assert warnings(job).count(job.loader.notice) == 1
