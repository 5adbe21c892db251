"""A method, a refinery and a data set in files outside the packages take part like those inside."""

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

import eval
from data import DataError, make_dataset
from semi import names
from semi.cli import parse
from semi.config import Config, ConfigError
from semi.distributed import Ranks
from semi.job import build_job, describe, row_of
from semi.names import DATASETS, METHODS, REFINERIES, load_plugin
from semi.run_folder import run_folder
from tests.semi.runs import TINY, Interrupting, Interruption, train
from tracking.alerts import alerts_of_run
from tracking.online.panels import SECTIONS, Lines
from tracking.report.page import build_page
from tracking.report.page_data import page_data
from tracking.report.runs import find_runs, group_runs
from tracking.report.terminal import terminal_report
from tracking.row import is_among_few, is_known

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def tables_as_they_were():
    before = [(table, dict(table)) for table in (METHODS, REFINERIES, DATASETS)]
    yield
    for table, kept in before:
        table.clear()
        table.update(kept)
    for name in [name for name in sys.modules if name.startswith("plugin_")]:
        del sys.modules[name]


@pytest.fixture
def freematch():
    load_plugin(str(ROOT / "examples/freematch.py"))
    return sys.modules["plugin_freematch"]


def config(folder, **changes) -> Config:
    return Config(**TINY | {"semi_method": "free", "out": str(folder)} | changes)


def own(row):
    return {key: value for key, value in row.items() if key.startswith("method/")}


def test_the_mask_rate_is_that_of_the_methods_own_mask(tmp_path, freematch):
    job_config = config(tmp_path, tau=1.0, epochs=2)  # no guess is as sure as tau
    row = train(job_config)[-1]
    table = torch.load(run_folder(job_config) / "checkpoint.pt", weights_only=True)["store"]["orig"]
    confidence, label = table.max(dim=1)
    thresholds = torch.tensor([row[f"method/threshold/{k}"] for k in range(10)])
    expected = (confidence >= thresholds[label]).float().mean()
    assert expected > 0
    assert row["pseudo/mask_rate"] == pytest.approx(float(expected))


def test_the_thresholds_are_the_running_means_of_the_paper(freematch):
    method = freematch.FreeMatch.from_config(Config(**TINY), torch.ones(3), Ranks(CPU))
    confidence, shares = torch.tensor(1 / 3), torch.full((3,), 1 / 3)
    for guesses in (torch.tensor([[0.8, 0.1, 0.1], [0.5, 0.3, 0.2]]), torch.tensor([[0.2, 0.7, 0.1]] * 2)):
        method.guess(lambda logits: logits, Views(guesses.log()))
        confidence = 0.999 * confidence + 0.001 * guesses.max(dim=1).values.mean()
        shares = 0.999 * shares + 0.001 * guesses.mean(dim=0)
    assert torch.allclose(method.thresholds(), confidence * shares / shares.max(), rtol=1e-6)
    least = method.thresholds()
    assert method.selects(least.repeat(2), torch.arange(3).repeat(2)).all()
    assert not method.selects(least - 1e-6, torch.arange(3)).any()


class Views:
    def __init__(self, logits):
        self.views_u = [logits]


def test_what_a_method_says_of_itself_is_a_known_key_and_stands_in_the_dry_run(tmp_path, freematch):
    row = train(config(tmp_path, epochs=1))[-1]
    assert len(own(row)) == 11
    assert all(is_known(key) for key in row)
    assert is_among_few("method/threshold", 10)
    assert not is_among_few("method/threshold/3", 10)
    told = row_of(build_job(config(tmp_path / "other"), CPU))
    assert told["method/threshold"] == freematch.FreeMatch.own_metrics["threshold"]
    assert "method/<name>" not in told


def test_a_run_that_stopped_goes_on_with_the_same_thresholds(tmp_path, freematch):
    whole = train(config(tmp_path / "whole"))
    cut = config(tmp_path / "cut", resume="auto")
    with pytest.raises(Interruption):
        train(cut, Interrupting(after=1))
    assert train(cut) == whole


