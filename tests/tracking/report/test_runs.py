import json
import math
import os
from typing import Any

import pytest
import torch

from darp import PseudoLabelMonitor
from semi.config import Config, fields_of_kind
from semi.run_folder import keep_aside
from tests.tracking.report.synthetic_runs import write_finding, write_run
from tracking.report.runs import Run, find_runs, group_runs, printable, read_run


def append(folder, text):
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(text)


def test_the_last_line_of_an_epoch_counts(tmp_path):
    folder = write_run(tmp_path, "run", epochs=4)
    append(folder, json.dumps({"epoch": 2, "test/acc": 0.123}) + "\n")

    run = read_run(folder)

    assert [row["epoch"] for row in run.rows] == [0, 1, 2, 3]
    assert run.rows[2] == {"epoch": 2.0, "test/acc": 0.123}


def test_a_torn_last_line_is_ignored(tmp_path):
    folder = write_run(tmp_path, "run", epochs=4, epochs_done=2)
    append(folder, '{"epoch": 2, "test/acc": 0.')

    run = read_run(folder)

    assert run.epochs_done == 2
    assert not run.finished


def test_a_run_is_finished_when_its_last_epoch_is_there(tmp_path):
    assert read_run(write_run(tmp_path, "whole", epochs=3)).finished
    assert not read_run(write_run(tmp_path, "part", epochs=3, epochs_done=2)).finished


def test_a_broken_run_is_named_in_one_line_and_hides_no_other(tmp_path):
    write_run(tmp_path, "good")
    (write_run(tmp_path, "bad yaml") / "config.yaml").write_text("a: [1\nb: }")
    (write_run(tmp_path, "list") / "config.yaml").write_text("- 1")
    (write_run(tmp_path, "no rows") / "metrics.jsonl").write_text('{"epoch"')
    (write_run(tmp_path, "no metrics") / "metrics.jsonl").unlink()
    (write_run(tmp_path, "no config") / "config.yaml").unlink()

    runs, problems = find_runs([tmp_path])

    assert [run.name for run in runs] == ["good"]
    assert len(problems) == 5
    for name in ("bad yaml", "list", "no rows", "no metrics", "no config"):
        assert sum(name in problem for problem in problems) == 1
    assert all(problem.isprintable() for problem in problems)


def test_overlapping_folders_give_each_run_once_and_wandb_folders_none(tmp_path):
    write_run(tmp_path / "runs", "one")
    write_run(tmp_path / "wandb", "files")

    runs, problems = find_runs([tmp_path, tmp_path / "runs", tmp_path / "runs" / "one"])

    assert [run.name for run in runs] == ["one"]
    assert problems == []


def test_numbers_that_are_none_are_left_out_and_infinity_stays_out_of_series(tmp_path):
    folder = write_run(tmp_path, "run", epochs=4, epochs_done=1)
    append(folder, '{"epoch": 1, "test/acc": NaN, "pseudo/orig/0": NaN, "pseudo/orig/1": 0.5}\n')
    append(folder, '{"epoch": 2, "test/acc": "high", "pseudo/orig/0": 0.5, "pseudo/orig/1": 1e999}\n')
    append(folder, json.dumps({"epoch": 3, "test/acc": 10**400, "pseudo/orig/0": 0.4, "pseudo/orig/1": 0.6}))

    run = read_run(folder)

    assert run.series("test/acc").epochs == [0]
    assert run.last("test/acc") == math.inf
    assert run.shares("orig", 1) == [None, 0.5]
    assert run.shares("orig", 2) == [0.5, None]
    assert run.shares("true") is None


def test_runs_that_differ_by_the_seed_alone_form_one_group(tmp_path):
    groups = group_runs(find_runs([write_finding(tmp_path, seeds=3)])[0])

    assert [regime.label for regime in groups] == ["60 labels a class", "1 label a class"]  # many before few
    for members in groups.values():
        assert [group.label for group in members] == ["FixMatch", "FixMatch + DARP"]
        assert [[run.seed for run in group.runs] for group in members] == [["0", "1", "2"]] * 2
        assert members[0].counterpart_key() == members[1].counterpart_key()


def test_runs_whose_seeds_drew_other_labels_share_a_group_although_their_estimates_are_other_files(tmp_path):
    for seed in range(2):
        write_run(tmp_path, f"seed {seed}", seed=seed, est=True, estimate=f"estimation/s{seed}.json")

    (members,) = group_runs(find_runs([tmp_path])[0]).values()

    assert [len(group.runs) for group in members] == [2]


