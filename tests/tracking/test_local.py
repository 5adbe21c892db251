import json
import math

import yaml

from tracking.local import LocalTracker, encode_row, read_rows


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_row_is_on_disk_as_soon_as_it_is_logged(tmp_path):
    tracker = LocalTracker(tmp_path / "run")
    tracker.start({"lr": 0.1, "class_names": ["a"]}, {}, 0)
    tracker.log({"epoch": 0, "loss/total": 1.5, "pseudo_orig": [1.0]})
    assert lines(tmp_path / "run") == [{"epoch": 0, "loss/total": 1.5, "pseudo_orig": [1.0]}]
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == {"lr": 0.1, "class_names": ["a"]}


def test_a_number_that_json_does_not_know_becomes_null(tmp_path):
    tracker = LocalTracker(tmp_path)
    tracker.start({}, {}, 0)
    tracker.log({"epoch": 0, "loss/total": float("nan"), "loss/x": float("inf")})
    assert lines(tmp_path) == [{"epoch": 0, "loss/total": None, "loss/x": None}]


def test_epochs_that_run_again_lose_their_old_rows_and_a_torn_line_goes(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 0}\n{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3, "lo')
    tracker = LocalTracker(tmp_path)
    tracker.start({}, {}, 2)
    tracker.log({"epoch": 2})
    assert lines(tmp_path) == [{"epoch": 0}, {"epoch": 1}, {"epoch": 2}]


def test_the_last_line_of_an_epoch_counts_and_a_torn_one_does_not(tmp_path):
    assert read_rows(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text(
        '{"epoch": 1, "x": 2}\n{"epoch": 0, "x": 1}\n{"epoch": 1, "x": 3}\n{"epoch": 2, "x"'
    )
    assert read_rows(tmp_path) == [{"epoch": 0, "x": 1}, {"epoch": 1, "x": 3}]


def test_a_number_that_was_not_finite_comes_back_as_one(tmp_path):
    tracker = LocalTracker(tmp_path)
    tracker.start({}, {}, 0)
    tracker.log({"epoch": 0, "loss/total": float("inf"), "pseudo_orig": [3.0, 1.0]})
    (row,) = read_rows(tmp_path)
    assert math.isnan(row["loss/total"])
    assert row["pseudo_orig"] == [3.0, 1.0]


def test_lines_that_are_no_rows_are_skipped(tmp_path):
    hostile = ["[1, 2]", "null", '{"x": 1}', '{"epoch": null}', '{"epoch": "3"}', "[" * 100_000, "\x00\ufffd"]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*hostile, '{"epoch": 4, "x": "text", "y": 1}', ""]))
    assert read_rows(tmp_path) == [{"epoch": 4, "y": 1}]


def test_a_resume_keeps_the_rows_around_a_line_that_is_none(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 0}\n{"epo\n{"epoch": 1}\n')
    LocalTracker(tmp_path).start({}, {}, 2)
    assert lines(tmp_path) == [{"epoch": 0}, {"epoch": 1}]


def test_rows_share_the_strings_of_their_keys_unless_a_line_is_torn(tmp_path):
    whole = [encode_row({"epoch": epoch, "test/a_key": 0.5}) for epoch in range(3)]
    path = tmp_path / "metrics.jsonl"

    path.write_text("".join(whole))
    rows = read_rows(tmp_path)
    assert len({id(key) for row in rows for key in row}) == 2

    for torn in (
        '{"epoch": 9, "test/a_k',
        '{"epoch": 9, "list": [1',
        "1,2",
        "]",
        '{"epoch": 9}, {"epoch": 8}',
    ):
        path.write_text(whole[0] + torn + "\n" + "".join(whole[1:]))
        assert read_rows(tmp_path) == rows
