"""Sweep files: what they may say, what an agent makes of them, and that every one of this project's can run."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from data import Dataset
from data.datasets import DataError
from semi.cli import spellings, switches
from semi.config import Config, WandbOptions
from semi.dry_run import dry_run
from sweeps.check import check
from sweeps.command import as_flags, command_of
from sweeps.definition import SweepError, read_sweep, size, trial_id, trials
from tests.wandb_server import WandbServer
from tests.wandb_server.quick import AGENT
from tests.wandb_server.trials import draws
from tracking.row import FEW_CLASSES, is_among_few

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "sweeps").glob("*.yaml"))
FLAGS = {"config", *switches([Config])} | {
    name.removeprefix("--")
    for options in (Config, WandbOptions)
    for spec in options.__dataclass_fields__.values()
    for name in spellings(spec)
}
EVERY_FILE = pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
VALID = {
    "program": "train_with_wandb.py",
    "method": "grid",
    "metric": {"name": "test/bacc", "goal": "maximize"},
    "parameters": {"seed": {"values": [0, 1]}, "darp": {"value": True}},
    "command": ["${interpreter}", "${program}", "${args_no_boolean_flags}"],
}


def write(folder: Path, **changes) -> Path:
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (VALID | changes).items() if v is not None}))
    return path


def test_the_files_that_are_promised_are_there() -> None:
    names = {"regimes", "debug_grid", "methods", "imbalance", "alpha_bayes", "demo"}
    assert names <= {path.stem for path in FILES}


@EVERY_FILE
def test_every_parameter_is_a_flag_and_every_metric_a_key_of_the_row(file: Path) -> None:
    sweep = read_sweep(file)
    assert {parameter.name for parameter in sweep.parameters} <= FLAGS
    assert sweep.metric is not None
    assert is_among_few(sweep.metric.name, FEW_CLASSES), "else W&B does not get it"
    assert sweep.constant("resume") == "auto", "a requeued trial goes on where it was"


@EVERY_FILE
def test_every_file_opens_with_its_question_the_number_of_runs_and_the_command(file: Path) -> None:
    opening = "".join(line[1:] for line in file.read_text().splitlines() if line.startswith("#"))
    assert "?" in opening
    assert f"wandb sweep sweeps/{file.name} && wandb agent ID" in opening
    assert f"sweeps run sweeps/{file.name}" in opening or "sweep.py" in opening or "run.sh" in opening
    sweep = read_sweep(file)
    said = re.search(r"(\d+) runs", opening)
    assert said
    assert int(said.group(1)) == len(list(trials(sweep))) == size(sweep)


@EVERY_FILE
def test_every_cell_can_run(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    loaded: dict[tuple[object, ...], Dataset | DataError] = {}
    sweep = read_sweep(file)
    for trial in trials(sweep):
        words = command_of(sweep.command, sweep.program, trial, "python")
        outcome = dry_run(words[words.index(sweep.program) :], loaded)
        assert outcome.problem == "", trial


def test_check_names_each_cell_that_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    tiny = {"dataset": {"value": "digits"}, "imb_ratio_l": {"value": 1}, "imb_ratio_u": {"value": 1}}
    cells = {"num_max": {"values": [3, 100]}, "ratio": {"value": 2}, "tau": {"values": [0.9, 1.5]}} | tiny
    assert check(read_sweep(write(tmp_path, parameters=cells))) == 1
    said = capsys.readouterr().out
    assert said.count("--tau 1.5: the threshold is a probability") == 2
    assert "asked for, because the training set has too few" in said
    assert "2 of 4 trials can run, 1 of them with fewer images than asked for" in said


def test_check_refuses_a_metric_that_no_run_logs(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="test/f1: no run logs it"):
        check(read_sweep(write(tmp_path, metric={"name": "test/f1", "goal": "maximize"})))


def test_check_refuses_a_metric_that_wandb_does_not_get(tmp_path: Path) -> None:
    metric = {"name": "time/step", "goal": "minimize"}
    with pytest.raises(SweepError, match="add wandb_per_class"):
        check(read_sweep(write(tmp_path, metric=metric)))
    asked = {"wandb_per_class": {"value": "all"}, "dataset": {"value": "digits"}}
    assert check(read_sweep(write(tmp_path, metric=metric, parameters=asked))) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": None}, "the key method is missing"),
        ({"method": "greedy"}, "method greedy: use one of grid, random, bayes"),
        ({"method": "bayes", "metric": None}, "the key metric is missing: bayes needs it"),
        ({"metrics": []}, "metrics: not done without a server"),
        ({"paramters": {}}, "unknown key paramters; did you mean parameters?"),
        ({"program": None}, "the key program is missing: the command has ${program}"),
        (
            {"metric": {"name": "test/bacc", "goal": "best"}},
            "metric.goal best: use one of minimize, maximize",
        ),
        ({"run_cap": 0}, "run_cap 0: use a whole number of at least 1"),
        ({"command": "python train.py"}, "command: use a list"),
        ({"command": ["--x=${args}"]}, "a macro must be a whole item"),
        ({"command": ["${argz}"]}, "${argz}: a macro must be a whole item, one of ${env}"),
        ({"parameters": {"lr": {"min": 0.0, "max": 3}}}, "parameters.lr: uniform: a grid needs values"),
        ({"parameters": {"seed": 3}}, "parameters.seed: use values"),
        ({"parameters": {"seed": {"values": "abc"}}}, "parameters.seed: values abc: use a list"),
        (
            {"parameters": {"seed": {"values": [1], "valeus": 2}}},
            "parameters.seed: valeus is no key of categorical",
        ),
        ({"parameters": {"lr": {"min": 2, "max": 1}}}, "parameters.lr: min 2 is not below max 1"),
        (
            {"parameters": {"lr": {"min": "1e-3", "max": 1}}},
            "min 1e-3: use a number, such as 0.001 (YAML reads",
        ),
        (
            {"parameters": {"x": {"parameters": {"y": {"values": []}}}}},
            "parameters.x.y: values []: use a list",
        ),
        (
            {"early_terminate": {"type": "hyperband"}},
            "early_terminate: hyperband needs min_iter, or max_iter with s",
        ),
    ],
)
def test_a_file_that_an_agent_would_trip_over_is_refused_in_one_line(
    tmp_path: Path, changes, message
) -> None:
    with pytest.raises(SweepError, match=re.escape(message)) as refused:
        read_sweep(write(tmp_path, **changes))
    assert "\n" not in str(refused.value)


def test_metric_and_command_have_wandbs_defaults(tmp_path: Path) -> None:
    sweep = read_sweep(write(tmp_path, metric=None, command=None))
    assert sweep.metric is None
    (trial, _) = trials(sweep)
    assert command_of(sweep.command, sweep.program, trial, "py") == [
        "/usr/bin/env", "py", "train_with_wandb.py", "--darp=True", "--seed=0",
    ]  # fmt: skip
    named = read_sweep(write(tmp_path, metric={"name": "loss/total"}))
    assert named.metric is not None
    assert named.metric.goal == "minimize"


def test_random_draws_repeat_and_stay_in_range(tmp_path: Path) -> None:
    parameters = {
        "alpha": {"min": 0.5, "max": 8.0, "distribution": "log_uniform_values"},
        "seed": {"min": 0, "max": 3},
    }
    sweep = read_sweep(write(tmp_path, method="bayes", parameters=parameters))
    first, again = list(trials(sweep, 50)), list(trials(sweep, 50))
    assert first == again
    assert all(0.5 <= trial["alpha"] <= 8 for trial in first)
    assert {trial["seed"] for trial in first} == {0, 1, 2, 3}
    with pytest.raises(SweepError, match="give run_cap in the file or --count"):
        list(trials(sweep))


def test_a_value_of_probability_zero_is_never_drawn_and_the_others_as_often_as_they_say(
    tmp_path: Path,
) -> None:
    parameters = {"arch": {"values": ["a", "b", "c"], "probabilities": [0.75, 0.0, 0.25]}}
    drawn = [
        t["arch"] for t in trials(read_sweep(write(tmp_path, method="random", parameters=parameters)), 2000)
    ]
    assert drawn.count("b") == 0
    assert drawn.count("a") / 2000 == pytest.approx(0.75, abs=0.04)


def test_whole_bounds_are_whole_draws_unless_the_file_says_uniform(tmp_path: Path) -> None:
    bounds = {"min": 0, "max": 1}
    parameters = {"whole": bounds, "real": {"distribution": "uniform", **bounds}}
    drawn = list(trials(read_sweep(write(tmp_path, method="random", parameters=parameters)), 100))
    assert {trial["whole"] for trial in drawn} == {0, 1}
    assert len({trial["real"] for trial in drawn}) == 100


def test_values_that_repeat_are_one_cell_and_no_two_cells_share_a_run(tmp_path: Path) -> None:
    sweep = read_sweep(write(tmp_path, parameters={"seed": {"values": [0, 1, 0, 1.0, True]}}))
    ids = [trial_id(sweep, trial) for trial in trials(sweep)]
    assert [trial["seed"] for trial in trials(sweep)] == [0, 1.0, True]
    assert len(set(ids)) == 3
    assert trial_id(sweep, {"seed": 0}, 1) not in ids, "a draw that comes again is another run"


def test_a_trial_keeps_its_id_as_long_as_its_parameters(tmp_path: Path) -> None:
    sweep = read_sweep(write(tmp_path))
    ids = [trial_id(sweep, trial) for trial in trials(sweep)]
    assert ids == [trial_id(sweep, trial) for trial in trials(sweep)]
    assert len(set(ids)) == 2
    in_another_order = (dict(reversed(trial.items())) for trial in trials(sweep))
    assert ids == [trial_id(sweep, trial) for trial in in_another_order]


def test_a_grid_ends_at_the_number_of_trials_that_is_asked_for(tmp_path: Path) -> None:
    sweep = read_sweep(write(tmp_path))
    assert list(trials(sweep, 1)) == list(trials(sweep))[:1]
    assert len(list(trials(dataclasses.replace(sweep, run_cap=1)))) == 1


def test_one_trial_of_two_sweeps_is_two_runs(tmp_path: Path) -> None:
    sweep = read_sweep(write(tmp_path))
    other = dataclasses.replace(sweep, path=tmp_path / "other.yaml")
    (first, *_) = trials(sweep)
    assert trial_id(sweep, first) != trial_id(other, first)


@EVERY_FILE
def test_an_agent_gets_the_same_grid(file: Path) -> None:
    """Of the stand-in server, whose grids are held against W&B's own in test_wandb_answers.py."""
    sweep = read_sweep(file)
    if sweep.method == "grid":
        assert list(trials(sweep)) == list(draws(yaml.safe_load(file.read_text()), seed=""))


