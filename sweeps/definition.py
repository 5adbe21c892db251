"""A sweep file: read, checked, and unrolled into trials, as W&B reads it (its package `sweeps` 0.3.0).

What W&B refuses is refused here, and so is what cannot be done without its server. Every refusal is one line.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from sweeps.command import DEFAULT_COMMAND, refuse_command
from sweeps.hyperband import Hyperband, read_hyperband
from sweeps.parameters import MOST_CELLS, Parameter, read_parameter, spelling

METHODS = ("grid", "random", "bayes")
GOALS = ("minimize", "maximize")
KEYS = (
    "program", "method", "metric", "parameters", "command", "early_terminate", "run_cap",
    "name", "description", "project", "entity", "apiVersion", "kind",
)  # fmt: skip
SHAPING = (
    "program",
    "method",
    "metric",
    "parameters",
    "command",
    "early_terminate",
)  # of the study's identity
NEEDS_A_SERVER = ("controller", "scheduler", "metrics", "job", "image_uri")
PARAMETER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
MOST_DEPTH = 20  # of nested parameters

Trial = dict[str, Any]  # parameter -> value; a dictionary for parameters that are nested


class SweepError(ValueError):
    """A sweep file, or a command about one, that cannot run. The message is one line with key and remedy."""


@dataclass(frozen=True)
class Metric:
    """Attributes:
    name: a key of the row of an epoch.
    goal: minimize or maximize.
    target: no new trial starts once one has reached it.
    """

    name: str
    goal: str = "minimize"
    target: float | None = None


@dataclass(frozen=True)
class Sweep:
    """What a W&B sweep file says.

    Attributes:
        parameters: in W&B's order, which is that of their names.
        command: the words of a trial's command with macros in them.
        run_cap: how many trials the sweep has at most; None for no limit.
        text: what makes two sweeps the same one, as JSON. A larger run_cap, or another name, goes on with it.
    """

    path: Path
    method: str
    parameters: tuple[Parameter, ...]
    program: str
    command: tuple[str, ...]
    metric: Metric | None
    hyperband: Hyperband | None
    run_cap: int | None
    title: str
    description: str
    project: str
    entity: str
    text: str

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.path.stem

    def constant(self, name: str) -> Any:
        """The value of a parameter that is the same in all trials; None where it is not one."""
        return next((p.given["value"] for p in self.parameters if p.name == name and p.is_constant), None)


def read_sweep(path: str | Path) -> Sweep:
    """Raises SweepError, one line, for anything that W&B or one of its agents would trip over."""
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SweepError(f"{path}: {error.strerror}; name a file of sweeps/") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a ValueError: no UTF-8, a day 99
        raise SweepError(f"{path}: not valid YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(content, dict):
        raise SweepError(f"{path}: a sweep file maps keys to values")
    try:
        return _checked(path, content)
    except ValueError as error:
        raise SweepError(f"{path}: {' '.join(str(error).split())[:300]}") from None


def _checked(path: Path, content: Mapping[Any, Any]) -> Sweep:
    """Raises ValueError, one line without the path."""
    _check_keys(content)
    method, program = content["method"], _text(content, "program")
    if method not in METHODS:
        raise ValueError(f"method {method}: use one of {', '.join(METHODS)}")
    command = content.get("command", list(DEFAULT_COMMAND))
    refuse_command(command, program)
    metric, early = _metric(content.get("metric")), content.get("early_terminate")
    if early is not None and not isinstance(early, dict):
        raise ValueError("early_terminate: use a mapping with type: hyperband")
    hyperband = _of("early_terminate", lambda: read_hyperband(early)) if early is not None else None
    if metric is None and (method == "bayes" or hyperband):
        raise ValueError(
            f"the key metric is missing: {'bayes' if method == 'bayes' else 'hyperband'} needs it"
        )
    cap = content.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
        raise ValueError(f"run_cap {cap}: use a whole number of at least 1")
    parameters = tuple(_parameters(content["parameters"]))
    if method == "grid":
        _check_grid(parameters)
    return Sweep(
        path=path,
        method=method,
        parameters=parameters,
        program=program,
        command=tuple(map(str, command)),
        metric=metric,
        hyperband=hyperband,
        run_cap=cap,
        title=_text(content, "name") or path.stem,
        description=_text(content, "description"),
        project=_text(content, "project"),
        entity=_text(content, "entity"),
        text=json.dumps({key: content.get(key) for key in SHAPING}, sort_keys=True, default=str),
    )


def _check_keys(content: Mapping[Any, Any]) -> None:
    for key in content:
        if key in NEEDS_A_SERVER:
            raise ValueError(f"{key}: not done without a server; leave it out, or use wandb sweep")
        if key not in KEYS:
            close = difflib.get_close_matches(str(key), KEYS, n=1, cutoff=0.5)
            raise ValueError(f"unknown key {key}; {f'did you mean {close[0]}?' if close else 'leave it out'}")
    for key in ("method", "parameters"):
        if key not in content:
            raise ValueError(f"the key {key} is missing")
    if content.get("kind", "sweep") != "sweep":
        raise ValueError(f"kind {content['kind']}: use sweep")


def _text(content: Mapping[Any, Any], key: str) -> str:
    value = content.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"{key} {value}: use text; put it in quotes")
    return value


def _metric(given: Any) -> Metric | None:
    if given is None:
        return None
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise ValueError("metric: use a mapping with name and goal")
    for key in given:
        if key.startswith("impute"):
            raise ValueError(
                f"metric.{key}: without a server bayes learns from trials that ended; leave it out"
            )
        if key not in ("name", "goal", "target"):
            raise ValueError(f"metric: unknown key {key}; use name, goal, target")
    goal, target = given.get("goal", "minimize"), given.get("target")
    if goal not in GOALS:
        raise ValueError(f"metric.goal {goal}: use one of {', '.join(GOALS)}")
    if target is not None and (isinstance(target, bool) or not isinstance(target, (int, float))):
        raise ValueError(f"metric.target {target}: use a number")
    return Metric(given["name"], goal, target)


def _parameters(given: Any, inside: tuple[str, ...] = ()) -> Iterator[Parameter]:
    """In the order of their names, nested ones within their parent, as W&B has them."""
    if not isinstance(given, dict) or not given:
        raise ValueError(
            f"{_dotted('parameters', inside)}: use a mapping from names to values: [...] or value: ..."
        )
    for name in given:
        if not isinstance(name, str) or not PARAMETER_NAME.fullmatch(name):
            raise ValueError(
                f"{_dotted('parameters', inside)}: {name}: a parameter's name has letters, digits, _ . - "
                "and begins with a letter or _"
            )
    if len(inside) > MOST_DEPTH:
        raise ValueError(f"parameters.{inside[0]}: nested more than {MOST_DEPTH} deep")
    for name in sorted(given):
        spec, path = given[name], (*inside, name)
        if isinstance(spec, dict) and set(spec) == {"parameters"}:
            yield from _parameters(spec["parameters"], path)
        elif isinstance(spec, dict):
            yield _of(_dotted("parameters", path), lambda path=path, spec=spec: read_parameter(path, spec))
        else:
            raise ValueError(f"{_dotted('parameters', path)}: use values: [...] or value: ...")


def _dotted(first: str, path: Sequence[str]) -> str:
    return ".".join([first, *path])


def _of(where: str, read: Any) -> Any:
    """What `read()` gives; its ValueError says `where`."""
    try:
        return read()
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _check_grid(parameters: Sequence[Parameter]) -> None:
    size = 1
    for parameter in parameters:
        size *= len(_of(f"parameters.{parameter.name}", parameter.grid_values))
        if size > MOST_CELLS:
            raise ValueError(f"parameters: the grid has more than {MOST_CELLS} cells; use method: random")


def size(sweep: Sweep) -> int | None:
    """How many trials there are; None for a random or bayes sweep without run_cap, which has no end."""
    if sweep.method != "grid":
        return sweep.run_cap
    cells = math.prod(len(parameter.grid_values()) for parameter in sweep.parameters)
    return min(cells, sweep.run_cap or cells)


def percentiles(sweep: Sweep, number: int) -> dict[str, float]:
    """Parameter -> percentile of draw `number` of a random sweep: the same on every host, and again."""
    generator = random.Random(f"{sweep.name} {number}")
    return {parameter.name: generator.random() for parameter in sweep.parameters}


def draw(sweep: Sweep, at: Mapping[str, float]) -> Trial:
    """The trial whose parameters are at these percentiles; constant ones need none."""
    return nested(
        {parameter.path: parameter.at(at.get(parameter.name, 0.0)) for parameter in sweep.parameters}
    )


def nested(flat: Mapping[tuple[str, ...], Any]) -> Trial:
    """Path -> value as W&B hands it over: a parameter within another one stands in its dictionary."""
    trial: Trial = {}
    for path, value in flat.items():
        inner = trial
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = value
    return trial


def trials(sweep: Sweep, cap: int | None = None) -> Iterator[Trial]:
    """The trials in W&B's order: the cells of a grid, else draws; of a bayes sweep those before any result.

    Raises SweepError for a random or bayes sweep without a cap.
    """
    cap = cap if cap is not None else sweep.run_cap
    if sweep.method == "grid":
        yield from itertools.islice(cells(sweep), cap)
        return
    if not cap:
        raise SweepError(
            f"{sweep.path}: a {sweep.method} sweep has no end; give run_cap in the file or --count"
        )
    for number in range(cap):
        yield draw(sweep, percentiles(sweep, number))


def cells(sweep: Sweep) -> Iterator[Trial]:
    """The cells of a grid in W&B's order: the last name varies fastest."""
    values = [parameter.grid_values() for parameter in sweep.parameters]
    for cell in itertools.product(*values):
        yield nested(dict(zip([parameter.path for parameter in sweep.parameters], cell, strict=True)))


def trial_id(sweep: Sweep, trial: Mapping[str, Any], repetition: int = 0) -> str:
    """Eight letters that stay the same as long as the trial's parameters do: a re-run is the same W&B run.

    repetition: how many trials of the sweep had the same parameters before this one. W&B trains them again too.
    """
    said = [sweep.name, dict(trial), *([repetition] if repetition else [])]
    return sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]


def repetition(sweep: Sweep, number: int) -> int:
    """How many trials before this one have its parameters. In a Bayesian search every trial is a run of its own."""
    if sweep.method != "random":
        return number if sweep.method == "bayes" else 0
    *before, own = (spelling(draw(sweep, percentiles(sweep, k))) for k in range(number + 1))
    return before.count(own)


def study_name(sweep: Sweep) -> str:
    """Name and digest of a sweep: a file that says something else is another sweep."""
    return f"{sweep.name}-{sha256(sweep.text.encode()).hexdigest()[:8]}"


def differing(sweep: Sweep) -> list[Parameter]:
    """The parameters that can differ between two trials."""
    return [
        parameter
        for parameter in sweep.parameters
        if not parameter.is_constant and len(set(map(spelling, parameter.given.get("values", [0, 1])))) > 1
    ]
