import json

import pytest
import vl_convert

from tracking.report.charts import (
    ORIG,
    REFINED,
    TRUE,
    Line,
    heatmap,
    lines_chart,
    mean_over_seeds,
    share_top,
    shares_chart,
)
from tracking.report.class_shares import ShareTables
from tracking.report.epochs import epoch_ticks, thinned
from tracking.report.picture import Panel, finding_picture


def tables(num_classes=10, seeds=2, refined=True):
    uniform = [1 / num_classes] * num_classes
    tilted = [0.5, *[0.5 / (num_classes - 1)] * (num_classes - 1)]
    names = [f"class {k}" for k in range(num_classes)]
    return ShareTables(
        names, [tilted, uniform][:seeds], [uniform] * seeds if refined else [], uniform, uniform
    )


def rows(spec):
    """All rows of a chart, whichever layer they belong to."""
    return [row for values in spec["datasets"].values() for row in values]


def marks(spec):
    return [layer["mark"] for layer in spec["layer"]]


def colours(spec):
    return {colour for colour in (ORIG, REFINED, TRUE) if colour in json.dumps(spec)}


def test_bars_are_the_mean_over_seeds_and_dots_the_seeds():
    spec = shares_chart(tables(seeds=2), top=1.0).to_dict()

    bars = [row for row in rows(spec) if row.get("runs") == 2 and row["table"] == "pseudo_orig"]
    dots = [
        row for row in rows(spec) if "table" in row and "runs" not in row and row["table"] == "pseudo_orig"
    ]
    assert bars[0] == {"class": "class 0", "table": "pseudo_orig", "share": 0.3, "runs": 2}
    assert [dot["share"] for dot in dots[:2]] == [0.5, 0.1]
    assert len(bars) == 10
    assert len(dots) == 20


def test_without_darp_only_pseudo_orig_is_drawn():
    spec = shares_chart(tables(refined=False), top=1.0).to_dict()

    assert {row["table"] for row in rows(spec) if "table" in row} == {"pseudo_orig"}
    assert not any("xOffset" in layer["encoding"] for layer in spec["layer"])


def test_a_run_without_true_labels_has_no_line_of_the_truth():
    known = tables(seeds=1)
    unknown = ShareTables(known.class_names, known.orig, known.refined, known.target, None)

    assert TRUE in colours(shares_chart(known, top=1.0).to_dict())
    assert TRUE not in colours(shares_chart(unknown, top=1.0).to_dict())


def test_a_hundred_classes_get_ten_labels_and_refined_as_a_line():
    spec = shares_chart(tables(num_classes=100), top=1.0).to_dict()

    assert len(spec["layer"][0]["encoding"]["x"]["axis"]["values"]) == 10
    assert {row["table"] for row in rows(spec) if "table" in row} == {"pseudo_orig"}
    assert {"type": "rule", "color": REFINED, "strokeWidth": 2.2} in marks(spec)


def test_classes_keep_their_order():
    names = ["zebra", "ant", "mole"]
    spec = heatmap(names, [0], [[0.2, 0.3, 0.5]], top=1.0).to_dict()

    assert spec["encoding"]["y"]["scale"]["domain"] == names
    assert spec["encoding"]["y"]["sort"] is None


def test_heatmaps_of_one_scale_colour_a_share_alike():
    one = heatmap(["a", "b"], [0, 1], [[0.1, 0.9], [0.2, 0.8]], top=0.9).to_dict()
    other = heatmap(["a", "b"], [0], [[0.5, 0.5]], top=0.9).to_dict()

    assert one["encoding"]["color"] == other["encoding"]["color"]
    assert one["encoding"]["color"]["scale"]["domain"] == [0, 0.9]


