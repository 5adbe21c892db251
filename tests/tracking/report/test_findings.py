from statistics import fmean

import pytest

from tests.tracking.report.synthetic_runs import write_finding, write_run
from tracking.report.findings import cautions, findings
from tracking.report.runs import find_runs, group_runs


@pytest.fixture(scope="module")
def finding(tmp_path_factory):
    return write_finding(tmp_path_factory.mktemp("finding"))


def test_the_sentences_say_what_the_figures_say(finding):
    groups = group_runs(find_runs([finding])[0])
    (sentences,) = findings(groups)
    few = list(groups.values())[1]
    orig, with_darp = (fmean(run.rows[-1]["pseudo/orig/tv_true"] for run in group.runs) for group in few)

    assert f"{orig:.2f} with 1 label a class (total variation)" in sentences
    assert f"brings it down to {with_darp:.2f}" in sentences
    assert "(means of 3 seeds)" in sentences


def test_sentences_follow_the_data_when_darp_does_harm(tmp_path):
    write_run(tmp_path, "plain", collapse=0.1)
    write_run(tmp_path, "darp", collapse=9.0, darp=True)

    (sentences,) = findings(group_runs(find_runs([tmp_path])[0]))

    assert "DARP raises it to" in sentences
    assert "brings it down" not in sentences


def test_a_regime_without_its_counterpart_claims_no_comparison(tmp_path):
    write_run(tmp_path, "darp", darp=True)

    (sentences,) = findings(group_runs(find_runs([tmp_path])[0]))

    assert "no run without DARP to compare it with" in sentences


def test_cautions_tell_what_weakens_the_figures(tmp_path, finding):
    write_run(tmp_path, "unfinished", epochs=9, epochs_done=3)
    lines = " ".join(cautions(group_runs(find_runs([tmp_path])[0])))

    assert "1 of 1 runs is unfinished" in lines
    assert "flatter pseudo_orig" in lines  # coverage is 2/3 after 3 of 9 epochs
    assert "run once" in lines
    assert cautions(group_runs(find_runs([finding])[0])) == []


def test_a_coverage_of_95_percent_is_a_caution_too(tmp_path):
    write_run(tmp_path, "unfinished", epochs=40, epochs_done=19)
    assert "lowest coverage 0.95" in " ".join(cautions(group_runs(find_runs([tmp_path])[0])))