OF_THE_ESTIMATE = {"est", "est_epochs", "est_from", "est_val_iteration", "num_val", "th_cond"}


@pytest.mark.parametrize("name", sorted(fields_of_kind(Config, "refinement") - {"refine"} | OF_THE_ESTIMATE))
def test_a_run_and_its_refined_counterpart_may_differ_in_every_field_of_the_refinement(tmp_path, name):
    raw: dict[str, Any] = {name: "as it was"}
    refined: dict[str, Any] = {name: "another"}
    write_run(tmp_path, "raw", **raw)
    write_run(tmp_path, "darp", darp=True, **refined)

    (members,) = group_runs(find_runs([tmp_path])[0]).values()

    assert [group.label for group in members] == ["FixMatch", "FixMatch + DARP"]
    assert members[0].counterpart_key() == members[1].counterpart_key()


@pytest.mark.parametrize(
    "name", sorted(fields_of_kind(Config, "shaping") - {"seed"} | fields_of_kind(Config, "length"))
)
def test_runs_that_differ_in_a_field_that_shapes_them_are_two_configurations(tmp_path, name):
    now = read_run(write_run(tmp_path, "one")).config.get(name, getattr(Config, name))
    another: Any = "another" if isinstance(now, str) else not now if isinstance(now, bool) else (now or 0) + 1
    write_run(tmp_path, "other", **{name: another})

    groups = [group for members in group_runs(find_runs([tmp_path])[0]).values() for group in members]

    assert [len(group.runs) for group in groups] == [1, 1]


@pytest.mark.parametrize("name", ["est_shrink", "amp"])
def test_runs_of_before_a_field_are_one_configuration_with_those_that_have_it_at_its_default(tmp_path, name):
    default: Any = getattr(Config, name)
    since: dict[str, Any] = {name: default}
    other: dict[str, Any] = {name: "bf16" if name == "amp" else default / 2}
    write_run(tmp_path, "before", seed=0)
    write_run(tmp_path, "since", seed=1, **since)
    write_run(tmp_path, "other", seed=2, **other)

    (members,) = group_runs(find_runs([tmp_path])[0]).values()

    assert name not in read_run(tmp_path / "before").config
    assert sorted(len(group.runs) for group in members) == [1, 2]


def test_parameters_of_a_refinery_that_is_not_in_use_part_no_runs(tmp_path):
    for seed, (refine, tau) in enumerate((("none", 0.5), ("none", 1.5), ("la", 0.5), ("la", 1.5))):
        write_run(tmp_path, f"{seed}", seed=seed, refine=refine, refine_label="logit adjustment", la_tau=tau)

    (members,) = group_runs(find_runs([tmp_path])[0]).values()

    assert [group.label for group in members] == [
        "FixMatch", "FixMatch + logit adjustment, la_tau 0.5", "FixMatch + logit adjustment, la_tau 1.5",
    ]  # fmt: skip
    assert len(members[0].runs) == 2


def test_an_estimate_that_is_made_in_training_is_named(tmp_path):
    for seed, est_from in enumerate(("online", "")):  # in the order of the folders
        write_run(tmp_path, f"seed {seed}", seed=seed, darp=True, est=True, est_from=est_from)

    (members,) = group_runs(find_runs([tmp_path])[0]).values()

    assert [group.label for group in members] == ["FixMatch + DARP", "FixMatch + DARP (online estimate)"]


@pytest.mark.parametrize("name", sorted(fields_of_kind(Config, "incidental") - {"run_name"}))
def test_runs_that_differ_in_an_incidental_field_are_one_configuration(tmp_path, name):
    for seed in range(2):
        given: dict[str, Any] = {name: f"value {seed}"}
        write_run(tmp_path, f"seed {seed}", seed=seed, **given)

    (members,) = group_runs(find_runs([tmp_path])[0]).values()

    assert [len(group.runs) for group in members] == [2]


def test_the_folder_that_overwrite_keeps_is_no_run(tmp_path):
    folder = write_run(tmp_path, "run")
    keep_aside(folder)
    write_run(tmp_path, "run")
    keep_aside(folder)
    write_run(tmp_path, "run")

    runs, problems = find_runs([tmp_path])

    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.old-1", "run.old-2"]
    assert [run.folder for run in runs] == [folder]
    assert problems == []


