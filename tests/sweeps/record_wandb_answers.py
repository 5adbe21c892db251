"""Records what W&B's own package `sweeps` 0.3.0 says, as tests/sweeps/wandb_answers.json. It needs numpy < 2:

    python3 -m venv ORACLE && ORACLE/bin/pip install sweeps==0.3.0 'numpy<2'
    ORACLE/bin/python tests/sweeps/record_wandb_answers.py

The questions stand here, the answers in the file beside them, and test_wandb_answers.py compares.
"""

import itertools
import json
import random
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sweeps.params import HyperParameter

from sweeps import RunState, SweepConfig, SweepRun, next_runs, stop_runs

UNIT = {"min": 0.5, "max": 8.0}
DRAWS = [
    {"min": 0, "max": 1},
    {"min": -3, "max": 12},
    {"min": 0.0, "max": 1},
    {"min": 2, "max": 3.5},
    {"distribution": "uniform", "min": 0, "max": 1},
    {"distribution": "uniform", **UNIT},
    {"distribution": "int_uniform", "min": 1, "max": 6},
    {"distribution": "q_uniform", "min": 0, "max": 10},
    {"distribution": "q_uniform", "min": 0, "max": 10, "q": 3},
    {"distribution": "q_uniform", "min": 0.1, "max": 0.9, "q": 0.05},
    {"distribution": "log_uniform", "min": -4, "max": 1.5},
    {"distribution": "log_uniform_values", **UNIT},
    {"distribution": "log_uniform_values", "min": 1, "max": 1000},
    {"distribution": "q_log_uniform", "min": 0, "max": 5},
    {"distribution": "q_log_uniform", "min": 0, "max": 5, "q": 2},
    {"distribution": "q_log_uniform_values", "min": 8, "max": 512, "q": 8},
    {"distribution": "q_log_uniform_values", "min": 0.01, "max": 2.0, "q": 0.01},
    {"distribution": "inv_log_uniform", "min": -4, "max": 1.5},
    {"distribution": "inv_log_uniform_values", **UNIT},
    {"distribution": "normal"},
    {"distribution": "normal", "mu": 3, "sigma": 0.5},
    {"distribution": "q_normal", "mu": 10, "sigma": 4, "q": 2},
    {"distribution": "q_normal", "mu": 0.3, "sigma": 0.1, "q": 0.1},
    {"distribution": "log_normal", "mu": 1, "sigma": 0.3},
    {"distribution": "q_log_normal", "mu": 2, "sigma": 0.7, "q": 1},
    {"distribution": "beta"},
    {"distribution": "beta", "a": 2, "b": 5},
    {"distribution": "q_beta", "a": 0.5, "b": 0.5, "q": 0.25},
    {"values": ["a", 2, 0.5, True, None, [1, 2]]},
    {"values": ["a", "b", "c", "d"], "probabilities": [0.2, 0.0, 0.5, 0.3]},
    {"distribution": "categorical_w_probabilities", "values": [1, 2], "probabilities": [0.0, 1.0]},
    {"value": 0.25},
    {"distribution": "constant", "value": [1, "x"]},
]
PERCENTILES = [1e-9, 0.001, *(k / 23 for k in range(1, 23)), 0.2, 0.5, 0.999, 1 - 1e-9]

GRIDS = [
    {"b": {"values": [1, 2]}, "a": {"values": ["x", "y", "z"]}, "c": {"value": 0.5}},
    {"a": {"values": [1, 2, 1, 3, 2]}},
    {"a": {"values": [3, 3.0, 1, True, "1", 1.5]}},
    {"a": {"values": [None, False, 0, "", [1], [1.0], {"k": 1}]}},
    {"a": {"min": 1, "max": 4}, "b": {"values": ["p", "q"]}},
    {"a": {"distribution": "q_uniform", "min": 0, "max": 10, "q": 3}},
    {"a": {"distribution": "q_uniform", "min": 0, "max": 9, "q": 3}},
    {"a": {"distribution": "q_uniform", "min": 0.1, "max": 0.5, "q": 0.1}},
    {"a": {"distribution": "q_uniform", "min": 1, "max": 3}},
    {
        "net": {"parameters": {"width": {"values": [8, 16]}, "depth": {"value": 2}}},
        "lr": {"values": [0.1, 0.2]},
        "opt": {"parameters": {"sgd": {"parameters": {"momentum": {"values": [0, 0.9]}}}}},
    },
]

GRID = {"method": "grid", "parameters": {"a": {"values": [1, 2]}}}
METRIC = {"name": "loss", "goal": "minimize"}


