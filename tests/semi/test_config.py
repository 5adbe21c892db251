import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from semi.cli import build_parser, parse, spellings
from semi.config import Config, ConfigError, WandbOptions
from semi.run_folder import default_run_name

ROOT = Path(__file__).parents[2]

NOTES = (
    "--gpu 3 --darp --alpha 2 --warm 5 --semi_method fix --dataset cifar10 --ratio 500 --num_max 10 "
    "--imb_ratio_l 1 --imb_ratio_u 1 --epoch 500 --val-iteration 500"
)


def config(text: str) -> Config:
    return parse(text.split(), "test", Config)[0]


def test_the_command_of_the_notes_is_read_as_written():
    c = config(NOTES)
    assert (c.gpu, c.refine, c.alpha, c.warm, c.semi_method, c.dataset) == (
        "3",
        "darp",
        2.0,
        5,
        "fix",
        "cifar10",
    )
    assert (c.ratio, c.num_max, c.imb_ratio_l, c.imb_ratio_u, c.epochs, c.val_iteration) == (
        500,
        10,
        1,
        1,
        500,
        500,
    )


def test_defaults_are_those_of_the_original():
    c = config("")
    original = {
        "semi_method": "mix", "dataset": "cifar10", "epochs": 500, "start_epoch": 0, "batch_size": 64, "lr": 0.002,
        "resume": "", "out": "result", "seed": 0, "gpu": "0", "num_max": 1500, "ratio": 2.0, "imb_ratio_l": 100,
        "imb_ratio_u": 100, "step": False, "val_iteration": 500, "mix_alpha": 0.75, "T": 0.5, "ema_decay": 0.999,
        "w_rot": 0.5, "w_ent": 0.5, "align": False, "tau": 0.95, "warm": 500, "alpha": 2.0, "refine": "none",
        "iter_T": 10, "num_iter": 10, "unlabeled_weight": 75.0,
    }  # fmt: skip
    assert {name: getattr(c, name) for name in original} == original
    assert config("--semi_method remix").unlabeled_weight == 1.5


def test_a_later_flag_wins():
    assert config("--epoch 500 --epochs 2").epochs == 2


@pytest.mark.parametrize("flag", ["--val-iteration", "--val_iteration"])
def test_both_spellings_of_a_flag_are_accepted(flag):
    assert config(f"{flag} 7").val_iteration == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--darp", "darp"),
        ("--darp=True", "darp"),
        ("--darp true", "darp"),
        ("--darp=False", "none"),
        ("--darp 0", "none"),
    ],
)
def test_booleans_in_every_spelling_of_an_agent(text, expected):
    assert config(text).refine == expected


def test_none_is_the_absent_value_where_there_may_be_one():
    assert config("--lambda-u None").lambda_u is None
    with pytest.raises(ConfigError, match="--lr None: this needs a value"):
        config("--lr None")


def test_the_argument_of_a_requeued_trial_is_ignored():
    assert config("--_wandb={} --num_max 5").num_max == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--tau 1.5", r"--tau 1.5: the threshold is a probability; use a value in \(0, 1\]"),
        ("--dataset cifar11", "--dataset cifar11: use one of .*cifar10"),
        ("--epoch 2.5", "--epochs 2.5: use a whole number"),
        ("--ratio nan", "--ratio nan: use a finite number"),
        ("--ratio -1", "--ratio -1.0: use a number above 0"),
        ("--lr fast", "--lr fast: use a number"),
        ("--darp maybe", "--darp maybe: use true or false"),
        ("--num_m 3", r"unknown flag --num_m. Did you mean --num_max\?"),
        ("--num_maxx 3", r"unknown flag --num_maxx. Did you mean --num_max\?"),
        ("stray", "unexpected argument stray"),
        ("--start-epoch 9 --epochs 9", "--start-epoch 9"),
        ("--gpu x", "--gpu x: use the number of one GPU, or cpu"),
        ("--shuffle_split yes", "--shuffle_split yes: use a whole number, or seed"),
        ("--run_name a/b", "--run_name a/b"),
        ("--config nowhere.yaml", "--config nowhere.yaml: No such file"),
    ],
)
def test_a_mistake_is_named_with_its_remedy_in_one_line(text, message):
    with pytest.raises(ConfigError, match=message) as error:
        config(text)
    assert "\n" not in str(error.value)


