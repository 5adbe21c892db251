"""A sweep as an Optuna study: which trial is next, which are lost, how far all are. Any number of runners share it.

A trial of the sweep is a cell: a cell of the grid, or a draw. Optuna gives each of its trials a number of its own, in
one transaction, and a trial that goes on after its runner died is a new trial of Optuna's that names the one before. So
the cell of a trial is the count of earlier ones that go on with none: no two runners can get the same, and nothing has
to be filled in beforehand that a runner could die in the middle of.

Optuna's heartbeats tell which runners are alive.
"""

from __future__ import annotations

import json
import math
import os
import random
import socket
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.samplers import PartialFixedSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from sweeps.definition import Sweep, SweepError, Trial, differing, nested, percentiles, size, study_name
from sweeps.parameters import Parameter

optuna.logging.set_verbosity(optuna.logging.ERROR)  # what happens is said by the runner
warnings.filterwarnings("ignore", category=ExperimentalWarning)

HEARTBEAT_S = 10
SILENT = 6  # a trial without a sign of life for so many heartbeats is taken over
GOES_ON, CELL, ABOUT, WAS, END, SURPLUS = "goes_on", "cell", "about", "was", "end", "surplus"  # attributes
MOST_TRIES = 5  # of making the tables: runners that start together race for it

State = Literal["done", "ended early", "failed", "running", "interrupted"]


@dataclass(frozen=True)
class Progress:
    """How far one cell is.

    Attributes:
        state: interrupted is what waits to go on.
        value: of the metric: the best of its rows; None without one.
        rows: how many rows carry the metric.
    """

    cell: int
    state: State
    parameters: Trial
    trial_id: str
    host: str
    folder: str
    log: str
    value: float | None
    rows: int
    seconds: float
    exit_code: int | None


