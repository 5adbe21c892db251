"""The benchmarks run in small, and what they keep can be read back."""

import json
import sys

import pytest

from benchmarks import growth, record


def test_figures_are_kept_with_what_they_were_taken_on(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["growth.py", "--times", "2"])
    record.keep("growth", [{"rows": 5, "ms": [1.23456789, 2.0], "by_size": {"5": [0.333333333]}}])
    path = record.keep("growth", [{"rows": 6, "ms": [1.23456789, 2.0], "by_size": {"5": [0.333333333]}}])
    assert [p.name for p in path.parent.iterdir()] == ["growth.json"]
    kept = json.loads(path.read_text())
    assert kept["figures"] == [{"rows": 6, "ms": [1.2346, 2.0], "by_size": {"5": [0.33333]}}]
    assert kept["command"] == "python -m benchmarks.growth --times 2"
    assert {"date", "processor", "cores", "load", "commit", "threads", "device", "torch"} <= set(kept)


@pytest.mark.slow
def test_the_benchmark_of_growth_measures_each_size(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["growth.py", "--rows", "2000,6000", "--times", "1"])
    growth.main()
    small, large = json.loads((tmp_path / "growth.json").read_text())["figures"]
    assert (small["rows"], large["rows"]) == (2000, 6000)
    for part in ("images_mb", "tables_mb", "true_labels_mb"):
        assert large[part] == pytest.approx(3 * small[part], rel=1e-3)
    assert small["networks_mb"] == large["networks_mb"]
    assert min(small["step_ms"] + large["step_ms"] + small["refinement_ms"] + large["refinement_ms"]) > 0
    assert "6,000" in capsys.readouterr().out