@pytest.mark.slow
def test_the_trials_of_a_grid_and_their_words_are_those_that_the_real_agent_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "show.py").write_text(
        "import json, sys, wandb\nopen('words', 'a').write(json.dumps(sys.argv[1:]) + '\\n')\nwandb.init().finish()\n"
    )
    parameters = {"darp": True, "align": False, "lambda_u": None, "lr": 0.002, "out": "a folder"}
    macros = [
        "${args}",
        "then",
        "${args_no_boolean_flags}",
        "then",
        "${args_no_hyphens}",
        "${args_no_equals}",
    ]
    macros += [
        "${args_append_hydra}",
        "${args_override_hydra}",
        "${args_json}",
        "user-${envvar:LOGNAME}-${envvar:NO_X}",
    ]
    monkeypatch.setenv("LOGNAME", "me")
    sweep = read_sweep(
        write(
            tmp_path,
            program="show.py",
            parameters={name: {"value": value} for name, value in parameters.items()}
            | {"net": {"parameters": {"width": {"value": 8}, "act": {"values": ["relu", "gelu"]}}}}
            | {"seed": {"values": [3, 4, 3]}},
            run_cap=3,
            command=["${env}", "${interpreter}", "${program}", *macros],
        )
    )
    with WandbServer() as server:
        environment = server.env(tmp_path)
        say = subprocess.run(
            ["wandb", "sweep", "--entity=lab", "--project=p", "s.yaml"],
            cwd=tmp_path, env=environment, check=True, capture_output=True, text=True,
        ).stderr  # fmt: skip
        found = re.search(r"wandb agent (\S+)", say)
        assert found
        subprocess.run(
            [*AGENT, found.group(1)],
            cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=120,
        )  # fmt: skip
    passed = [json.loads(line) for line in (tmp_path / "words").read_text().splitlines()]
    ours = [command_of(sweep.command, sweep.program, trial, sys.executable)[3:] for trial in trials(sweep)]
    assert {"--darp=True", "--net={'act': 'relu', 'width': 8}", "user-me-NO_X"} <= set(ours[0])
    assert passed == ours
    assert [words[words.index("--seed") + 1] for words in ours] == ["3", "4", "3"]


def test_both_forms_of_a_boolean_are_flags() -> None:
    assert as_flags({"darp": True, "align": False}) == ["--darp"]
    assert as_flags({"darp": True, "align": False}, boolean_flags=False) == ["--darp=True", "--align=False"]
