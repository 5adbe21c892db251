import io
import re

import pytest
from rich.console import Console

import report
from tests.tracking.report.synthetic_runs import write_finding, write_run
from tracking.report.runs import find_runs, group_runs
from tracking.report.terminal import bar, sparkline, terminal_report


def shown(folder, width=120):
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(terminal_report(group_runs(find_runs([folder])[0]), width))
    return console.export_text()


def test_a_bar_is_as_long_as_its_share_to_an_eighth_of_a_character():
    assert bar(0.5, 1.0, 10) == "█████"
    assert bar(0.55, 1.0, 10) == "█████▌"
    assert bar(0.0, 1.0, 10) == ""
    assert bar(2.0, 1.0, 10) == "█" * 10


def test_a_sparkline_goes_from_none_to_all_and_leaves_gaps():
    assert sparkline([0.0, 0.5, None, 1.0], 1.0, 24) == "▁▅ █"
    assert len(sparkline([0.5] * 500, 1.0, 24)) <= 25


def test_the_terminal_shows_verdicts_and_the_classes_of_each_configuration(tmp_path):
    write_finding(tmp_path, epochs=12, seeds=2)
    text = shown(tmp_path)

    assert "digits, 1 label a class: far from the truth" in text
    assert len(re.findall(r"^ [0-9]  +0\.\d{3} █", text, re.MULTILINE)) == 40
    assert text.count("refined") >= 2
    of_class_3 = [len(found) for found in re.findall(r"^ 3 .*?(█+)", text, re.MULTILINE)]
    assert len(of_class_3) == 4
    assert of_class_3[2] != of_class_3[3]  # few labels, raw and with DARP, on one scale


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(tmp_path, width):
    write_finding(tmp_path, epochs=12, seeds=1)
    text = shown(tmp_path, width)

    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


def test_of_many_classes_those_are_shown_that_are_furthest_off(tmp_path):
    write_run(tmp_path, "run", num_classes=100, collapse=2.0)
    text = shown(tmp_path)

    assert len(re.findall(r"^ \d+ +0\.\d{3}", text, re.MULTILINE)) == 20
    assert "the 20 of 100 classes that are furthest from the truth" in " ".join(text.split())


def test_runs_without_truth_or_numbers_and_hostile_names_are_shown_as_they_are(tmp_path):
    write_run(tmp_path, "no truth", with_truth=False, dataset="[red]x[/]")
    (write_run(tmp_path, "bare", dataset="bare") / "metrics.jsonl").write_text('{"epoch": 0}\n')

    text = shown(tmp_path)

    assert "[red]x[/], 60 labels a class" in text
    assert "bare, 60 labels a class: unknown" in text


def test_the_flag_writes_nothing(tmp_path, capsys, monkeypatch):
    write_run(tmp_path / "runs", "run")
    monkeypatch.chdir(tmp_path)

    assert report.main(["runs", "--table"]) == 0

    assert "60 labels a class" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
