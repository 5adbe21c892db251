"""Input that cannot work: one line with field, value and remedy, exit code 2, nothing written, whatever it is."""

import dataclasses
import os
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semi import checkpoint
from semi.cli import build_parser, parse, spellings
from semi.config import Config, ConfigError, EstimateConfig, WandbOptions
from semi.head_config import HeadConfig
from sweeps.definition import SweepError, read_sweep, trials
from sweeps.parameters import KINDS
from tests.commands import run_here
from tests.semi.runs import TINY

CLASSES: tuple[type, ...] = (Config, EstimateConfig, HeadConfig, WandbOptions)
NO_NUMBERS = (
    "nan",
    "inf",
    "-inf",
    "1e400",
    "",
    "fast",
    "0x10",
    "1,5",
    "1 2",
    "9" * 5000,
    "1\n2",
    "\x00",
    "\udcff",
    "[1]",
)
NO_TEXTS = ("a\x00b", "a\nb", "\udcff", "a" * 300, "/".join(["a"] * 3000), "\x1b[31m")


def numeric(options: type) -> list[dataclasses.Field[Any]]:
    return [spec for spec in dataclasses.fields(options) if str(spec.type).split(" ")[0] in ("int", "float")]


def bad_inputs() -> list[tuple[type, str, str]]:
    """(class, flag, value) that must be refused."""
    table = []
    for options in CLASSES:
        for spec in dataclasses.fields(options):
            name, bounds = f"--{spec.name}", spec.metadata
            if spec in numeric(options):
                table += [(options, name, value) for value in NO_NUMBERS]
                if bounds["maximum"] is not None:
                    table += [(options, name, value) for value in (repr(bounds["maximum"] * 2), "1e300")]
                if bounds["minimum"] is not None:
                    table += [(options, name, repr(bounds["minimum"] - 1)), (options, name, "-1e300")]
            elif spec.type == "bool":
                table += [(options, name, value) for value in ("maybe", "2", "\x00", "tru\ne")]
            else:
                table += [
                    (options, name, value)
                    for value in NO_TEXTS
                    if options is not WandbOptions or value != "a" * 300
                ]
    named = [
        ("--seed", str(2**70)), ("--mix_alpha", "1e-300"), ("--num_max", "1e99"), ("--ratio", "1e300"),
        ("--batch-size", "1e9"), ("--gpu", "foo"), ("--gpu", "-1"), ("--gpu", "9" * 50), ("--tau", "0"),
        ("--tau", "1.1"), ("--ema-decay", "1"), ("--shuffle_split", "9" * 400), ("--shuffle_split", "²"),
        ("--run_name", ".."), ("--run_name", "a/b"), ("--dataset", "cifar11"), ("--nan", "maybe"),
        ("--nonsense", "1"), ("--T", "1e-300"),
    ]  # fmt: skip
    return table + [(Config, name, value) for name, value in named]


TABLE = bad_inputs()


def test_the_table_has_hundreds_of_inputs_and_every_number_has_bounds():
    assert len(TABLE) > 300
    free = {"tau", "ema_decay"}  # half-open, each with a message of its own
    free |= {"start_epoch"}  # of an estimation: only 0
    for options in CLASSES:
        for spec in numeric(options):
            bounded = spec.metadata["minimum"] is not None and spec.metadata["maximum"] is not None
            assert bounded or spec.name in free, (options.__name__, spec.name)


@pytest.mark.parametrize("options", CLASSES)
def test_every_bad_input_is_refused_in_one_line_that_names_the_flag(options):
    for owner, name, value in TABLE:
        if owner is not options:
            continue
        more = ["--checkpoint=x"] if options is HeadConfig and name != "--checkpoint" else []
        with pytest.raises(ConfigError) as error:
            parse([*more, f"{name}={value}"], "", options)
        said = str(error.value)
        assert said.isprintable(), (name, value)
        assert len(said) < 400, (name, value)
        assert ";" in said or "use " in said or "Did you mean" in said or "unknown" in said, said
        assert name.strip("-").replace("-", "_").split("_")[0] in said, said


def test_a_seed_keeps_all_of_its_digits():
    assert parse([f"--seed={2**63 - 1}"], "", Config)[0].seed == 2**63 - 1
    torch.Generator().manual_seed(2**63 - 1)


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"[" * 20_000, b"a: " + b"{b: " * 5000, b"lr: 2001-99-99", b"? [1]\n: 2",
     b"lr: !!python/object:os.system x",
     b"lr: {a: 1}", b"1: 2", b"null: 1", b"seed: " + b"9" * 5000, b"num_max: 1e99", b"tau: .nan",
     b"out: \"a\\0b\"", b"a", b"\x00",
     b"- lr", b"lr: &a [*a]", b"run_name: [a]"],
)  # fmt: skip
def test_a_preset_that_cannot_work_is_refused_in_one_line(tmp_path, content):
    preset = tmp_path / "p.yaml"
    preset.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        parse([f"--config={preset}"], "", Config)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("path", ["a\x00b", "x" * 300, ".", "/dev/null/x", "\udcff"])
def test_a_preset_that_is_no_file_is_refused_in_one_line(path):
    with pytest.raises(ConfigError) as error:
        parse([f"--config={path}"], "", Config)
    assert str(error.value).isprintable()