def test_two_runs_of_one_configuration_and_seed_are_not_two_seeds(tmp_path):
    write_run(tmp_path, "b whole", epochs=5)
    write_run(tmp_path, "a part", epochs=5, epochs_done=3)
    write_run(tmp_path, "c part", epochs=5, epochs_done=4)

    runs, problems = find_runs([tmp_path])

    assert [run.name for run in runs] == ["b whole"]
    assert [f"{tmp_path}/{name} part: left out" in line for name, line in zip("ac", problems, strict=True)]
    assert all(f"the same configuration and seed as {tmp_path}/b whole" in line for line in problems)


def test_of_two_equal_runs_of_one_seed_the_newer_is_taken(tmp_path):
    for name, time in (("first", 200), ("second", 100)):
        os.utime(write_run(tmp_path, name) / "metrics.jsonl", (time, time))

    assert [run.name for run in find_runs([tmp_path])[0]] == ["first"]


def test_configurations_of_one_regime_are_told_apart_by_the_fields_that_differ(tmp_path):
    for alpha in (1.0, 2.0):
        write_run(tmp_path, f"alpha {alpha}", darp=True, alpha=alpha)
    write_run(tmp_path, "mix", semi_method="mix")

    (members,) = group_runs(find_runs([tmp_path])[0]).values()

    assert [group.label for group in members] == [
        "MixMatch",
        "FixMatch + DARP, alpha 1.0",
        "FixMatch + DARP, alpha 2.0",
    ]


def test_a_regime_names_its_imbalance(tmp_path):
    write_run(tmp_path, "tail", num_max=1500, imb_ratio=100.0)
    write_run(tmp_path, "uneven", num_max=10, imb_ratio=100.0, imb_ratio_u=1.0)

    labels = [regime.label for regime in group_runs(find_runs([tmp_path])[0])]

    assert labels == [
        "up to 1500 labels a class (imbalance 100)",
        "up to 10 labels a class (imbalance 100, unlabeled imbalance 1)",
    ]


@pytest.mark.parametrize(
    ("name", "more", "shown"),
    [
        ("fix", {}, "FixMatch"),
        ("fix", {"method_label": "Fix Match 2"}, "Fix Match 2"),
        ("of_my_own", {}, "of_my_own"),
    ],
)
def test_a_run_whose_folder_does_not_say_how_its_method_is_called_has_the_name_that_it_had(
    tmp_path, name, more, shown
):
    config = {"semi_method": name, "refine": "none"} | more
    assert Run(tmp_path, "run", config, [{"epoch": 0}]).method == shown


def test_class_names_are_unique_and_complete(tmp_path):
    folder = write_run(tmp_path, "run", num_classes=4, class_names=["cat", "cat", "dog"])

    assert read_run(folder).class_names == ["cat (0)", "cat (1)", "dog", "3"]


@pytest.mark.parametrize("text", ["\x1b[31mred", "two\nlines", "bell\x07"])
def test_printable_leaves_nothing_that_a_terminal_acts_on(text):
    assert printable(text).isprintable()
    assert len(printable("x" * 9999)) == 200


def test_a_folder_with_the_rows_of_ones_own_loop_is_a_run(tmp_path):
    monitor = PseudoLabelMonitor(20, 3, [0, 1] * 10)
    monitor.update(torch.arange(20), torch.full((20, 3), 1 / 3))
    for name in ("plain", "mine"):
        (tmp_path / name).mkdir()
        if name == "mine":
            monitor.update(torch.arange(20), torch.full((20, 3), 1 / 3), torch.eye(3)[torch.arange(20) % 3])
        lines = [json.dumps({"epoch": epoch, **monitor.row()}) for epoch in range(4)]
        (tmp_path / name / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    runs, problems = find_runs([tmp_path])
    assert problems == []
    assert [(run.name, run.epochs_done, run.finished) for run in runs] == [
        ("mine", 4, True),
        ("plain", 4, True),
    ]
    assert runs[0].shares("orig") == pytest.approx([1 / 3] * 3)
    ((regime, groups),) = group_runs(runs).items()
    assert (regime.dataset, regime.label) == ("own loop", "labels not stated")
    assert [(group.label, group.refined) for group in groups] == [("plain", False), ("mine", True)]