def test_a_flag_wins_over_a_preset(tmp_path):
    preset = tmp_path / "p.yaml"
    preset.write_text("num_max: 10\nval-iteration: 3\ndarp: true\n")
    c = config(f"--num_max 20 --config {preset}")
    assert (c.num_max, c.val_iteration, c.refine) == (20, 3, "darp")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("num_mx: 3", r"unknown key num_mx. Did you mean num_max\?"),
        ("[1, 2]", "a preset maps field names to values"),
        ("a: [", "not valid YAML"),
        ("num_max: [1]", r"--num_max \[1\]: use a whole number"),
        ("lr: 1e-3", None),  # YAML reads this as a text; it is a number all the same
    ],
)
def test_a_preset_is_checked_like_flags(tmp_path, content, message):
    preset = tmp_path / "p.yaml"
    preset.write_text(content)
    if message is None:
        assert config(f"--config {preset}").lr == 0.001
    else:
        with pytest.raises(ConfigError, match=message):
            config(f"--config {preset}")


def test_help_names_every_field_with_its_default():
    text = " ".join(build_parser("test", Config).format_help().split())
    for name, spec in Config.__dataclass_fields__.items():
        assert spellings(spec)[0] in text, name
        assert f"(default: {spec.default!r})" in text


def test_a_configuration_survives_yaml():
    c = config(NOTES)
    assert Config(**yaml.safe_load(yaml.safe_dump(vars(c)))) == c


@pytest.mark.parametrize("regime", ["few", "many"])
@pytest.mark.parametrize("dataset", ["digits", "fashion_mnist", "cifar10"])
def test_a_regime_is_its_preset_by_a_readable_name_from_any_folder(
    dataset: str, regime: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    preset = config(f"--config {ROOT}/configs/{dataset}_regime_{regime}.yaml --num_iter 7")
    monkeypatch.chdir(tmp_path)
    named = config(f"--dataset {dataset} --regime {regime} --num_iter 7")
    assert named.regime == regime
    assert dataclasses.replace(named, regime="none") == preset
    assert default_run_name(named) == default_run_name(preset), "it is the same run"
    assert config(f"--dataset={dataset} --regime={regime} --num_max 17").num_max == 17, "a flag wins"


def test_a_preset_may_name_the_regime_that_it_changes(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("dataset: digits\nregime: few\nepochs: 3\n")
    mine, few = config(f"--config {tmp_path}/mine.yaml"), config("--dataset digits --regime few")
    assert mine == dataclasses.replace(few, epochs=3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--regime fewer", "--regime fewer: use one of none, few, many"),
        ("--regime few --dataset stl10", "--dataset stl10; use cifar10, digits, fashion_mnist, or --config"),
        (
            f"--regime few --config {ROOT}/configs/digits_regime_few.yaml",
            "--config names a preset already",
        ),
    ],
)
def test_a_regime_that_says_nothing_or_too_much_is_refused(flags: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config(flags)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("test/f1=max", "--wandb_summary test/f1: no metric of a run"),
        ("epoch=max", "--wandb_summary epoch: no metric of a run"),
        ("time/step=max", "--wandb_summary time/step: W&B does not get it; add --wandb_per_class all"),
        ("test/bacc=best", "--wandb_summary test/bacc=best: use one of min, max, mean, last, first, none"),
    ],
)
def test_a_summary_that_wandb_cannot_keep_is_refused(given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        WandbOptions(wandb_summary=given)
    assert WandbOptions(wandb_summary="time/step=max", wandb_per_class="all").summaries
    assert WandbOptions(wandb_summary="test/bacc=max,loss/total=min").summaries == {
        "test/bacc": "max",
        "loss/total": "min",
    }
