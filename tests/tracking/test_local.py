import json

import yaml

from tracking.local import LocalTracker


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
