import io
from statistics import fmean, stdev

import pytest
from rich.console import Console

from tests.tracking.report.synthetic_runs import write_finding, write_run
from tracking.report.figures import (
    COLUMNS,
    Statistic,
    final_figures,
    statistic,
    terminal_table,
    write_number,
    write_statistic,
)
from tracking.report.page_data import CONSTANT_TABLES, LINES, REFINED_TABLES, TABLES
from tracking.report.runs import Run, Series, find_runs, group_runs, read_run
from tracking.row import is_known


@pytest.fixture(scope="module")
def finding(tmp_path_factory):
    return write_finding(tmp_path_factory.mktemp("finding"))


def test_the_table_gives_mean_deviation_and_n(finding):
    rows = final_figures(group_runs(find_runs([finding])[0]))

    accuracies = [read_run(finding / f"fix-1-plain-{seed}").rows[-1]["test/acc"] for seed in range(3)]
    row = rows[2]
    assert (row.regime, row.run, row.darp) == ("digits, 1 label a class", "FixMatch", False)
    assert row.seeds == ("0", "1", "2")
    assert row.figures[0] == Statistic(fmean(accuracies), stdev(accuracies), 3)
    assert write_statistic(row.figures[0], ".3f") == f"{fmean(accuracies):.3f} ± {stdev(accuracies):.3f}"


def test_figures_are_written_as_a_reader_would():
    assert write_statistic(None, ".3f") == "-"
    assert write_statistic(statistic([0.5]), ".3f") == "0.500"
    assert write_statistic(statistic([0.5, float("inf")]), ".1f") == "∞"
    assert write_number(1511.2, ".1f") == "1,511"
    assert [write_number(s, "duration") for s in (9.96, 60, 3661)] == ["10.0 s", "1 min 00 s", "1 h 01 min"]


def test_the_terminal_shows_markup_in_names_as_text(tmp_path):
    write_run(tmp_path, "run", semi_method="[red]fix[/]", dataset="\x1b[31mdigits")
    console = Console(width=120, record=True, file=io.StringIO())

    console.print(terminal_table(final_figures(group_runs(find_runs([tmp_path])[0]))))
    text = console.export_text()

    assert "[red]fix[/]" in text
    assert "\x1b" not in text


def test_every_key_that_the_page_reads_is_one_that_a_row_has():
    read = []

    class Spy(Run):
        def __init__(self):
            pass

        def last(self, key):
            read.append(key)

        def series(self, key):
            read.append(key)
            return Series([], [])

    for column in COLUMNS:
        column.take(Spy())
    read += [*LINES, *(f"{key}/0" for key in (*TABLES, *REFINED_TABLES, *CONSTANT_TABLES))]

    assert len(read) >= 40
    assert [key for key in read if not is_known(key)] == []
