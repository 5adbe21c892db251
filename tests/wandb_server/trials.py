"""Sweeps: which trials there are, which agent gets which, and what becomes of a trial that was preempted."""

from __future__ import annotations

import itertools
import math
import random
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from tests.wandb_server.records import now


def _quantized(value: float, parameter: Mapping[str, Any]) -> float:
    step = parameter.get("q", 1)
    return round(value / step) * step


def _grid_values(parameter: Mapping[str, Any]) -> list[Any]:
    if "values" in parameter:  # each once: 3 and 3.0 are one, 1 and true are not
        return list({repr(float(v) if type(v) is int else v): v for v in parameter["values"]}.values())
    if "value" in parameter:
        return [parameter["value"]]
    low, high = parameter["min"], parameter["max"]
    kind = parameter.get(
        "distribution", "int_uniform" if isinstance(low, int) and isinstance(high, int) else ""
    )
    if kind == "int_uniform":
        return list(range(low, high + 1))
    if kind == "q_uniform":  # max is left out
        step = parameter.get("q", 1.0)
        return [low + step * k for k in range(math.ceil((high - low) / step))]
    raise ValueError(f"grid search needs values, value, int_uniform or q_uniform; got {dict(parameter)}")


def _draw(parameter: Mapping[str, Any], rng: random.Random) -> Any:
    """One draw of a parameter, by its `distribution` (the SDK fills the default one in)."""
    if "value" in parameter:
        return parameter["value"]
    if "values" in parameter:
        return rng.choices(parameter["values"], weights=parameter.get("probabilities"))[0]
    kind = parameter.get("distribution", "uniform")
    quantize = kind.startswith("q_")
    kind = kind.removeprefix("q_")
    if kind == "int_uniform":
        return rng.randint(parameter["min"], parameter["max"])
    if kind == "uniform":
        value = rng.uniform(parameter["min"], parameter["max"])
    elif kind == "log_uniform":
        value = math.exp(rng.uniform(parameter["min"], parameter["max"]))
    elif kind in ("log_uniform_values", "inv_log_uniform_values"):
        value = math.exp(rng.uniform(math.log(parameter["min"]), math.log(parameter["max"])))
    elif kind in ("normal", "log_normal"):
        value = rng.gauss(parameter.get("mu", 0), parameter.get("sigma", 1))
        value = math.exp(value) if kind == "log_normal" else value
    elif kind == "beta":
        value = rng.betavariate(parameter.get("a", 1), parameter.get("b", 1))
    else:
        raise ValueError(f"distribution {kind!r} is not served")
    return _quantized(value, parameter) if quantize else value


def _flat(
    parameters: Mapping[str, Any], prefix: tuple[str, ...] = ()
) -> dict[tuple[str, ...], Mapping[str, Any]]:
    """Parameters by path, in the order of their names: a nested `parameters` mapping becomes a longer path."""
    found: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for name, parameter in sorted(parameters.items()):
        if "parameters" in parameter:
            found |= _flat(parameter["parameters"], (*prefix, name))
        else:
            path = (*prefix, name)
            found[path] = parameter
    return found


def _nested(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for path, value in flat.items():
        inner = out
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = value
    return out


def draws(config: Mapping[str, Any], seed: str) -> Iterator[dict[str, Any]]:
    """The parameter settings of a sweep in order: a finite grid, or endless seeded draws (bayes too)."""
    parameters = _flat(config.get("parameters", {}))
    if config.get("method") == "grid":
        for values in itertools.product(*map(_grid_values, parameters.values())):
            yield _nested(dict(zip(parameters, values, strict=True)))
        return
    rng = random.Random(seed)
    while True:
        yield _nested({path: _draw(parameter, rng) for path, parameter in parameters.items()})


@dataclass
class Trial:
    """One setting on its way through the agents. `attempts` counts the times it was handed out."""

    run: str
    args: dict[str, Any]
    state: str = "queued"
    attempts: int = 0
    agent: str = ""


@dataclass
class Sweep:
    """A sweep and its queue. `commands` are the commands that heartbeats handed out, in order."""

    name: str
    entity: str
    project: str
    config_text: str
    state: str = "RUNNING"
    display_name: str = ""
    description: str | None = None
    trials: dict[str, Trial] = field(default_factory=dict)
    commands: list[dict[str, Any]] = field(default_factory=list)
    created_at: str = field(default_factory=now)

    def __post_init__(self) -> None:
        self.config: dict[str, Any] = yaml.safe_load(self.config_text)
        self._draws = draws(self.config, self.name)
        self._requeued: deque[str] = deque()
        self._stops: set[str] = set()

    @property
    def id(self) -> str:
        return f"Sweep:{self.entity}/{self.project}/{self.name}"

    @property
    def expected(self) -> int | None:
        """How many trials there will be, None when endless."""
        cap = self.config.get("run_cap")
        if self.config.get("method") != "grid":
            return cap
        parameters = _flat(self.config.get("parameters", {}))
        size = math.prod(len(_grid_values(parameter)) for parameter in parameters.values())
        return min(size, cap) if cap else size

    def stop(self, run: str) -> None:
        """Have the next heartbeat of the trial's agent end it (SIGTERM), as early termination does."""
        self._stops.add(run)

    def stops(self, run: str) -> bool:
        """Whether this trial is to end: by `stop`, or because the sweep was cancelled."""
        return run in self._stops or self.state == "CANCELED"

    def close(self, run: str, *, failed: bool, preempted: bool) -> None:
        """A trial ended. One that failed and had marked itself as preempting goes back in the queue."""
        trial = self.trials.get(run)
        if trial is None or trial.state != "running":
            return
        if failed and preempted:
            trial.state = "queued"
            self._requeued.append(run)
        else:
            trial.state = "failed" if failed else "finished"

    def _next(self) -> tuple[str, Trial] | None:
        """The next command's type and trial: what was put back first, then new settings."""
        if self._requeued:
            return "resume", self.trials[self._requeued.popleft()]
        cap = self.config.get("run_cap")
        if cap is not None and len(self.trials) >= cap:
            return None
        args = next(self._draws, None)
        if args is None:
            return None
        run = f"{self.name}t{len(self.trials):03d}"
        self.trials[run] = Trial(run, args)
        return "run", self.trials[run]

    def commands_for(self, agent: str, running: set[str]) -> list[dict[str, Any]]:
        """The answer to a heartbeat of an agent whose processes of the trials in `running` are alive.

        At most one trial at a time and agent. A trial that was put back carries a `_wandb` argument, as the
        service's do. An agent with nothing left to do is told to exit.
        """
        found: list[dict[str, Any]] = [
            {"type": "stop", "run_id": run} for run in sorted(filter(self.stops, running))
        ]
        if not running and not found:
            following = self._next() if self.state == "RUNNING" else None
            if following is not None:
                kind, trial = following
                trial.state, trial.agent, trial.attempts = "running", agent, trial.attempts + 1
                args = {name: {"value": value} for name, value in trial.args.items()}
                if kind == "resume":
                    args["_wandb"] = {"value": {}}
                program = self.config.get("program", "")
                found.append({"type": kind, "run_id": trial.run, "program": program, "args": args})
            elif self.state != "PAUSED":
                found.append({"type": "exit"})
                if self.state == "RUNNING" and all(
                    t.state in ("finished", "failed") for t in self.trials.values()
                ):
                    self.state = "FINISHED"
        self.commands += found
        return found