def with_parameter(method="random", **given):
    return {"method": method, "parameters": {"a": given}}


FILES = [
    GRID,
    {**GRID, "metric": {"name": "loss"}},
    {**GRID, "metric": METRIC},
    {**GRID, "metric": {"goal": "minimize"}},
    {**GRID, "metric": {"name": "loss", "goal": "biggest"}},
    {**GRID, "metric": {"name": "loss", "target": 0.1}},
    {**GRID, "metric": {"name": "loss", "target": "low"}},
    {**GRID, "metric": {"name": "loss", "unknown": 1}},
    {**GRID, "metric": "loss"},
    {**GRID, "metric": {"name": 3}},
    {**GRID, "metric": {"name": "loss", "impute": "latest"}},
    {**GRID, "name": "n", "description": "d", "project": "p", "entity": "e", "program": "train.py"},
    {**GRID, "name": 3},
    {**GRID, "program": ["train.py"]},
    {**GRID, "kind": "sweep", "apiVersion": "1"},
    {**GRID, "kind": "run"},
    {**GRID, "command": ["${env}", "python", "train.py", "${args}"]},
    {**GRID, "command": "python train.py"},
    {**GRID, "run_cap": 3},
    {**GRID, "run_cap": 0},
    {**GRID, "run_cap": -1},
    {**GRID, "run_cap": "3"},
    {**GRID, "run_cap": 2.5},
    {**GRID, "unknown": 1},
    {**GRID, "controller": {"type": "local"}},
    {"parameters": GRID["parameters"]},
    {"method": "grid"},
    {"method": "greedy", "parameters": GRID["parameters"]},
    {"method": "grid", "parameters": {}},
    {"method": "grid", "parameters": {"3a": {"values": [1]}}},
    {"method": "grid", "parameters": {"a b": {"values": [1]}}},
    {"method": "grid", "parameters": {"a-b.c_d": {"values": [1]}}},
    {"method": "grid", "parameters": {"a": {"parameters": {"b": {"values": [1, 2]}}}}},
    {"method": "grid", "parameters": {"a": {"parameters": {}}}},
    {"method": "grid", "parameters": {"a": {"parameters": {"b": {"values": []}}}}},
    {"method": "grid", "parameters": {"a": {"parameters": {"b": {"value": 1}}, "value": 2}}},
    with_parameter(values=[]),
    with_parameter(values="abc"),
    with_parameter(values={"x": 1}),
    with_parameter(values=[1], value=1),
    with_parameter(values=[1], unknown=1),
    with_parameter(value=None),
    with_parameter(),
    with_parameter(min=1),
    with_parameter(max=1.0),
    with_parameter(min=2, max=1),
    with_parameter(min=1, max=1),
    with_parameter(min=1.0, max=1.0),
    with_parameter(min="0", max=1),
    with_parameter(min=False, max=True),
    with_parameter(min=None, max=1.0),
    with_parameter(min=0, max=1, q=1),
    with_parameter(min=0, max=1, distribution="normal"),
    with_parameter(min=0, max=1.0, distribution="int_uniform"),
    with_parameter(min=0, max=1, distribution="gaussian"),
    with_parameter(min=0, max=1, distribution="log_uniform_values"),
    with_parameter(min=-1, max=1, distribution="inv_log_uniform_values"),
    with_parameter(min=1, max=4, distribution="log_uniform"),
    with_parameter(min=1, max=4, distribution="log_uniform_values"),
    with_parameter(min=1, max=4, distribution="inv_log_uniform"),
    with_parameter(min=1, max=4, distribution="q_log_uniform"),
    with_parameter(min=1, max=4, distribution="q_log_uniform_values"),
    with_parameter(min=0, max=4, distribution="q_uniform", q=0),
    with_parameter(min=0, max=4, distribution="q_uniform", q=-1),
    with_parameter(min=0, max=4, distribution="q_uniform", q="1"),
    with_parameter(distribution="normal", sigma=-1),
    with_parameter(distribution="normal", sigma=0),
    with_parameter(distribution="normal", mu="0"),
    with_parameter(distribution="log_normal", mu=0, sigma=1, q=1),
    with_parameter(distribution="beta", a=0),
    with_parameter(distribution="beta", a=-1),
    with_parameter(distribution="categorical", values=[1, 2]),
    with_parameter(distribution="categorical", values=[1, 2], probabilities=[0.5, 0.5]),
    with_parameter(values=[1, 2], probabilities=[0.5, 0.5]),
    with_parameter(values=[1, 2], probabilities=[0.5, 0.4]),
    with_parameter(values=[1, 2], probabilities=[1.0]),
    with_parameter(values=[1, 2], probabilities=[1.5, -0.5]),
    with_parameter(values=[1, 2], probabilities=["0.5", 0.5]),
    with_parameter(distribution="constant", value=1),
    with_parameter(distribution="constant", values=[1]),
    with_parameter("grid", min=0.0, max=1.0),
    with_parameter("grid", distribution="normal"),
    with_parameter("grid", values=[1, 2], probabilities=[0.5, 0.5]),
    with_parameter("grid", min=0, max=3),
    with_parameter("bayes", min=0, max=3),
    {**with_parameter("bayes", min=0, max=3), "metric": METRIC},
    *(
        {**GRID, "metric": METRIC, "early_terminate": early}
        for early in (
            {"type": "hyperband", "min_iter": 3},
            {"type": "hyperband", "max_iter": 27, "s": 2},
            {"type": "hyperband", "max_iter": 27, "s": 2, "eta": 2.5, "strict": False},
            {"type": "hyperband"},
            {"type": "hyperband", "max_iter": 27},
            {"type": "hyperband", "min_iter": 0},
            {"type": "hyperband", "min_iter": 1.5},
            {"type": "hyperband", "min_iter": 3, "eta": 1},
            {"type": "hyperband", "min_iter": 3, "strict": "yes"},
            {"type": "hyperband", "min_iter": 3, "unknown": 1},
            {"type": "envelope"},
            {"min_iter": 3},
            "hyperband",
        )
    ),
    {**GRID, "early_terminate": {"type": "hyperband", "min_iter": 3}},
]

