"""The long table of a run, and the custom charts that draw from it."""

import itertools
import json
import re

import pytest
import vl_convert

from tracking.online.long_table import CHARTS, COLUMNS, Chart, fill, long_table

SHARES = {"orig": [0.7, 0.2, 0.1], "refined": [0.4, 0.3, 0.3], "target": [1 / 3] * 3}


def rows(epochs: int):
    return [
        {"epoch": e} | {f"pseudo/{t}/{k}": v[k] for t, v in SHARES.items() for k in range(3)}
        for e in range(epochs)
    ]


def test_there_is_a_line_for_each_epoch_and_class() -> None:
    table = long_table(rows(2), ["a", "b", "c"], "digits_r2", "darp")
    assert len(COLUMNS) == len(table[0])
    assert table[1] == [0, "b", 0.2, 0.3, 1 / 3, None, "digits_r2", "darp"]
    assert [line[0] for line in table] == [0, 0, 0, 1, 1, 1]


def test_a_long_run_is_thinned_evenly_and_keeps_its_last_epoch() -> None:
    table = long_table(rows(100), ["a", "b", "c"], "r", "raw", max_lines=30)
    assert len(table) <= 30
    epochs = sorted({line[0] for line in table})
    assert epochs[-1] == 99
    assert {b - a for a, b in itertools.pairwise(epochs)} == {10}


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_a_chart_draws_every_column_that_it_names(chart: Chart) -> None:
    spec = chart.spec()
    assert spec["data"] == {"name": "wandb"}
    asked = set(re.findall(r"\$\{field:([^}]*)\}", json.dumps(spec)))
    assert asked == set(chart.columns) <= set(COLUMNS)
    data = [
        dict(zip(COLUMNS, line, strict=True)) | {"name": name}
        for name, regime in (("run one", "digits_r2"), ("run two", "digits_r500"))
        for line in long_table(rows(3), ["cat", "dog", "emu"], regime, "darp")
    ]
    filled = fill(spec, chart.fields, {"title": chart.title})
    assert "${" not in json.dumps(filled)
    drawn = vl_convert.vegalite_to_svg(json.dumps(filled | {"data": {"values": data}}))
    shown = "digits_r500" if "regime" in chart.columns else "emu"
    assert shown in drawn
    assert chart.title in drawn
    assert drawn.count('aria-roledescription="') > 4