class Study:
    """The study of a sweep in a database.

    Args:
        url: of SQLAlchemy: sqlite:///FILE, postgresql://...
        create: False only looks: then `found` says whether there is one.

    Raises SweepError, one line, when the database cannot be used.
    """

    def __init__(
        self, sweep: Sweep, url: str, *, heartbeat_s: int = HEARTBEAT_S, create: bool = True
    ) -> None:
        self.sweep, self.size, self.heartbeat_s = sweep, size(sweep), heartbeat_s
        self._sign = -1.0 if sweep.metric and sweep.metric.goal == "maximize" else 1.0
        self._space = space(sweep)
        self._seen_silent: set[int] = set()
        try:
            self._storage = _storage(url, heartbeat_s)
            if create:
                self._study = optuna.create_study(
                    storage=self._storage,
                    study_name=study_name(sweep),
                    direction="maximize" if self._sign < 0 else "minimize",
                    load_if_exists=True,
                )
            else:
                self._study = optuna.load_study(storage=self._storage, study_name=study_name(sweep))
            self.found = True
        except KeyError:
            self.found = False
        except (
            sqlalchemy.exc.SQLAlchemyError,
            StorageInternalError,
            ImportError,
            OSError,
            ValueError,
            RuntimeError,
        ) as error:
            raise SweepError(f"--storage {shown(url)}: {_reason(error)}; {_remedy(url)}") from None

    def for_a_thread(self) -> optuna.Study:
        """The study with a sampler of its own."""
        return optuna.load_study(storage=self._storage, study_name=study_name(self.sweep))

    def trials(self) -> list[FrozenTrial]:
        """Optuna's trials in the order of their numbers."""
        return self._study.get_trials(deepcopy=False)

    def recover(self) -> None:
        """Put trials back in the queue whose runner died."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if ABOUT not in trial.user_attrs and trial.number not in self._seen_silent:
                # Its runner may have died before the first heartbeat; without one Optuna would wait for ever.
                self._seen_silent.add(trial.number)
                self._storage.record_heartbeat(trial._trial_id)
        optuna.storages.fail_stale_trials(self._study)
        trials = self.trials()
        gone_on = {trial.user_attrs.get(GOES_ON) for trial in trials}
        for trial in trials:
            attributes = trial.user_attrs
            lost = trial.state == TrialState.FAIL and END not in attributes and SURPLUS not in attributes
            if lost and trial.number not in gone_on:
                self.put_back(trial.number, trials)

    def put_back(self, number: int, trials: Sequence[FrozenTrial] | None = None) -> None:
        """Queue a trial that goes on with the one of this number. Doing it twice does no harm: see `claimed`."""
        trials = self.trials() if trials is None else trials
        before = trials[number]
        self._study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.WAITING,
                params=before.params,
                distributions=before.distributions,
                user_attrs={
                    GOES_ON: number,
                    CELL: cell_of(before, trials),
                    WAS: before.user_attrs.get(ABOUT) or before.user_attrs.get(WAS, {}),
                },
            )
        )

    def put_back_failed(self) -> int:
        """Queue what failed by itself; returns how many."""
        trials = self.trials()
        failed = [t for t in latest(trials).values() if t.state == TrialState.FAIL and END in t.user_attrs]
        for trial in failed:
            self.put_back(trial.number, trials)
        return len(failed)

    def claimed(self, trial: optuna.Trial) -> int | None:
        """The cell of Optuna's new trial; None where two runners asked at the same moment, and it is one too many."""
        trials = self.trials()
        own = trials[trial.number]
        before, cell = own.user_attrs.get(GOES_ON), cell_of(own, trials)
        earlier = trials[: trial.number]
        twin = before is not None and any(t.user_attrs.get(GOES_ON) == before for t in earlier)
        if twin or (self.size is not None and cell >= self.size):
            trial.set_user_attr(SURPLUS, True)
            return None
        return cell

    def draw(self, trial: optuna.Trial, cell: int) -> Trial:
        """The parameters of the cell, which Optuna's trial is told too. What a trial goes on with it keeps."""
        trial.study.sampler = self._sampler(cell)
        values = {}
        for parameter in self.sweep.parameters:
            distribution = self._space.get(parameter.name)
            if isinstance(distribution, CategoricalDistribution):
                chosen = trial.suggest_categorical(parameter.name, distribution.choices)
                values[parameter.path] = json.loads(str(chosen))
            elif isinstance(distribution, FloatDistribution):
                values[parameter.path] = parameter.at(trial.suggest_float(parameter.name, 0.0, 1.0))
            else:
                values[parameter.path] = parameter.at(0.0)
        return nested(values)

    def _sampler(self, cell: int) -> optuna.samplers.BaseSampler:
        """What decides the coordinates of a cell; seeded by it, so that a repeated sweep draws the same."""
        if self.sweep.method == "bayes":
            # trials that still run count as bad where they are
            return TPESampler(seed=cell, constant_liar=True)
        if self.sweep.method == "random":
            at = percentiles(self.sweep, cell)
            own = {p.name: _coordinate(p, self._space[p.name], at[p.name]) for p in differing(self.sweep)}
        else:
            own = grid_coordinates(self.sweep, cell)
        return PartialFixedSampler(own, RandomSampler(seed=cell))

    def queue(self) -> Literal["start", "wait", "end"]:
        """What a free runner does: start a trial, wait in case a runner dies whose trials are under way, or end."""
        trials = self.trials()
        if self.reached_target(trials):
            return "end"
        started = sum(GOES_ON not in trial.user_attrs for trial in trials)
        states = [trial.state for trial in latest(trials).values()]
        if TrialState.WAITING in states or self.size is None or started < self.size:
            return "start"
        return "wait" if TrialState.RUNNING in states else "end"

    def reached_target(self, trials: Sequence[FrozenTrial]) -> bool:
        metric = self.sweep.metric
        if metric is None or metric.target is None:
            return False
        values = [t.value for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
        return any(self._sign * value <= self._sign * metric.target for value in values)

    def is_behind(self, own: optuna.Trial, values: Sequence[float]) -> bool:
        """Whether hyperband ends the trial with these values of the metric."""
        hyperband = self.sweep.hyperband
        bracket = hyperband.bracket(len(values)) if hyperband else None
        if hyperband is None or bracket is None:
            return False
        others = [
            self._sign * trial.intermediate_values[bracket - 1]
            for trial in latest(self.trials()).values()
            if trial.number != own.number and bracket - 1 in trial.intermediate_values
        ]
        return hyperband.is_behind([self._sign * value for value in values], others)

    def best(self, values: Sequence[float]) -> float:
        """What a trial with these values of the metric is worth: its best, as for W&B; the worst without one."""
        return self._sign * min((self._sign * value for value in values), default=math.inf)

    def is_running(self, number: int) -> bool:
        """Whether a trial is still this runner's: another one takes it over when this one was silent."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return any(trial.number == number for trial in running)

    def progress(self) -> list[Progress]:
        """Every cell that was started, in their order."""
        return [_progress(cell, trial) for cell, trial in sorted(latest(self.trials()).items())]

    def importances(self) -> dict[str, float]:
        """Parameter -> share of the metric's variance that Optuna says it explains; empty where it cannot tell."""
        if self.sweep.metric is None:
            return {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return optuna.importance.get_param_importances(self._study)
        except (ValueError, RuntimeError):  # too few trials, or all the same
            return {}


def space(sweep: Sweep) -> dict[str, BaseDistribution]:
    """What Optuna varies: values by their JSON, and for every other distribution the percentile."""
    found: dict[str, BaseDistribution] = {}
    for parameter in differing(sweep):
        values = parameter.grid_values() if sweep.method == "grid" else parameter.given.get("values")
        if values is None or parameter.kind == "categorical_w_probabilities":
            found[parameter.name] = FloatDistribution(0.0, 1.0)
        else:
            found[parameter.name] = CategoricalDistribution(list(dict.fromkeys(map(json.dumps, values))))
    return found


def grid_coordinates(sweep: Sweep, cell: int) -> dict[str, Any]:
    """Parameter -> JSON of its value, in the cell of this number: the last name varies fastest."""
    own: dict[str, Any] = {}
    for parameter in reversed(differing(sweep)):
        values = parameter.grid_values()
        cell, place = divmod(cell, len(values))
        own[parameter.name] = json.dumps(values[place])
    return own


def _coordinate(parameter: Parameter, distribution: BaseDistribution, u: float) -> Any:
    return u if isinstance(distribution, FloatDistribution) else json.dumps(parameter.at(u))


def cell_of(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """The cell of one of `trials`, which are all, in the order of their numbers."""
    if CELL in trial.user_attrs:
        return int(trial.user_attrs[CELL])
    return sum(GOES_ON not in earlier.user_attrs for earlier in trials[: trial.number])


def latest(trials: Sequence[FrozenTrial]) -> dict[int, FrozenTrial]:
    """Cell -> the trial that counts for it: the last one that was wanted."""
    found: dict[int, FrozenTrial] = {}
    gone_on: set[int] = set()
    cells = 0  # counted here as `cell_of` does, which would look at all pairs
    for trial in trials:
        before = trial.user_attrs.get(GOES_ON)
        cell = trial.user_attrs.get(CELL, cells)
        cells += before is None
        if SURPLUS in trial.user_attrs or before in gone_on:
            continue
        if before is not None:
            gone_on.add(before)
        found[cell] = trial
    return found


def _progress(cell: int, trial: FrozenTrial) -> Progress:
    attributes = trial.user_attrs
    about, end = attributes.get(ABOUT) or attributes.get(WAS, {}), attributes.get(END, {})
    states: dict[TrialState, State] = {
        TrialState.COMPLETE: "done",
        TrialState.PRUNED: "ended early",
        TrialState.RUNNING: "running",
        TrialState.WAITING: "interrupted",
        TrialState.FAIL: "failed" if end else "interrupted",
    }
    value = end.get("value")
    return Progress(
        cell=cell,
        state=states[trial.state],
        parameters=about.get("parameters", {}),
        trial_id=about.get("id", ""),
        host=about.get("host", ""),
        folder=end.get("folder", ""),
        log=about.get("log", ""),
        value=value if value is not None else _newest(trial),
        rows=end.get("rows", max(trial.intermediate_values, default=-1) + 1),
        seconds=end.get("seconds", 0.0),
        exit_code=end.get("exit_code"),
    )


def _newest(trial: FrozenTrial) -> float | None:
    """The newest value that a trial under way has reported."""
    values = trial.intermediate_values
    return values[max(values)] if values else None


def about(trial_id: str, parameters: Trial, log: Path) -> dict[str, Any]:
    """What a trial says of itself when it starts."""
    host = socket.gethostname()
    return {"id": trial_id, "parameters": parameters, "host": host, "pid": os.getpid(), "log": str(log)}


def _storage(url: str, heartbeat_s: int) -> optuna.storages.RDBStorage:
    parsed = sqlalchemy.make_url(url)
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    lite = parsed.get_backend_name() == "sqlite"
    if lite and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine: dict[str, Any] = {"connect_args": {"timeout": 60}} if lite else {"pool_pre_ping": True}
    for attempt in range(1, MOST_TRIES + 1):
        try:
            storage = optuna.storages.RDBStorage(
                parsed.render_as_string(hide_password=False),
                engine_kwargs=engine,
                heartbeat_interval=heartbeat_s,
                grace_period=SILENT * heartbeat_s,
            )
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError):  # noqa: PERF203 - it is seconds that pass
            if attempt == MOST_TRIES:
                raise
            time.sleep(random.uniform(0.1, 0.5))
        else:
            if lite:
                _lock_from_the_start(storage.engine)
            return storage
    raise AssertionError


def _lock_from_the_start(engine: sqlalchemy.Engine) -> None:
    """Have every transaction of SQLite take the write lock first.

    Optuna reads a trial's state and then sets it, for which other databases lock the row. Python's sqlite3 begins a
    transaction only at the first write: two runners could both read that a trial waits, and both take it.
    """

    def connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # no transaction that Python begins by itself

    def begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    sqlalchemy.event.listen(engine, "connect", connect)
    sqlalchemy.event.listen(engine, "begin", begin)
    engine.dispose()  # connections that were made before


def shown(url: str) -> str:
    """A URL without its password."""
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return url.split("@")[-1]


def _reason(error: Exception) -> str:
    said = str(getattr(error, "orig", None) or error.__cause__ or error)
    return " ".join(said.split())[:160]


def _remedy(url: str) -> str:
    if url.startswith("sqlite"):
        return "name a file that can be written, as sqlite:///FILE"
    return "start the database, or name another one as postgresql://USER@HOST/NAME"
