import base64
import hashlib
import html.parser
import json
import re

import pytest

from tests.tracking.report.synthetic_runs import write_finding, write_run
from tracking.report.page import build_page, script_json
from tracking.report.runs import find_runs, group_runs

HOSTILE = "</script><img src=x onerror=alert(1)>"


class Elements(html.parser.HTMLParser):
    """The elements of a page with their attributes, and the text of each script."""

    def __init__(self, page):
        super().__init__()
        self.found, self.scripts = [], {}
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.found and self.found[-1][0] == "script" and data.strip():
            self.scripts.setdefault(self.found[-1][1].get("id", "own"), data)

    def count(self, tag):
        return sum(name == tag for name, _ in self.found)


def page_of(folder):
    runs, problems = find_runs([folder])
    return build_page(group_runs(runs), title="Runs", problems=problems)


@pytest.fixture(scope="module")
def finding_page(tmp_path_factory):
    return page_of(write_finding(tmp_path_factory.mktemp("finding"), epochs=4, seeds=2))


def test_the_page_names_no_address_but_its_own(finding_page):
    elements = Elements(finding_page)

    assert not any({"src", "href"} & attributes.keys() for _, attributes in elements.found)
    assert "default-src 'none'" in finding_page
    assert finding_page.count("://") == 1  # the name space of SVG, which nothing is fetched from


def test_a_page_of_a_few_runs_is_small(finding_page):
    assert len(finding_page.encode()) < 200_000


def test_the_script_is_the_one_that_the_policy_names(finding_page):
    policy = finding_page.split("script-src ")[1].split(";")[0]
    (script,) = re.findall(r"<script>(.*?)</script>", finding_page, flags=re.DOTALL)

    assert policy == f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def test_hostile_names_stay_names(tmp_path):
    write_run(
        tmp_path, "run", run_name=HOSTILE, dataset=HOSTILE, semi_method=HOSTILE, class_names=[HOSTILE] * 10
    )
    runs, _ = find_runs([tmp_path])

    page = build_page(group_runs(runs), title=HOSTILE, problems=[HOSTILE])
    elements = Elements(page)

    assert elements.count("img") == 0
    assert elements.count("script") == 3
    assert "<img" not in page
    assert page.count("</script>") == 3
    assert HOSTILE in json.dumps(json.loads(elements.scripts["data"]))  # and it arrives whole at the charts


def test_json_in_a_script_cannot_close_it_and_reads_back():
    value = {"name": "</script><!--<script>&\u2028"}

    assert not set("<>&\u2028") & set(script_json(value))
    assert json.loads(script_json(value)) == value


def test_every_regime_has_its_verdict_above_the_charts(finding_page):
    top = finding_page[: finding_page.index('id="heatmaps"')]

    assert top.index("<h2>digits, 60 labels a class</h2>") < top.index("<h2>digits, 1 label a class</h2>")
    assert top.count('class="verdict"') == 2


def test_the_tables_name_each_configuration_each_run_and_what_differs(finding_page):
    assert len(re.findall(r"<tr data-run=", finding_page)) == 8
    figures, differences = finding_page.split('id="figures"')[1].split('id="differences"')
    assert len(re.findall("<tr data-group=", figures)) == 4
    assert re.findall("<th[^>]*>([a-z_]+)</th>", differences) == [
        "regime",
        "configuration",
        "num_max",
        "refine",
    ]


def test_odd_runs_do_not_break_the_page(tmp_path):
    write_run(tmp_path, "one epoch", epochs=1)
    write_run(tmp_path, "unfinished", epochs=9, epochs_done=3, dataset="unfinished")
    write_run(tmp_path, "no truth", with_truth=False, epochs=3, darp=True, dataset="no truth")
    write_run(tmp_path, "hundred", num_classes=100, epochs=3, darp=True, dataset="hundred")
    bare = write_run(tmp_path, "bare", dataset="bare")
    (bare / "metrics.jsonl").write_text('{"epoch": 0}\n')
    broken = write_run(tmp_path, "nan", dataset="nan")
    text = (broken / "metrics.jsonl").read_text()
    (broken / "metrics.jsonl").write_text(re.sub(r"0\.1\d+", "NaN", re.sub(r"0\.09\d+", "-Infinity", text)))

    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "metrics.jsonl").write_text("{")

    page = page_of(tmp_path)

    assert "torn: left out: no config.yaml" in page
    assert "3 of 9" in page
    assert "unfinished</span>" in page
    assert "logs no distance" in page
