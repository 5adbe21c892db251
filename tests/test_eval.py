import csv
import json
import random
from pathlib import Path

import pytest
import scipy.stats
import torch
import yaml

import eval as program
from semi.checkpoint import FORMAT
from semi.config import Config, kinds_of
from semi.evaluate import scores
from semi.methods import about_method
from semi.run_folder import run_folder
from semi.scoring import WHOLE_MATRIX, Scores, show
from tests.semi.runs import TINY, rows, train
from tracking.report.gains import wilcoxon
from tracking.report.runs import find_runs, group_runs


def write_run(folder: Path, seed: int, bacc, **config) -> None:
    """A run folder whose test/bacc and test/gm over the epochs are `bacc` and half of it."""
    folder.mkdir(parents=True)
    base = {
        "dataset": "digits",
        "semi_method": "fix",
        "seed": seed,
        "epochs": len(bacc),
        "refine": "none",
    }
    base |= {
        "ratio": 2.0,
        "num_max": 9,
        "imb_ratio_l": 5.0,
        "imb_ratio_u": 5.0,
        "imb_ratio_u_reversed": False,
    }
    base |= about_method(config.get("semi_method", "fix"))
    kinds = kinds_of(base | config) | {"head": ["head"]}
    (folder / "config.yaml").write_text(
        yaml.safe_dump(base | {"run_name": folder.name, "field_kinds": kinds} | config)
    )
    lines = [{"epoch": e, "test/bacc": b, "test/gm": b / 2} for e, b in enumerate(bacc)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def run(tmp_path) -> Path:
    c = Config(**TINY | {"out": str(tmp_path), "epochs": 1})
    train(c)
    return run_folder(c)


def test_a_checkpoint_scores_what_its_last_row_says(run, capsys):
    assert program.main(["score", str(run / "checkpoint.pt"), "--gpu", "cpu"]) == 0
    said = capsys.readouterr().out
    last = rows(run)[-1]
    for name in ("acc", "bacc", "gm", "many", "medium", "few", "loss"):
        assert f"{name} {last[f'test/{name}']:.4f}" in said
    for k in range(10):
        assert f"{last[f'test/recall/{k}']:.3f}" in said


def test_a_checkpoint_is_scored_with_the_shift_of_test_logits_of_its_run_and_without(tmp_path, capsys):
    c = Config(**TINY | {"out": str(tmp_path), "refine": "cdmad", "imb_ratio_l": 3.0})
    train(c)
    assert program.main(["score", str(run_folder(c)), "--gpu", "cpu"]) == 0
    with_shift, without = capsys.readouterr().out.splitlines()[-2:]
    last = rows(run_folder(c))[-1]
    assert last["test/bacc"] != last["test_raw/bacc"]
    assert with_shift.startswith("with the refinery's shift")
    assert without.startswith("without it")
    for line, part in ((with_shift, "test"), (without, "test_raw")):
        for name in ("acc", "bacc", "gm", "many", "medium", "few"):
            assert f"  {name} {last[f'{part}/{name}']:.4f}" in line
    assert f"loss {last['test/loss']:.4f}" in with_shift


def test_a_run_is_scored_by_its_folder_and_by_the_originals_command(run, capsys):
    assert program.main(["score", str(run / "checkpoint.pt"), "--gpu", "cpu"]) == 0
    said = capsys.readouterr().out
    agreeing = ["--dataset", "digits", "--num_max=3", "--val-iteration", "4", "--gpu", "cpu"]
    for words in (
        ["score", str(run), "--gpu", "cpu"],
        ["--pre_trained", str(run), *agreeing],
        [*agreeing, f"--pre_trained={run / 'checkpoint.pt'}"],
    ):
        assert program.main(words) == 0
        assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--pre_trained"], "--pre_trained: names no run; use eval.py score RUN_FOLDER"),
        (
            ["--pre_trained", "RUN", "--dataset", "cifar10"],
            "--dataset cifar10: the run was trained with digits",
        ),
        (
            ["--pre_trained", "RUN", "--out", "x"],
            "--out x: not used here, leave it out; eval.py prints the scores",
        ),
        (["--pre_trained", "RUN", "--foo", "x"], "unknown argument --foo"),
        (["score", "RUN/nothing"], "RUN/nothing: no such file; use a run's checkpoint.pt"),
        (["summary", "RUN", "--foo"], "unknown argument --foo; see eval.py summary --help"),
    ],
)
def test_what_cannot_be_scored_as_asked_is_answered_in_one_line(run, capsys, words, answer):
    words = [word.replace("RUN", str(run)) for word in words]
    assert program.main([*words, *(["--gpu", "cpu"] if "RUN" in answer else [])]) == 2
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith("eval.py: " + answer.replace("RUN/", f"{run}/"))
    assert said.out == ""


