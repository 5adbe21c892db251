"""Flags made from a dataclass's fields, and presets in YAML below them: a flag wins over a preset."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from semi.config import ONLINE, ConfigError, require_text, shown
from semi.names import load_plugin

PRESETS = Path(__file__).parents[1] / "configs"
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def parse_bool(text: str) -> bool:
    """Every spelling in which a sweep's agent hands over a boolean."""
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise ValueError("use true or false")


def spellings(spec: dataclasses.Field[Any]) -> list[str]:
    """All flags of a field, the documented one first: both `-` and `_` of each name, each once."""
    names = [*spec.metadata["flags"], spec.name]
    both = [variant for name in names for variant in (name, name.replace("-", "_"), name.replace("_", "-"))]
    return [f"--{name}" for name in dict.fromkeys(both)]


def _base_type(annotation: Any) -> tuple[type, bool]:
    """(the type to convert to, whether None is allowed)"""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        members = [t for t in typing.get_args(annotation) if t is not type(None)]
        return members[0], True
    return annotation, False


def convert(name: str, value: Any, annotation: Any, choices: Collection[str] = ()) -> Any:
    """A text or YAML value as the field's type; ConfigError names field, value and remedy.

    `none` is the absent value unless it is one of the field's `choices`.
    """
    kind, optional = _base_type(annotation)
    if value is None or (str(value).lower() in ("none", "null") and value not in choices):
        if optional:
            return None
        raise ConfigError(f"--{name} {shown(value)}: this needs a value; leave it out for its default")
    what = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]
    try:
        if kind is bool:
            return value if isinstance(value, bool) else parse_bool(str(value))
        if isinstance(value, (dict, list)) or (isinstance(value, bool) and kind is not str):
            raise ValueError(what)
        if kind is int:
            if isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
                return int(value)  # all digits count: a float has 16 of them
            number = value if isinstance(value, int) else float(value)
            if number != int(number):
                raise ValueError(what)
            return int(number)
        return kind(value)
    except (ValueError, TypeError, OverflowError):  # a date of YAML is neither text nor number
        raise ConfigError(f"--{name} {shown(value)}: use {what}") from None


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean X?`, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {match[0]}?" if match else ""


def help_of(spec: dataclasses.Field[Any]) -> str:
    """The line of --help: what the flag does, its default, and where it departs from the original on purpose."""
    differs = spec.metadata["differs"]
    note = f" [differs from the original: {differs}]" if differs else ""
    return f"{spec.metadata['help']} (default: {spec.default!r}){note}"


def switches(option_classes: Iterable[type]) -> dict[str, dataclasses.Field[Any]]:
    """Flag name -> field, of flags that are short for one choice of a field: `--darp` is `--refine darp`."""
    return {
        spec.metadata["switch"]: spec
        for options in option_classes
        for spec in dataclasses.fields(options)
        if spec.metadata["switch"]
    }


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(" ".join(message.split()))


def build_parser(description: str, *option_classes: type) -> argparse.ArgumentParser:
    """A parser whose result holds only what was given; defaults stand in the help text."""
    parser = _Parser(description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument(
        "--config", metavar="FILE", help="a preset in YAML, such as configs/digits_regime_few.yaml"
    )
    parser.add_argument("--_wandb", help=argparse.SUPPRESS)  # requeued sweep trials carry it
    groups: dict[str, Any] = {}
    for options in option_classes:
        hints = typing.get_type_hints(options)
        for spec in dataclasses.fields(options):
            heading = spec.metadata["group"]
            if heading not in groups:
                groups[heading] = parser.add_argument_group(heading)
            kind, _ = _base_type(hints[spec.name])
            extra: dict[str, Any] = {"nargs": "?", "const": "true"} if kind is bool else {}
            choices = spec.metadata["choices"]
            groups[heading].add_argument(
                *spellings(spec),
                dest=spec.name,
                metavar="{" + ",".join(choices) + "}" if choices else kind.__name__.upper(),
                help=help_of(spec).replace("%", "%%"),
                **extra,
            )
            if switch := spec.metadata["switch"]:
                groups[heading].add_argument(
                    f"--{switch}",
                    nargs="?",
                    const="true",
                    metavar="BOOL",
                    help=f"Short for --{spec.name} {switch}.",
                )
    return parser


def read_preset(path: str, option_classes: Sequence[type]) -> dict[str, Any]:
    """Field name -> value of a YAML preset; keys may be spelled as any of a field's flags."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"--config {shown(path)}: {error.strerror}; name a file such as configs/digits_regime_few.yaml"
        ) from None
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # a ValueError: no UTF-8, NUL in the name, a day 99
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"--config {shown(path)}: not valid YAML: {reason}; see configs/ for examples"
        ) from None
    if not isinstance(content, dict):
        raise ConfigError(f"--config {shown(path)}: a preset maps field names to values")
    names = {
        s.removeprefix("--"): spec.name
        for o in option_classes
        for spec in dataclasses.fields(o)
        for s in spellings(spec)
    } | {name: name for name in switches(option_classes)}
    preset: dict[str, Any] = {}
    for key, value in content.items():
        if str(key) not in names:
            raise ConfigError(f"{shown(path)}: unknown key {shown(key)}.{nearest(str(key), names)}")
        preset[names[str(key)]] = value
    return preset


def _preset_of_regime(
    given: Mapping[str, Any], preset: Mapping[str, Any], option_classes: Sequence[type]
) -> Path | None:
    """The file that `--regime` stands for, with the data set that is given; None where there is no `--regime`."""
    fields = {spec.name: spec for options in option_classes for spec in dataclasses.fields(options)}
    if "regime" not in fields:
        return None
    regime, dataset = (given.get(k, preset.get(k, fields[k].default)) for k in ("regime", "dataset"))
    if regime == fields["regime"].default:
        return None
    if "regime" in given and "config" in given:
        raise ConfigError(f"--regime {shown(regime)}: --config names a preset already; use one of them")
    if regime not in fields["regime"].metadata["choices"]:
        return None  # it is refused with the other choices
    known = {
        path.name.partition("_regime_")[0]: path for path in sorted(PRESETS.glob(f"*_regime_{regime}.yaml"))
    }
    if str(dataset) not in known:
        raise ConfigError(
            f"--regime {regime}: there is no preset of it for --dataset {shown(dataset)}; use {', '.join(known)}, "
            "or --config"
        )
    return known[str(dataset)]


def own_words(argv: Sequence[str], description: str, *option_classes: type) -> tuple[list[str], list[str]]:
    """The words of a command line that belong to `option_classes`, as `--flag=value`, and the others in their order."""
    given, others = build_parser(description, *option_classes).parse_known_args(argv)
    return [f"--{name}={value}" for name, value in vars(given).items()], others


def given_values(argv: Sequence[str], options: type) -> tuple[dict[str, Any], list[str]]:
    """Field name -> value of the flags of `options` on a command line, and the words that are none of them."""
    namespace, others = build_parser("", options).parse_known_args(argv)
    hints, own = typing.get_type_hints(options), {spec.name: spec for spec in dataclasses.fields(options)}
    given = _resolved(vars(namespace), [options])
    values = {k: convert(k, v, hints[k], own[k].metadata["choices"]) for k, v in given.items() if k in own}
    return values, others + [f"--{name}" for name in given if name not in own]


def parse(argv: Sequence[str] | None, description: str, *option_classes: type[Any]) -> list[Any]:
    """One validated instance of each option class. Raises ConfigError with a one-line message."""
    parser = build_parser(description, *option_classes)
    namespace, unknown = parser.parse_known_args(argv)
    given = vars(namespace)
    flags = [s for options in option_classes for spec in dataclasses.fields(options) for s in spellings(spec)]
    flags += [f"--{name}" for name in switches(option_classes)]
    for argument in unknown:
        if argument.startswith("--"):
            name = argument.split("=")[0]
            raise ConfigError(f"unknown flag {shown(name)}.{nearest(name, flags)}")
        raise ConfigError(f"unexpected argument {shown(argument)}: values follow a flag such as --dataset")
    values = read_preset(given["config"], option_classes) if "config" in given else {}
    values = _resolved(values, option_classes)
    if path := _preset_of_regime(given, values, option_classes):
        values = _resolved(read_preset(str(path), option_classes), option_classes) | values
    values |= _resolved({k: v for k, v in given.items() if k not in ("config", "_wandb")}, option_classes)
    fields = {spec.name for options in option_classes for spec in dataclasses.fields(options)}
    for name, value in list(values.items()):  # --est SOURCE is --est --est_from SOURCE
        if f"{name}_from" in fields and str(value).startswith("wandb:"):
            values |= {name: True, f"{name}_from": str(value).removeprefix("wandb:")}
        elif f"{name}_from" in fields and (str(value).endswith((".npy", ".json")) or value == ONLINE):
            values |= {name: True, f"{name}_from": str(value)}
    if plugin := values.get("plugin"):
        use_plugin(str(plugin))
    parsed = []
    for options in option_classes:
        hints = typing.get_type_hints(options)
        own = {spec.name: spec.metadata["choices"] for spec in dataclasses.fields(options)}
        parsed.append(options(**{k: convert(k, v, hints[k], own[k]) for k, v in values.items() if k in own}))
    return parsed


def use_plugin(path: str) -> None:
    """Run the file of --plugin. Raises ConfigError where there is none."""
    require_text("plugin", path, is_path=True)
    try:
        load_plugin(path)
    except FileNotFoundError:
        raise ConfigError(
            f"--plugin {shown(path)}: no Python file is there; name one such as examples/freematch.py"
        ) from None


def _resolved(values: dict[str, Any], option_classes: Iterable[type]) -> dict[str, Any]:
    """`values` with each switch turned into a value of its field; a switch that is off leaves another choice alone."""
    for switch, spec in switches(option_classes).items():
        if switch not in values:
            continue
        on, given = convert(switch, values[switch], bool), values.get(spec.name)
        if (on and given not in (None, switch)) or (not on and given == switch):
            shown = switch if on else f"{switch}=false"
            raise ConfigError(
                f"--{spec.name} {given}: contradicts --{shown}; --{switch} is short for --{spec.name} {switch}, "
                "use one of them"
            )
        rest = {key: value for key, value in values.items() if key != switch}
        values = rest | {spec.name: switch if on else given or spec.default}
    return values
