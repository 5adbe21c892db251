"""The flags of train.py, frozen: names, both spellings, defaults. Users and sweep files depend on every one of them."""

import dataclasses

import pytest

from semi.cli import build_parser, parse, spellings
from semi.config import Config, ConfigError
from semi.run_folder import default_run_name

# Every spelling, then the default. A line may be added; one that changes or goes breaks somebody's command.
FROZEN = """
--dataset 'cifar10'
--arch 'wrn28_2'
--num_max --num-max 1500
--ratio 2.0
--imb_ratio_l --imb-ratio-l 100.0
--imb_ratio_u --imb-ratio-u 100.0
--imb_ratio_u_reversed --imb-ratio-u-reversed False
--step False
--shuffle_split --shuffle-split ''
--mix_alpha --mix-alpha 0.75
--batch-size --batch_size 64
--manualSeed --seed 0
--gpu '0'
--data-dir --data_dir 'dataset'
--semi_method --semi-method 'mix'
--refine 'none'
--warm 500
--alpha 2.0
--num_iter --num-iter 10
--iter_T --iter-T 10
--solver 'exact'
--est False
--tau 0.95
--lambda-u --lambda_u None
--T 0.5
--align False
--w_rot --w-rot 0.5
--w_ent --w-ent 0.5
--epoch --epochs 500
--start-epoch --start_epoch 0
--val-iteration --val_iteration 500
--learning-rate --learning_rate --lr 0.002
--ema-decay --ema_decay 0.999
--out 'result'
--run_name --run-name ''
--resume ''
--overwrite False
--dry-run --dry_run False
"""
DIFFERENT_ON_PURPOSE = {"step", "seed", "gpu", "est", "iter_T", "lambda_u", "start_epoch", "out", "resume"}


def config(text: str) -> Config:
    return parse(text.split(), "test", Config)[0]


def test_no_flag_has_lost_a_spelling_or_its_default():
    now = [
        " ".join([*spellings(spec), repr(spec.default)])  # both are what a user sees
        for spec in dataclasses.fields(Config)
    ]
    gone = [line for line in FROZEN.strip().splitlines() if line not in now]
    assert gone == []


def test_every_spelling_is_taken():
    fields = {spec.name: spec for spec in dataclasses.fields(Config)}
    values = {int: "3", float: "1.5", bool: "true", str: None}
    for spec in fields.values():
        kind = type(spec.default) if spec.default is not None else float
        value = next(iter(spec.metadata["choices"])) if spec.metadata["choices"] else values[kind] or "7"
        for spelling in spellings(spec):
            taken = getattr(build_parser("test", Config).parse_args([f"{spelling}={value}"]), spec.name)
            assert taken == value


def test_help_says_which_flags_differ_from_the_original_on_purpose():
    different = {spec.name for spec in dataclasses.fields(Config) if spec.metadata["differs"]}
    assert different == DIFFERENT_ON_PURPOSE
    text = " ".join(build_parser("test", Config).format_help().split())
    assert text.count("[differs from the original: ") == len(DIFFERENT_ON_PURPOSE)


@pytest.mark.parametrize(
    ("text", "refinement"),
    [
        ("", "none"),
        ("--refine none", "none"),
        ("--darp", "darp"),
        ("--refine darp", "darp"),
        ("--refine darp --darp", "darp"),
        ("--refine align", "align"),
        ("--refine sinkhorn --darp=false", "sinkhorn"),
    ],
)
def test_darp_is_short_for_refine_darp(text, refinement):
    c = config(text)
    assert c.refine == refinement


@pytest.mark.parametrize("other", ["align", "sinkhorn", "none"])
def test_two_refinements_contradict_each_other(other):
    with pytest.raises(ConfigError, match=f"--refine {other}: contradicts --darp"):
        config(f"--darp --refine {other}")


def test_both_spellings_of_darp_are_one_run():
    assert config("--darp") == config("--refine darp")
    assert config("") == config("--refine none")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "_none_"),
        ("--darp --warm 3", "_darp_a2_w3_"),
        ("--refine align --warm 3", "_align_w3_"),
        ("--refine sinkhorn --warm 3", "_sinkhorn_w3_"),
    ],
)
def test_a_runs_name_says_what_refines(text, part):
    assert part in default_run_name(config(text))
