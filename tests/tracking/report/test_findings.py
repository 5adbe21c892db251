from statistics import fmean

import pytest

from tests.tracking.report.synthetic_runs import write_finding, write_run
from tracking.report.findings import cautions, verdict
from tracking.report.runs import find_runs, group_runs, read_run


@pytest.fixture(scope="module")
def finding(tmp_path_factory):
    return write_finding(tmp_path_factory.mktemp("finding"))


def verdicts(folder):
    return [verdict(members) for members in group_runs(find_runs([folder])[0]).values()]


def test_the_verdict_says_what_the_figures_say(finding):
    groups = list(group_runs(find_runs([finding])[0]).values())
    (many, _), (few, sentence) = verdicts(finding)
    orig, with_darp = (
        fmean(run.rows[-1]["pseudo/orig/tv_true"] for run in group.runs) for group in groups[1]
    )

    assert many == "near the truth"
    assert few == "far from the truth"
    assert f"Raw pseudo-labels of FixMatch end {orig:.3f} from the truth" in sentence
    assert f"with DARP {with_darp:.3f}" in sentence
    assert sentence.endswith("(means of 3 seeds).")


def test_labels_that_spread_over_less_than_half_of_the_classes_have_collapsed(tmp_path):
    write_run(tmp_path, "plain", collapse=9.0)

    ((word, sentence),) = verdicts(tmp_path)

    assert word == "collapsed"
    assert "spread over" in sentence


def test_the_verdict_follows_the_data_when_darp_does_harm(tmp_path):
    write_run(tmp_path, "plain", collapse=0.1)
    harmed = read_run(write_run(tmp_path, "darp", collapse=9.0, darp=True))

    ((word, sentence),) = verdicts(tmp_path)

    assert word == "near the truth"
    assert f"with DARP {harmed.rows[-1]['pseudo/orig/tv_true']:.3f}" in sentence


def test_a_regime_without_its_counterpart_claims_no_comparison(tmp_path):
    write_run(tmp_path, "darp", darp=True)

    ((_, sentence),) = verdicts(tmp_path)

    assert "no run without DARP to compare it with" in sentence


def test_without_true_labels_the_verdict_is_about_the_target(tmp_path):
    write_run(tmp_path, "plain", with_truth=False)

    ((word, sentence),) = verdicts(tmp_path)

    assert word.endswith("the target")
    assert "truth" not in sentence


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
