"""How a trial is called: by what sets it apart from the others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from sweeps.definition import Sweep, differing
from sweeps.parameters import Parameter


def shown_value(value: Any) -> str:
    """true, 0.0123, digits_regime_few for configs/digits_regime_few.yaml"""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return PurePath(text).stem if "/" in text else text


def value_of(parameter: Parameter, trial: Mapping[str, Any]) -> Any:
    """The parameter's value in a trial, where parameters may be nested."""
    found: Any = trial
    for part in parameter.path:
        found = found[part]
    return found


def label(sweep: Sweep, trial: Mapping[str, Any]) -> str:
    """`darp=true seed=1`: the parameters that differ between the trials; its whole file's name where none does."""
    words = [f"{parameter.name}={shown_value(value_of(parameter, trial))}" for parameter in differing(sweep)]
    return " ".join(words) or sweep.name