def test_the_report_and_the_alerts_know_the_method_from_the_runs_folder_alone(tmp_path, freematch):
    train(config(tmp_path, epochs=1))
    METHODS.pop("free")  # a reader of runs has no plugin
    runs, problems = find_runs([tmp_path])
    assert not problems
    ((group,),) = group_runs(runs).values()
    assert group.label == "FreeMatch"
    first: dict[str, Any] = dict(runs[0].rows[0])
    nothing = [first | {"epoch": epoch, "pseudo/mask_rate": 0.0} for epoch in range(20)]
    assert "mask 0" in [alert.kind for alert in alerts_of_run(nothing, runs[0].config)]
    mixing = {**runs[0].config, "thresholded": False}
    assert "mask 0" not in [alert.kind for alert in alerts_of_run(nothing, mixing)]


@pytest.mark.slow
def test_a_data_set_of_one_file_is_trained_on_by_its_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    command = (ROOT / "examples/optical_digits.py").read_text().split('"""')[1].split("\n\n")[1]
    words = command.replace("\\\n", " ").split()
    done = subprocess.run(
        [sys.executable, *words[1:], "--out", str(tmp_path), "--epochs=1"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    described = yaml.safe_load((folder / "config.yaml").read_text())
    assert (described["dataset"], described["class_names"][9]) == ("digits16", "9")
    score = ["score", str(folder), "--gpu=cpu"]
    assert eval.main(score) == 2
    assert re.fullmatch(r"eval\.py: .*digits16.*\n", capsys.readouterr().err)
    assert eval.main([*score, "--plugin=examples/optical_digits.py"]) == 0
    assert "9 9" in capsys.readouterr().out


def test_a_plugin_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"--plugin .*none\.py: no Python file is there"):
        parse([f"--plugin={tmp_path}/{'deep/' * 20}none.py"], "", Config)
    with pytest.raises(ConfigError, match="use one of mix, remix"):
        parse(["--semi_method=free"], "", Config)


def test_a_plugin_runs_once_and_one_that_fails_is_not_kept(tmp_path):
    file = tmp_path / "counted.py"
    file.write_text("from semi.names import METHODS\nMETHODS['n'] = METHODS.get('n', 0) + 1\n")
    load_plugin(str(file))
    load_plugin(str(file))
    assert names.METHODS["n"] == 1
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            load_plugin(str(broken))


IMAGES, LABELS = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("train_part", "told"),
    [
        ((IMAGES.float(), LABELS), r"the training images are float32 \[4, 3, 8, 8\]; give uint8"),
        ((IMAGES[:, :1], LABELS), r"the training images are uint8 \[4, 1, 8, 8\]"),
        ((IMAGES[:0], LABELS[:0]), r"the training images are uint8 \[0, 3, 8, 8\]"),
        ((IMAGES, LABELS[:3]), r"the training labels are int64 \[3\]; give int64 \[4\]"),
        ((IMAGES, LABELS.int()), r"the training labels are int32 \[4\]"),
        ((IMAGES, LABELS + 1), "run from 1 to 2; 2 class names make it 0 to 1"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused_in_one_line(train_part, told):
    with pytest.raises(DataError, match=told) as caught:
        make_dataset("mine", ["a", "b"], train_part, (IMAGES, LABELS), flip=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="the test "):
        make_dataset("mine", ["a", "b"], (IMAGES, LABELS), (IMAGES, LABELS - 1), flip=True)


def power(folder, **changes) -> Config:
    load_plugin(str(ROOT / "examples/power_refinery.py"))
    return Config(**TINY | {"refine": "power", "out": str(folder)} | changes)


def test_a_refinery_of_one_file_refines_every_batch_and_logs_its_own_keys(tmp_path):
    rows = train(power(tmp_path))
    assert all(is_known(key) for key in rows[-1])
    assert sum(rows[-1][f"refine/mean/{k}"] for k in range(10)) == pytest.approx(1, abs=1e-5)
    assert rows[-1]["refine/moved"] > 0
    assert rows[-1]["pseudo/refined/imbalance"] < rows[-1]["pseudo/orig/imbalance"]


def test_a_run_of_it_that_stopped_goes_on_exactly(tmp_path):
    whole = train(power(tmp_path / "whole"))
    with pytest.raises(Interruption):
        train(power(tmp_path / "cut", resume="auto"), Interrupting(after=1))
    assert train(power(tmp_path / "cut", resume="auto")) == whole


ONE_FILE = """
from darp.refineries.base import Batchwise, normalized
from semi.methods.fixmatch import FixMatch
from semi.names import METHODS, REFINERIES

class Sure(FixMatch):
    label = "SureMatch"
    threshold = "nine tenths"
    own_metrics = {"least": "least confidence that counts"}

    @classmethod
    def from_config(cls, config, target_counts, ranks):
        return cls(0.9)

    def metrics(self):
        return {"least": self.tau}

class Flat(Batchwise):
    label = "flattening"

    def rule(self, probs, epoch, step):
        return normalized(probs.sqrt())

    def health(self):
        return super().health() | {"refine/power": 0.5}

METHODS["sure"], REFINERIES["flat"] = Sure, Flat
"""


@pytest.fixture
def run_of_one_file(tmp_path) -> Path:
    """The folder of a short run whose method and refinery come from one file, which its readers do not have."""
    file = tmp_path / "mine.py"
    file.write_text(ONE_FILE)
    load_plugin(str(file))
    job_config = config(tmp_path / "runs", semi_method="sure", refine="flat", epochs=1)
    train(job_config)
    METHODS.pop("sure")
    REFINERIES.pop("flat")
    return run_folder(job_config)


def test_every_reader_of_a_run_shows_the_labels_of_its_one_file(run_of_one_file, capsys):
    label = "SureMatch + flattening"
    runs, _ = find_runs([run_of_one_file])
    groups = group_runs(runs)
    assert eval.main(["summary", str(run_of_one_file)]) == 0
    terminal = io.StringIO()
    Console(width=140, file=terminal).print(terminal_report(groups, 140))
    texts = (build_page(groups, title="t"), capsys.readouterr().out, terminal.getvalue())
    assert [label in re.sub(r"\s+", " ", text) for text in texts] == [True] * 3


def test_what_they_say_of_themselves_is_on_the_page_and_in_wandbs_panels(run_of_one_file):
    runs, _ = find_runs([run_of_one_file])
    own = {"method/least": 0.9, "refine/power": 0.5}
    assert {key: runs[0].rows[-1][key] for key in own} == own
    series = {key: high for _, key, _, _, _, high in page_data(group_runs(runs))["blocks"]}
    assert {key: series[key] for key in own} == own
    assert all(is_among_few(key, 100) for key in own)
    panels = [panel for section in SECTIONS for panel in section.panels if isinstance(panel, Lines)]
    for key in own:
        assert len([panel for panel in panels if panel.pattern and re.fullmatch(panel.pattern, key)]) == 1


def test_a_checkpoint_whose_refinery_is_unknown_says_how_to_name_its_file(tmp_path, capsys):
    job_config = power(tmp_path, epochs=1)
    train(job_config)
    REFINERIES.pop("power")
    capsys.readouterr()  # the training's own lines
    assert eval.main(["score", str(run_folder(job_config)), "--gpu=cpu"]) == 2
    assert re.fullmatch(r"eval\.py: .*--refine power: .*--plugin FILE\n", capsys.readouterr().err)


def test_alerts_name_what_the_method_compares_with_and_who_refines(run_of_one_file):
    (run,), _ = find_runs([run_of_one_file])
    first: dict[str, Any] = dict(run.rows[0])
    one_class = {
        f"pseudo/{table}/{k}": float(k == 0) for table in ("refined", "refined_hard") for k in range(10)
    }
    bad = first | one_class | {"pseudo/mask_rate": 0.0}
    told = {alert.kind: alert for alert in alerts_of_run([bad | {"epoch": e} for e in range(20)], run.config)}
    assert "has reached nine tenths" in told["mask 0"].reason
    assert "--tau" not in told["mask 0"].text
    for kind in ("collapse", "dead class"):
        assert told[kind].remedy == "flattening refines them and does not prevent it: try --darp instead."


def test_alerts_name_the_threshold_of_the_refinery_where_it_has_one(tmp_path):
    simpro = build_job(config(tmp_path, semi_method="fix", refine="simpro"), CPU)
    assert describe(simpro)["threshold"] == "--simpro_threshold"
    assert describe(build_job(config(tmp_path, semi_method="fix"), CPU))["threshold"] == "--tau"


def test_the_report_calls_the_refinement_by_its_label_without_the_plugin(tmp_path):
    train(power(tmp_path, epochs=1))
    REFINERIES.pop("power")
    runs, _ = find_runs([tmp_path])
    ((group,),) = group_runs(runs).values()
    assert (group.label, runs[0].refine) == ("FixMatch + power", "power")
