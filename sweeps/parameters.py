"""One parameter of a W&B sweep file: which distribution it has, its values in a grid, its value at a percentile.

The semantics are those of W&B's own package `sweeps` 0.3.0 (`config/schema.json`, `params.py`, `grid_search.py`);
tests/sweeps holds its answers. A draw is the value at a percentile that is uniform on (0, 1), as it is there. So one
number stands for a draw of any distribution, and that is what the Bayesian search varies.
"""

from __future__ import annotations

import bisect
import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

Given = Mapping[str, Any]


class Kind(NamedTuple):
    """What a distribution needs, what it has by default, and its value at a percentile in (0, 1)."""

    needs: tuple[str, ...]
    defaults: Given
    at: Callable[[Given, float], Any]


def _uniform(given: Given, u: float) -> float:
    return float(given["min"] + u * (given["max"] - given["min"]))


def _log_uniform(given: Given, u: float) -> float:
    """`min` and `max` are exponents of e: W&B's older form."""
    return math.exp(_uniform(given, u))


def _log_uniform_values(given: Given, u: float) -> float:
    low, high = math.log(given["min"]), math.log(given["max"])
    return math.exp(low + u * (high - low))


def _inv_log_uniform(given: Given, u: float) -> float:
    """`min` and `max` are exponents of e of the inverse value."""
    return math.exp(-_uniform(given, 1 - u))


def _normal(given: Given, u: float) -> float:
    return NormalDist(given["mu"], given["sigma"]).inv_cdf(u)


def _log_normal(given: Given, u: float) -> float:
    return math.exp(_normal(given, u))


def _beta(given: Given, u: float) -> float:
    from scipy.special import betaincinv  # takes long to import, and few sweeps need it

    return float(betaincinv(given["a"], given["b"], u))


def _int_uniform(given: Given, u: float) -> int:
    low, high = given["min"], given["max"]
    return int(min(high, low + max(0, math.ceil(u * (high - low + 1)) - 1)))


def _categorical(given: Given, u: float) -> Any:
    values = given["values"]
    return values[max(0, math.ceil(u * len(values)) - 1)]


def _categorical_w_probabilities(given: Given, u: float) -> Any:
    """The first value whose cumulated probability is above u; one with probability 0 never is."""
    cumulated = list(itertools.accumulate(given["probabilities"]))
    return given["values"][bisect.bisect_right(cumulated, u * cumulated[-1])]


def _quantized(at: Callable[[Given, float], float]) -> Callable[[Given, float], Any]:
    """The multiple of q that is nearest; a whole number where q is one."""

    def rounded(given: Given, u: float) -> int | float:
        q = given["q"]
        value = round(at(given, u) / q) * q
        return int(value) if isinstance(q, int) else float(value)

    return rounded


_RANGE = ("min", "max")
_NORMAL: Given = {"mu": 0.0, "sigma": 1.0}
_BETA: Given = {"a": 1, "b": 1}
_Q: Given = {"q": 1.0}
KINDS: Mapping[str, Kind] = {
    "constant": Kind(("value",), {}, lambda given, u: given["value"]),
    "categorical": Kind(("values",), {}, _categorical),
    "categorical_w_probabilities": Kind(("values", "probabilities"), {}, _categorical_w_probabilities),
    "int_uniform": Kind(_RANGE, {}, _int_uniform),
    "uniform": Kind(_RANGE, {}, _uniform),
    "q_uniform": Kind(_RANGE, _Q, _quantized(_uniform)),
    "log_uniform": Kind(_RANGE, {}, _log_uniform),
    "log_uniform_values": Kind(_RANGE, {}, _log_uniform_values),
    "q_log_uniform": Kind(_RANGE, _Q, _quantized(_log_uniform)),
    "q_log_uniform_values": Kind(_RANGE, _Q, _quantized(_log_uniform_values)),
    "inv_log_uniform": Kind(_RANGE, {}, _inv_log_uniform),
    "inv_log_uniform_values": Kind(_RANGE, {}, _log_uniform_values),  # its inverse is log-uniform: so is it
    "normal": Kind((), _NORMAL, _normal),
    "q_normal": Kind((), {**_NORMAL, **_Q}, _quantized(_normal)),
    "log_normal": Kind((), _NORMAL, _log_normal),
    "q_log_normal": Kind((), {**_NORMAL, **_Q}, _quantized(_log_normal)),
    "beta": Kind((), _BETA, _beta),
    "q_beta": Kind((), {**_BETA, **_Q}, _quantized(_beta)),
}
GRID_KINDS = ("constant", "categorical", "int_uniform", "q_uniform")
MOST_CELLS = 1_000_000  # of one parameter in a grid, and of a grid
SMALLEST_U = 2.0**-53  # at a percentile of 0 some distributions have no value


