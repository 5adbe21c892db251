import base64
import math
import zlib

import numpy as np
import pytest

from tests.tracking.report.synthetic_runs import write_finding, write_run
from tracking.media import Media
from tracking.report import page_data
from tracking.report.page_data import LEVELS, MISSING
from tracking.report.runs import find_runs, group_runs


def data_of(folder):
    return page_data.page_data(group_runs(find_runs([folder])[0]))


def unpacked(data):
    """Run and key -> [K, E], as the page reads it: slow and plain."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(data["packed"])), dtype=np.uint8).astype(int)
    steps = planes[: len(planes) // 2] + 256 * planes[len(planes) // 2 :]
    found, start = {}, 0
    for run, key, classes, epochs, low, high in data["blocks"]:
        values = np.zeros((classes, epochs))
        for k in range(classes):
            level = 0
            for e in range(epochs):
                level = (level + steps[start]) % 65536
                values[k, e] = math.nan if level == MISSING else low + level / LEVELS * ((high - low) or 1)
                start += 1
        found[run, key] = values
    assert start == len(steps)
    return found


def test_what_is_packed_is_what_was_logged_to_four_digits(tmp_path):
    write_finding(tmp_path, seeds=1, epochs=12)
    groups = group_runs(find_runs([tmp_path])[0])
    runs = [run for members in groups.values() for group in members for run in group.runs]

    found = unpacked(data_of(tmp_path))

    for number, run in enumerate(runs):
        for key in ("pseudo/orig", "pseudo/orig/recall", "test/recall"):
            logged = np.array([[row[f"{key}/{k}"] for row in run.rows] for k in range(10)])
            assert np.abs(found[number, key] - logged).max() <= np.ptp(logged) / LEVELS
        accuracy = [row["test/acc"] for row in run.rows]
        assert found[number, "test/acc"][0] == pytest.approx(accuracy, abs=1e-4)
    assert (1, "pseudo/refined") in found
    assert (0, "pseudo/refined") not in found  # nothing refined them: it would be pseudo/orig again


def test_the_confusion_matrix_that_a_run_kept_is_where_the_images_of_each_class_go(tmp_path):
    folder = write_run(tmp_path, "darp", darp=True, num_classes=3)
    raw = np.array([[6, 2, 0], [0, 8, 0], [1, 1, 2]])
    Media(confusions={"orig": raw, "refined": np.eye(3, dtype=np.int64), "test": raw}).write(folder)

    found = unpacked(data_of(tmp_path))

    assert found[0, "confusion/orig"] == pytest.approx(raw / raw.sum(axis=1, keepdims=True), abs=1e-3)
    assert found[0, "confusion/refined"] == pytest.approx(np.eye(3))


def test_a_matrix_that_cannot_be_read_or_is_of_other_classes_is_left_out(tmp_path):
    Media(confusions={"orig": np.eye(4, dtype=np.int64)}).write(write_run(tmp_path, "four"))
    (write_run(tmp_path, "broken", seed=1) / "media.npz").write_bytes(b"PK\x03\x04")

    assert not any(key.startswith("confusion") for _, key in unpacked(data_of(tmp_path)))


def test_a_residual_keeps_its_magnitude(tmp_path):
    write_run(tmp_path, "darp", darp=True, epochs=9)
    ((group,),) = group_runs(find_runs([tmp_path])[0]).values()

    residual = 10 ** unpacked(data_of(tmp_path))[0, "darp/residual"][0]

    logged = [row.get("darp/residual", math.nan) for row in group.runs[0].rows]
    assert residual == pytest.approx(logged, rel=1e-3, nan_ok=True)


def test_what_is_missing_or_infinite_is_missing(tmp_path):
    folder = write_run(tmp_path, "run", epochs=3, epochs_done=2)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "test/acc": 1e999, "pseudo/orig/0": null, "pseudo/orig/1": 0.5}\n')

    found = unpacked(data_of(tmp_path))

    assert math.isnan(found[0, "test/acc"][0, 2])
    assert np.isnan(found[0, "pseudo/orig"][:, 2]).tolist() == [True, False]


def test_a_target_that_moves_is_kept_for_every_epoch_and_one_that_stays_once(tmp_path):
    write_run(tmp_path, "known", darp=True, epochs=5)
    write_run(tmp_path, "online", darp=True, epochs=5, est=True, est_from="online")

    shapes = [
        found.shape for (_, key), found in unpacked(data_of(tmp_path)).items() if key == "pseudo/target"
    ]

    assert sorted(shapes) == [(10, 1), (10, 5)]


def test_long_runs_are_thinned_evenly_and_keep_their_last_epoch(tmp_path, monkeypatch):
    write_run(tmp_path, "run", epochs=30)
    whole = data_of(tmp_path)
    monkeypatch.setattr(page_data, "MAX_NUMBERS", 800)

    data = data_of(tmp_path)

    assert (whole["stride"], whole["runs"][0]["epochs"]) == (1, 30)
    stride = data["stride"]
    assert stride > 1
    assert data["runs"][0]["epochs"][-1] == 29
    assert data["runs"][0]["epochs"][:3] == [0, stride, 2 * stride]


def test_an_alert_stands_at_its_epoch(tmp_path):
    write_run(tmp_path, "run", epochs=20, collapse=9.0)

    (run,) = data_of(tmp_path)["runs"]

    assert [title for _, title, _ in run["alerts"] if "collapse" in title]
    assert all(3 <= epoch < 20 for epoch, _, _ in run["alerts"])


def test_fields_that_differ_are_named_and_no_others(tmp_path):
    for alpha in (1.0, 2.0):
        write_run(tmp_path, f"alpha {alpha}", darp=True, alpha=alpha)

    assert page_data.differences(group_runs(find_runs([tmp_path])[0])) == {"alpha": ["1.0", "2.0"]}