WORDS = [
    s for options in (Config, WandbOptions) for spec in dataclasses.fields(options) for s in spellings(spec)
]
VALUES = st.one_of(
    st.text(max_size=12),
    st.floats().map(repr),
    st.integers().map(str),
    st.sampled_from(["none", "true", "1e400", "seed", "auto", "wandb:", "-", "--", "@x", "="]),
)


settings.register_profile("same", derandomize="CI" in os.environ)  # CI draws the same examples each time
settings.load_profile("same")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.one_of(st.sampled_from(WORDS), st.text(max_size=8)), VALUES, st.booleans()), max_size=5
    )
)
def test_no_command_line_ends_in_another_error(given_words):
    words: list[str] = []
    for flag, value, joined in given_words:
        words += [f"{flag}={value}"] if joined else [flag, value]
    words = [word for word in words if word not in ("-h", "--help")]
    if any(word.startswith("--config") for word in words):
        return
    try:
        parse(words, "", Config, WandbOptions)
    except ConfigError as error:
        assert str(error).isprintable()  # noqa: PT017 - most command lines are fine
    assert build_parser("", Config)


YAML_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(
    max_examples=150,
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.dictionaries(st.sampled_from([word.removeprefix("--") for word in WORDS]), YAML_VALUES, max_size=4))
def test_no_preset_ends_in_another_error(tmp_path, content):
    preset = tmp_path / "p.yaml"
    preset.write_text(yaml.safe_dump(content), encoding="utf-8", errors="surrogatepass")
    try:
        parse([f"--config={preset}"], "", Config, WandbOptions)
    except ConfigError as error:
        assert str(error).isprintable()  # noqa: PT017 - some presets are fine


SWEEP = {"program": "train.py", "method": "grid", "metric": {"name": "test/bacc"}, "parameters": {"lr": {"value": 1}},
         "command": ["${program}"]}  # fmt: skip
PARAMETERS = st.dictionaries(
    st.one_of(st.text(max_size=4), st.sampled_from(["lr", "seed"])),
    st.one_of(
        YAML_VALUES,
        st.dictionaries(
            st.sampled_from(
                ["value", "values", "probabilities", *["q", "a", "b", "mu", "sigma", "parameters"]]
            ),
            YAML_VALUES,
            max_size=4,
        ),
        st.fixed_dictionaries(
            {"distribution": st.sampled_from(sorted(KINDS))},
            optional=dict.fromkeys(("min", "max", "q", "a", "b", "mu", "sigma"), YAML_VALUES),
        ),
    ),
    max_size=3,
)


@settings(
    max_examples=200,
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.dictionaries(st.sampled_from([*SWEEP, "run_cap", "early_terminate", "name"]), YAML_VALUES, max_size=2),
    PARAMETERS,
    st.sampled_from(["grid", "random", "bayes"]),
)
def test_no_sweep_file_ends_in_another_error(tmp_path, changes, parameters, method):
    path = tmp_path / "s.yaml"
    path.write_text(
        yaml.safe_dump(SWEEP | {"parameters": parameters, "method": method} | changes), encoding="utf-8"
    )
    try:
        for _ in zip(range(3), trials(read_sweep(path), cap=3), strict=False):
            pass
    except SweepError:
        pass


TINY_WORDS = [f"--{name}={value}" for name, value in TINY.items()]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("train.py", [*TINY_WORDS, "--num_max=1e99"]),
        ("train.py", [*TINY_WORDS, "--ratio=1e300"]),
        ("train.py", [*TINY_WORDS, "--batch-size=1e9"]),
        ("train.py", [*TINY_WORDS, f"--seed={2**70}"]),
        ("train.py", [*TINY_WORDS, "--out=file/below"]),
        ("train.py", [*TINY_WORDS, "--out=file"]),
        ("train.py", [*TINY_WORDS, "--out=/proc/nothing"]),
        ("train.py", ["--gpu=cpu", "--dataset=cifar10", "--data-dir=~nouser/x"]),
        ("train.py", [*TINY_WORDS, "--resume=folder"]),
        ("train.py", [*TINY_WORDS, "--resume=file/checkpoint.pt"]),
        ("train.py", [*TINY_WORDS, "--config=file"]),
        ("train.py", [*TINY_WORDS, "--run_name=folder", "--out=."]),
        ("estimate.py", ["--dataset=digits", "--arch=small", "--gpu=cpu", "--estimation_dir=file"]),
        ("estimate.py", ["--dataset=digits", "--arch=small", "--gpu=foo"]),
        ("retrain_head.py", ["file", "--gpu=cpu"]),
        ("retrain_head.py", ["folder", "--gpu=foo"]),
        ("eval.py", ["score", "file", "--gpu=foo"]),
        ("eval.py", ["score", "file", "--gpu=cpu"]),
        ("eval.py", ["score", "folder", "--gpu=cpu"]),
        ("eval.py", ["score", "bomb.pt", "--gpu=cpu"]),
    ],
)
def test_a_command_that_cannot_work_ends_in_one_line_with_exit_code_2_and_writes_nothing(
    tmp_path, script, words
):
    (tmp_path / "file").write_text("- no\n")
    (tmp_path / "folder" / "metrics.jsonl").mkdir(parents=True)
    torch.save({"format": checkpoint.FORMAT, "config": [1], "x": os.getcwd()}, tmp_path / "bomb.pt")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    done = run_here(script, *words, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "weights_only" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"{script}: "), done.stderr
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
