"""A sweep file: read, checked, and unrolled into trials."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

REQUIRED = ("program", "method", "metric", "parameters", "command")
METHODS = ("grid", "random", "bayes")
MACROS = (
    "${env}",
    "${interpreter}",
    "${program}",
    "${args}",
    "${args_no_boolean_flags}",
    "${args_no_hyphens}",
)


class SweepError(ValueError):
    """A sweep file that cannot run. The message is one line and names file, key and remedy."""


@dataclass(frozen=True)
class Sweep:
    """What a W&B sweep file says. `parameters` maps each name to its list of values (of a grid) or distribution."""

    path: Path
    program: str
    method: str
    metric: Mapping[str, str]
    parameters: Mapping[str, Mapping[str, Any]]
    command: tuple[str, ...]
    run_cap: int | None = None

    @property
    def name(self) -> str:
        return self.path.stem


def read_sweep(path: str | Path) -> Sweep:
    """Raises SweepError for anything that `wandb agent` would trip over later."""
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SweepError(f"{path}: {error.strerror}; name a file of sweeps/") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a ValueError: no UTF-8, a day 99
        raise SweepError(f"{path}: not valid YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(content, dict):
        raise SweepError(f"{path}: a sweep file maps keys to values")
    for key in REQUIRED:
        if key not in content:
            raise SweepError(f"{path}: the key {key} is missing")
    _check_kinds(path, content)
    if content["method"] not in METHODS:
        raise SweepError(f"{path}: method {content['method']}: use one of {', '.join(METHODS)}")
    if not isinstance(content["command"], list) or not all(
        isinstance(part, str) for part in content["command"]
    ):
        raise SweepError(f"{path}: command: use a list, one item for each word")
    for part in content["command"]:
        if "${" in part and part not in MACROS:
            raise SweepError(
                f"{path}: command: {part}: a macro must be a whole item, one of {' '.join(MACROS)}"
            )
    for name, spec in content["parameters"].items():
        if not isinstance(spec, dict):
            raise SweepError(f"{path}: parameters.{name}: use values: [...] or value: ...")
        if "values" in spec and not (isinstance(spec["values"], list) and spec["values"]):
            raise SweepError(f"{path}: parameters.{name}: values: use a list with at least one value")
        if content["method"] == "grid" and "values" not in spec and "value" not in spec:
            raise SweepError(f"{path}: parameters.{name}: a grid needs values: [...] or value: ...")
    return Sweep(
        path,
        content["program"],
        content["method"],
        content["metric"],
        content["parameters"],
        tuple(content["command"]),
        content.get("run_cap"),
    )


def _check_kinds(path: Path, content: Mapping[str, Any]) -> None:
    """Each key holds what it is read as."""
    kinds: dict[str, tuple[type, str]] = {
        "program": (str, "the name of a program"),
        "method": (str, f"one of {', '.join(METHODS)}"),
        "metric": (dict, "a mapping with name and goal"),
        "parameters": (dict, "a mapping from names to values: [...] or value: ..."),
    }
    for key, (kind, wanted) in kinds.items():
        if not isinstance(content[key], kind):
            raise SweepError(f"{path}: {key}: use {wanted}")
    for name in content["parameters"]:
        if not isinstance(name, str):
            raise SweepError(f"{path}: parameters: {name}: a parameter's name is text")
    cap = content.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
        raise SweepError(f"{path}: run_cap: use a whole number of at least 1")


def trials(sweep: Sweep, cap: int | None = None) -> Iterator[dict[str, Any]]:
    """Parameter name -> value of each trial: all cells of a grid, or `cap` random draws of what has a distribution.

    Raises SweepError for a random or bayes sweep without a cap.
    """
    cap = cap or sweep.run_cap
    if sweep.method == "grid":
        values = [
            spec["values"] if "values" in spec else [spec["value"]] for spec in sweep.parameters.values()
        ]
        cells = (dict(zip(sweep.parameters, cell, strict=True)) for cell in itertools.product(*values))
        yield from itertools.islice(cells, cap)
        return
    if not cap:
        raise SweepError(
            f"{sweep.path}: a {sweep.method} sweep has no end; give run_cap in the file or --count"
        )
    generator = random.Random(0)
    for _ in range(cap):
        yield {name: _draw(sweep.path, name, spec, generator) for name, spec in sweep.parameters.items()}


def _draw(path: Path, name: str, spec: Mapping[str, Any], generator: random.Random) -> Any:
    if "value" in spec:
        return spec["value"]
    if "values" in spec:
        return generator.choice(spec["values"])
    low, high = spec.get("min"), spec.get("max")
    if low is None or high is None:
        raise SweepError(
            f"{path}: parameters.{name}: only value, values, and min with max are drawn without a server"
        )
    numbers = all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in (low, high))
    if not numbers or not low <= high:
        raise SweepError(f"{path}: parameters.{name}: min and max are numbers, min the smaller one")
    if spec.get("distribution") == "log_uniform_values" and low <= 0:
        raise SweepError(f"{path}: parameters.{name}: log_uniform_values needs a min above 0")
    if spec.get("distribution") == "log_uniform_values":
        return low * (high / low) ** generator.random()
    if isinstance(low, int) and isinstance(high, int):
        return generator.randint(low, high)
    return generator.uniform(low, high)


def trial_id(sweep: Sweep, trial: Mapping[str, Any]) -> str:
    """Eight letters that stay the same as long as the trial's parameters do: a re-run is the same W&B run."""
    return sha256(json.dumps([sweep.name, dict(trial)], sort_keys=True).encode()).hexdigest()[:8]


def as_flags(trial: Mapping[str, Any], *, boolean_flags: bool = True) -> list[str]:
    """The words that an agent passes: `--name=value`; with `boolean_flags`, true is `--name` and false is nothing."""
    words = []
    for name, value in trial.items():
        if boolean_flags and isinstance(value, bool):
            words += [f"--{name}"] if value else []
        else:
            words.append(f"--{name}={value}")
    return words


def command_of(sweep: Sweep, trial: Mapping[str, Any], interpreter: str) -> list[str]:
    """The command line of a trial, its macros filled in as `wandb agent` fills them."""
    flags = as_flags(trial)
    filled: dict[str, list[str]] = {
        "${env}": ["/usr/bin/env"],
        "${interpreter}": [interpreter],
        "${program}": [sweep.program],
        "${args}": as_flags(trial, boolean_flags=False),
        "${args_no_boolean_flags}": flags,
        "${args_no_hyphens}": [word.removeprefix("--") for word in as_flags(trial, boolean_flags=False)],
    }
    return [word for part in sweep.command for word in filled.get(part, [part])]