def test_the_summary_of_a_retrained_head_is_the_mean_of_its_last_10_epochs(tmp_path):
    write_run(tmp_path / "runs" / "a", 0, [0.0] * 10 + [0.5] * 10, head="crt")
    table = tmp_path / "t.csv"
    assert program.main(["summary", str(tmp_path / "runs"), "--csv", str(table)]) == 0
    (row,) = csv.DictReader(table.open())
    assert float(row["bACC"]) == pytest.approx(50)


def test_a_confusion_matrix_shows_true_classes_in_rows(capsys):
    counts = torch.tensor([[5, 2], [0, 4]])
    show(program._console(), Scores(counts, scores(counts)), ["cat", "[dog]"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["0", "cat", "0.714", "5", "2"] in lines
    assert ["1", "[dog]", "1.000", "·", "4"] in lines


def test_many_classes_are_shown_by_their_worst_confusions(capsys):
    num_classes = WHOLE_MATRIX + 1
    counts = 10 * torch.eye(num_classes, dtype=torch.int64)
    counts[3, 7] = 9
    show(program._console(), Scores(counts, scores(counts)), [f"kind{k}" for k in range(num_classes)])
    said = capsys.readouterr().out
    assert ["kind3", "kind7", "9"] in [line.split() for line in said.splitlines()]
    assert "kind3 0.53" in said


@pytest.mark.parametrize(
    "content",
    [None, b"nonsense", {"format": FORMAT}, {"format": FORMAT, "config": {}, "ema": {}, "epoch": 0}],
)
def test_what_is_no_checkpoint_ends_with_one_line_and_exit_code_2(tmp_path, capsys, content):
    path = tmp_path / "checkpoint.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    flags = ["--data-dir", str(tmp_path), "--gpu", "cpu"]
    if content and isinstance(content, dict) and "config" in content:
        torch.save(content | {"config": {"dataset": "digits"}}, path)
    assert program.main(["score", str(path), *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"eval.py: {path}: ")
    assert said.count("\n") == 1


def test_the_summary_is_the_mean_of_the_last_20_epochs_over_seeds(tmp_path, capsys):
    for seed, level in enumerate((0.5, 0.7)):
        write_run(tmp_path / "runs" / f"s{seed}", seed, [0.0] * 5 + [level - 0.1, level + 0.1] * 10)
        write_run(tmp_path / "runs" / f"d{seed}", seed, [level] * 25, refine="darp")
    table, page = tmp_path / "tables" / "t.csv", tmp_path / "docs" / "t.md"
    words = [
        "summary",
        str(tmp_path / "runs"),
        "--csv",
        str(table),
        "--markdown",
        str(page),
        "--note",
        "By hand",
    ]
    assert program.main(words) == 0
    plain, darp = csv.DictReader(table.open())
    assert (plain["run"], darp["run"], plain["seeds"]) == ("FixMatch", "FixMatch + DARP", "0 1")
    assert float(plain["bACC"]) == pytest.approx(60)
    assert float(plain["bACC std"]) == pytest.approx(20 / 2**0.5)
    assert float(plain["GM"]) == pytest.approx(30)
    assert plain["few"] == ""
    said = page.read_text()
    assert "| FixMatch | 2 | 60.0 ± 14.1 | 30.0 ± 7.1 |" in said
    assert "- By hand\n" in said
    assert "eval.py" in said
    assert "60.0 ± 14.1" in capsys.readouterr().out


def test_the_page_says_what_darp_gained_seed_by_seed_and_where_it_did_not(tmp_path):
    for seed, (plain, darp) in enumerate([(0.5, 0.6), (0.7, 0.9), (0.6, 0.57)]):
        write_run(tmp_path / "runs" / f"s{seed}", seed, [plain] * 20)
        write_run(tmp_path / "runs" / f"d{seed}", seed, [darp] * 20, refine="darp")
        write_run(tmp_path / "runs" / f"m{seed}", seed, [plain] * 20, semi_method="mix")
        write_run(
            tmp_path / "runs" / f"n{seed}",
            seed,
            [plain - 0.1] * 20,
            semi_method="mix",
            refine="darp",
        )
    page = tmp_path / "t.md"
    assert program.main(["summary", str(tmp_path / "runs"), "--markdown", str(page)]) == 0
    said = page.read_text()
    assert (
        "- FixMatch + DARP minus FixMatch, seed by seed: bACC +9.0 ± 11.5 "
        "(higher on 2 of 3; **not a gain on every seed**), GM " in said
    )
    assert (
        "MixMatch + DARP minus MixMatch, seed by seed: bACC -10.0 ± 0.0 (higher on 0 of 3; **no gain**)"
        in said
    )


def test_equal_scores_are_no_gain(tmp_path):
    for seed in range(2):
        write_run(tmp_path / "runs" / f"s{seed}", seed, [0.5] * 20)
        write_run(tmp_path / "runs" / f"d{seed}", seed, [0.5] * 20, refine="darp")
    page = tmp_path / "t.md"
    assert program.main(["summary", str(tmp_path / "runs"), "--markdown", str(page)]) == 0
    assert "bACC +0.0 ± 0.0 (higher on 0 of 2; **no gain**)" in page.read_text()


def test_every_refinement_is_compared_with_none_in_each_regime_and_all_together(tmp_path):
    for imbalance in (5.0, 7.0, 9.0):
        for seed in range(2):
            level = 0.5 + seed / 10
            for refine, gain in (("none", 0.0), ("align", 0.1), ("sinkhorn", -0.1 if seed else 0.2)):
                place = tmp_path / "runs" / f"{refine}-{imbalance}-{seed}"
                write_run(place, seed, [level + gain] * 20, refine=refine, imb_ratio_l=imbalance)
    page = tmp_path / "t.md"
    assert program.main(["summary", str(tmp_path / "runs"), "--markdown", str(page)]) == 0
    by_regime, together = page.read_text().split("## All regimes together")
    assert by_regime.count("FixMatch + alignment minus FixMatch, seed by seed: bACC +10.0 ± 0.0") == 3
    assert (
        "| FixMatch + alignment minus FixMatch | 6 | +10.0 ± 0.0 (higher on 6 of 6), p = 0.031 |" in together
    )
    assert (
        "| FixMatch + Sinkhorn minus FixMatch | 6 | "
        "+5.0 ± 16.4 (higher on 3 of 6; **not a gain on every seed**), p = 0.344 |" in together
    )


def test_a_p_is_never_written_as_zero(tmp_path):
    for imbalance in (5.0, 7.0):
        for seed in range(7):  # all of 14 pairs higher: p is 2 / 2**14
            for refine, level in (("none", 0.5), ("align", 0.6)):
                place = tmp_path / "runs" / f"{refine}-{imbalance}-{seed}"
                write_run(place, seed, [level + seed / 1000] * 20, refine=refine, imb_ratio_l=imbalance)
    page = tmp_path / "t.md"
    assert program.main(["summary", str(tmp_path / "runs"), "--markdown", str(page)]) == 0
    assert "(higher on 14 of 14), p < 0.001 |" in page.read_text()


@pytest.mark.parametrize("seed", range(20))
def test_the_signed_rank_test_is_that_of_scipy(seed):
    draws = random.Random(seed)
    differences = [draws.gauss(0.5, 1) for _ in range(draws.randint(1, 14))]
    assert wilcoxon(differences) == pytest.approx(scipy.stats.wilcoxon(differences, method="exact").pvalue)


def test_zeros_and_ties_of_the_signed_rank_test():
    assert wilcoxon([0.0, 0.0]) == 1
    # ranks 1.5, 1.5, 3, the smallest rank sum is 0 in one of 8 ways
    assert wilcoxon([1.0, 1.0, 2.0, 0.0]) == pytest.approx(2 / 8)
    assert wilcoxon([-1.0, 1.0, 2.0]) == pytest.approx(2 * 3 / 8)


def test_a_summary_of_nothing_is_refused(tmp_path, capsys):
    assert program.main(["summary", str(tmp_path)]) == 2
    assert "no run in" in capsys.readouterr().err


def test_unfinished_runs_are_marked(tmp_path):
    write_run(tmp_path / "runs" / "a", 0, [0.5] * 3, epochs=9)
    page = tmp_path / "t.md"
    program.main(["summary", str(tmp_path / "runs"), "--markdown", str(page)])
    assert "| FixMatch (3 of 9 epochs) | 1 |" in page.read_text()


def test_each_refinement_and_a_retrained_head_have_a_row_of_their_own(tmp_path):
    for refine in ("sinkhorn", "darp", "none", "align"):
        write_run(tmp_path / refine, 0, [0.5], refine=refine)
    write_run(tmp_path / "crt", 0, [0.5], refine="darp", head="crt")
    (members,) = group_runs(find_runs([tmp_path])[0]).values()
    assert [group.label for group in members] == [
        "FixMatch", "FixMatch + alignment", "FixMatch + Sinkhorn", "FixMatch + DARP", "FixMatch + DARP + cRT",
    ]  # fmt: skip
    keys = [group.counterpart_key() for group in members]
    assert len(set(keys[:4])) == 1
    assert keys[4] not in keys[:4]  # a retrained head is no refinement


def test_a_reversed_imbalance_is_a_regime_of_its_own(tmp_path):
    write_run(tmp_path / "a", 0, [0.5], imb_ratio_u=7.0)
    write_run(tmp_path / "b", 0, [0.5], imb_ratio_u=7.0, imb_ratio_u_reversed=True)
    labels = [regime.label for regime in group_runs(find_runs([tmp_path])[0])]
    assert labels == [
        "up to 9 labels a class (imbalance 5, unlabeled imbalance 7)",
        "up to 9 labels a class (imbalance 5, unlabeled imbalance 7 reversed)",
    ]