@dataclass(frozen=True)
class Parameter:
    """A parameter that was checked.

    Attributes:
        path: its name; more than one part where it is nested.
        kind: a key of KINDS.
        given: what the file says, with the defaults of its kind.
    """

    path: tuple[str, ...]
    kind: str
    given: Given

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def is_constant(self) -> bool:
        return self.kind == "constant"

    def at(self, u: float) -> Any:
        """The value at the percentile `u` in [0, 1)."""
        return KINDS[self.kind].at(self.given, max(u, SMALLEST_U))

    def grid_values(self) -> list[Any]:
        """Its values in a grid, each once, in their order. Raises ValueError, one line, where a grid cannot have it."""
        given = self.given
        if self.kind == "constant":
            return [given["value"]]
        if self.kind == "categorical":
            return list({spelling(value): value for value in given["values"]}.values())
        if self.kind not in GRID_KINDS:
            raise ValueError(
                f"{self.kind}: a grid needs values, value, whole numbers with min and max, or q_uniform; "
                "use one of them, or method: random"
            )
        step = 1 if self.kind == "int_uniform" else given["q"]
        count = math.ceil((given["max"] - given["min"]) / step) + (self.kind == "int_uniform")
        if count > MOST_CELLS:
            raise ValueError(f"{count} values: a grid takes at most {MOST_CELLS}; use method: random")
        return [given["min"] + step * k for k in range(count)]  # q_uniform leaves max out, as W&B does


def spelling(value: Any) -> str:
    """A text that two values share where W&B takes them for one: 3 and 3.0, but not 1 and true."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


def read_parameter(path: tuple[str, ...], given: Given) -> Parameter:
    """Raises ValueError, one line without the parameter's name, for what W&B would refuse or could not draw."""
    kind = _kind_of(given)
    needs, defaults, _ = KINDS[kind]
    for key in needs:
        if key not in given:
            raise ValueError(f"{kind} needs {key}; add {key}: ...")
    known = {"distribution", *needs, *defaults}
    for key in given:
        if key not in known:
            raise ValueError(f"{key} is no key of {kind}; use {', '.join(sorted(known))}")
    filled = {**defaults, **{key: plain(value) for key, value in given.items() if key != "distribution"}}
    _check_values(filled)
    _check_numbers(kind, filled)
    return Parameter(path, kind, filled)


def _kind_of(given: Given) -> str:
    """The distribution, by its name or by what is given."""
    named = given.get("distribution")
    if named is not None:
        if named not in KINDS:
            raise ValueError(f"distribution {named}: use one of {', '.join(KINDS)}")
        return str(named)
    if "value" in given:
        return "constant"
    if "values" in given:
        return "categorical_w_probabilities" if "probabilities" in given else "categorical"
    if "min" in given or "max" in given:
        both_whole = all(_is_number(given.get(key)) and isinstance(given.get(key), int) for key in _RANGE)
        return "int_uniform" if both_whole else "uniform"
    raise ValueError("use values: [...], value: ..., or min: ... with max: ...")


def _check_values(given: dict[str, Any]) -> None:
    if "values" not in given:
        return
    values = given["values"]
    if not isinstance(values, list) or not values:
        raise ValueError(f"values {_shown(values)}: use a list with at least one value")
    if "probabilities" not in given:
        return
    probabilities = given["probabilities"]
    if not isinstance(probabilities, list) or not all(_is_number(p) and p >= 0 for p in probabilities):
        raise ValueError(f"probabilities {_shown(probabilities)}: use a list of numbers of at least 0")
    if len(probabilities) != len(values):
        raise ValueError(f"probabilities: {len(probabilities)} for {len(values)} values; use one for each")
    if not math.isclose(sum(probabilities), 1, rel_tol=1e-5, abs_tol=1e-8):
        raise ValueError(f"probabilities {_shown(probabilities)}: their sum is {sum(probabilities):g}; use 1")


def _check_numbers(kind: str, given: Given) -> None:
    for key in ("min", "max", "q", "mu", "sigma", "a", "b"):
        if key not in given:
            continue
        number = given[key]
        if not _is_number(number):
            raise ValueError(f"{key} {_shown(number)}: use a number, such as 0.001 (YAML reads 1e-3 as text)")
        if key in ("q", "sigma", "a", "b") and number <= 0:
            raise ValueError(f"{key} {number}: use a number above 0")
        if kind == "int_uniform" and not isinstance(number, int):
            raise ValueError(f"{key} {number}: int_uniform needs a whole number")
    if "min" not in given:
        return
    if given["min"] >= given["max"]:
        raise ValueError(f"min {given['min']} is not below max {given['max']}; use a smaller min")
    if kind.endswith("_values") and given["min"] <= 0:
        raise ValueError(f"min {given['min']}: {kind} needs a min above 0")
    try:
        if not math.isfinite(KINDS[kind].at(given, 1 - SMALLEST_U) - KINDS[kind].at(given, SMALLEST_U)):
            raise OverflowError
    except OverflowError:
        hint = "; min and max are exponents of e here" if kind.endswith("log_uniform") else ""
        raise ValueError(
            f"min {given['min']} and max {given['max']} are beyond the range of numbers{hint}"
        ) from None


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the range of floats
        return False


def plain(value: Any) -> Any:
    """`value` as JSON has it, which is how W&B sends it to an agent. Raises ValueError for a date, nan or such."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        raise ValueError(f"{_shown(value)}: use text, numbers, true, false or null; quote dates") from None


def _shown(value: Any) -> str:
    return " ".join(str(value).split())[:80]