def test_a_long_heatmap_is_thinned_and_keeps_its_ends():
    shares = [[epoch / 1000, 1 - epoch / 1000] for epoch in range(1000)]
    (row, _) = rows(heatmap(["a", "b"], list(range(1000)), shares, top=1.0).to_dict())

    assert row["epoch"][0] == 0
    assert row["epoch"][-1] == 999
    assert row["share"][-1] == 0.999
    assert len(row["epoch"]) == len(row["share"]) < 130


@pytest.mark.parametrize("count", [0, 1, 2, 119, 120, 121, 999])
def test_thinning_keeps_first_and_last(count):
    kept = thinned(count, 120)

    assert len(kept) <= 121
    assert kept == sorted(set(kept))
    assert kept[:1] == [0][:count]
    assert kept[-1:] == [count - 1][:count]


@pytest.mark.parametrize(
    ("epochs", "ticks"),
    [
        (range(3), [0, 1, 2]),
        (range(0, 200, 2), list(range(0, 200, 20))),
        ([7], [7]),
        ([], []),
        (range(500), list(range(0, 500, 50))),
    ],
)
def test_an_axis_names_whole_epochs_each_once(epochs, ticks):
    assert epoch_ticks(epochs) == ticks


def test_the_mean_over_seeds_uses_the_seeds_that_reached_the_epoch():
    assert mean_over_seeds([([0, 1], [1.0, 2.0]), ([0], [3.0])]) == ([0, 1], [2.0, 2.0])


def test_lines_show_each_seed_thin_and_their_mean():
    line = Line("FixMatch", ORIG, [([0, 1], [0.1, 0.2]), ([0, 1], [0.3, 0.4])])
    spec = lines_chart([line], "accuracy").to_dict()

    assert {tuple(row["value"]) for row in rows(spec) if "seed" in row} == {(0.1, 0.2), (0.3, 0.4)}
    assert [row["value"] for row in rows(spec) if "seed" not in row] == [[0.2, 0.3]]


def test_a_single_epoch_is_drawn_as_a_point():
    one = lines_chart([Line("a", ORIG, [([0], [0.1])])], "accuracy").to_dict()
    many = lines_chart([Line("a", ORIG, [(range(9), [0.1] * 9)])], "accuracy").to_dict()

    assert marks(one)[-1]["opacity"] == 1
    assert marks(many)[-1]["opacity"] == 0


def test_a_logarithmic_axis_leaves_zeros_out():
    spec = lines_chart([Line("a", ORIG, [([0, 1], [0.0, 1e-8])])], "residual", log=True).to_dict()

    assert rows(spec) == [{"line": "a", "epoch": [1], "value": [1e-8]}]


def test_one_axis_holds_every_share_that_is_drawn():
    assert share_top([tables(seeds=1)]) >= 0.5
    assert share_top([tables(num_classes=100)]) < 0.5  # 100 classes: the mean is drawn, no single seed
    assert share_top([]) > 0


def test_charts_render():
    lines = [Line("a", ORIG, [([0, 1], [0.1, 0.2])] * 2), Line("b", REFINED, [([0, 1], [0.2, 0.3])], (6, 3))]
    for chart in (
        shares_chart(tables(), top=0.6),
        shares_chart(tables(num_classes=100), top=0.6),
        heatmap(["a", "b"], [0, 1], [[0.1, 0.9], [None, 0.8]], top=0.9),
        lines_chart(lines, "TV", top=0.5),
        lines_chart(lines, "residual", log=True),
    ):
        svg = vl_convert.vegalite_to_svg(chart.to_dict())
        assert ORIG in svg or "rgb(" in svg


def test_the_picture_holds_its_panels_and_is_as_wide_as_a_readme():
    panel = Panel("1 label a class: FixMatch", ["TV orig 0.22"], tables())
    spec = finding_picture([[panel, panel], [panel]]).to_dict()

    svg = vl_convert.vegalite_to_svg(spec)
    width = float(svg.split('width="')[1].split('"')[0])
    assert svg.count("1 label a class: FixMatch</text>") == 3
    assert 850 <= width <= 940
