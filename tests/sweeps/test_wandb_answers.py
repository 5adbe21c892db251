"""Sweep files mean here what they mean to W&B: its own package's answers, recorded in wandb_answers.json.

record_wandb_answers.py has the questions and the command that records the answers.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeps.definition import SweepError, cells, read_sweep
from sweeps.hyperband import read_hyperband
from sweeps.parameters import read_parameter
from tests.wandb_server.trials import draws

ANSWERS: dict[str, Any] = json.loads(Path(__file__).with_name("wandb_answers.json").read_text())

# Said otherwise on purpose, each with the reason.
TAKEN_HERE = re.compile(r"uses (q_|inv_)?log_uniform, where")  # deprecated, but W&B still draws it
REFUSED_HERE = {
    "impute": "the Bayesian search is Optuna's",
    "not done without a server": "local controllers, schedulers and jobs are W&B's own",
    "the key program is missing": "an agent would start no program",
    "the key metric is missing": "W&B says so when its search or its hyperband begins",
    "use a number above 0": "W&B takes a sigma, a or b of 0 and draws nan",
}


def identity(item: dict[str, Any]) -> str:
    return json.dumps(item)[:90]


def test_the_answers_are_of_the_package_that_is_promised() -> None:
    assert ANSWERS["versions"]["sweeps"] == "0.3.0"


@pytest.mark.parametrize("answer", ANSWERS["draws"], ids=lambda a: identity(a["parameter"]))
def test_a_draw_has_the_value_that_wandb_gives_that_percentile(answer: dict[str, Any]) -> None:
    parameter = read_parameter(("a",), answer["parameter"])
    ours = [parameter.at(u) for u in ANSWERS["percentiles"]]
    assert list(map(type, ours)) == list(map(type, answer["values"]))
    if isinstance(ours[0], float):
        assert ours == pytest.approx(answer["values"], rel=1e-9, abs=1e-12)
    else:
        assert ours == answer["values"]


@pytest.mark.parametrize("answer", ANSWERS["grids"], ids=lambda a: identity(a["parameters"]))
def test_a_grid_has_the_cells_that_wandb_gives_it_in_that_order(
    answer: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({"method": "grid", "program": "t", "parameters": answer["parameters"]}))
    ours = list(cells(read_sweep(path)))
    assert ours == answer["cells"]
    assert json.dumps(ours) == json.dumps(answer["cells"]), "1, 1.0 and true are told apart"


@pytest.mark.parametrize("answer", ANSWERS["grids"], ids=lambda a: identity(a["parameters"]))
def test_the_stand_in_server_gives_agents_the_same_cells(answer: dict[str, Any]) -> None:
    content = {"method": "grid", "parameters": answer["parameters"]}
    assert list(draws(content, seed="")) == answer["cells"]


@pytest.mark.parametrize("answer", ANSWERS["files"], ids=lambda a: identity(a["content"]))
def test_a_file_is_refused_where_wandb_refuses_it(answer: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    content = {"program": "train.py"} | answer["content"]
    path.write_text(yaml.safe_dump(content))
    try:
        read_sweep(path)
        said = ""
    except SweepError as error:
        said = str(error)
    assert "\n" not in said
    if answer["refused"] and not TAKEN_HERE.search(answer["refused"]):
        assert said, answer["refused"]
    elif said:
        assert any(reason in said for reason in REFUSED_HERE), said


def test_hyperband_ends_the_trials_that_wandb_ends() -> None:
    for answer in ANSWERS["terminations"]:
        hyperband = read_hyperband({"type": "hyperband", **answer["early_terminate"]})
        sign = -1 if answer["goal"] == "maximize" else 1
        histories = [[sign * value for value in history] for history in answer["histories"]]
        stopped = []
        for k, own in enumerate(histories):
            bracket = hyperband.bracket(len(own)) or 0
            others = [h[bracket - 1] for j, h in enumerate(histories) if j != k and len(h) >= bracket > 0]
            if answer["running"][k] and hyperband.is_behind(own, others):
                stopped.append(k)
        assert stopped == answer["stopped"], answer
    assert sum(bool(answer["stopped"]) for answer in ANSWERS["terminations"]) > 20