BRACKETS = [
    {"min_iter": 1},
    {"min_iter": 3, "eta": 2},
    {"min_iter": 2, "eta": 1.5, "strict": False},
    {"max_iter": 27, "s": 2},
    {"max_iter": 20, "s": 4, "eta": 2, "strict": False},
    {"max_iter": 5, "s": 9, "eta": 3, "strict": True},
]


def plain(value):
    """numpy's numbers as Python's."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value


def drawn(given, u):
    return plain(HyperParameter("a", given).ppf(u))


def cells_of(parameters):
    runs = next_runs({"method": "grid", "parameters": parameters}, [], n=1000)
    return [{name: value["value"] for name, value in run.config.items()} for run in runs if run is not None]


def refusal(content):
    """Why W&B does not take a sweep; empty where it does, and gives a first run."""
    try:
        SweepConfig(content)
        if content["method"] != "bayes":  # its search wants results
            next_runs(content, [])
        return ""
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"


def behind(early, goal, histories, running):
    runs = [
        SweepRun(
            name=str(k),
            state=RunState.running if going else RunState.finished,
            history=[{"loss": value} for value in history],
        )
        for k, (history, going) in enumerate(zip(histories, running, strict=True))
    ]
    content = {
        **GRID,
        "metric": {"name": "loss", "goal": goal},
        "early_terminate": {"type": "hyperband", **early},
    }
    return sorted(int(run.name) for run in stop_runs(content, runs))


def terminations():
    rng = random.Random(0)
    for early, goal, _ in itertools.product(BRACKETS, ("minimize", "maximize"), range(6)):
        count = rng.randint(1, 9)
        # of one decimal, so that trials tie
        histories = [[round(rng.random(), 1) for _ in range(rng.randint(0, 30))] for _ in range(count)]
        running = [rng.random() < 0.7 for _ in range(count)]
        yield {
            "early_terminate": early,
            "goal": goal,
            "histories": histories,
            "running": running,
            "stopped": behind(early, goal, histories, running),
        }


def main():
    answers = {
        "made by": "tests/sweeps/record_wandb_answers.py",
        "versions": {name: version(name) for name in ("sweeps", "numpy", "scipy")}
        | {"python": sys.version.split()[0]},
        "percentiles": PERCENTILES,
        "draws": [{"parameter": g, "values": [drawn(g, u) for u in PERCENTILES]} for g in DRAWS],
        "grids": [{"parameters": g, "cells": cells_of(g)} for g in GRIDS],
        "files": [{"content": content, "refused": refusal(content)} for content in FILES],
        "terminations": list(terminations()),
    }
    lines = []  # one line a question
    for key, value in answers.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            inner = ",\n".join(json.dumps(item) for item in value)
            lines.append(f"{json.dumps(key)}: [\n{inner}\n]")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
    path = Path(__file__).with_name("wandb_answers.json")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{path}: {len(DRAWS)} distributions, {len(GRIDS)} grids, {len(FILES)} files")


if __name__ == "__main__":
    main()
