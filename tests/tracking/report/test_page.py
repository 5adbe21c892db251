import base64
import hashlib
import html.parser
import json
import re
import shutil
import subprocess

import pytest
import vl_convert

from tests.tracking.report.synthetic_runs import write_finding, write_run
from tracking.report.page import build_page, script_json
from tracking.report.runs import find_runs, group_runs

HOSTILE = "</script><img src=x onerror=alert(1)>"
CHROMIUM = shutil.which("chromium")


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
            self.scripts.setdefault(self.found[-1][1].get("id", len(self.scripts)), data)

    def count(self, tag):
        return sum(name == tag for name, _ in self.found)


def page_of(folder):
    runs, problems = find_runs([folder])
    return build_page(group_runs(runs), title="Runs", problems=problems)


def specs_of(page):
    return json.loads(Elements(page).scripts["specs"])


@pytest.fixture(scope="module")
def finding_page(tmp_path_factory):
    return page_of(write_finding(tmp_path_factory.mktemp("finding"), epochs=4, seeds=2))


def test_the_page_asks_for_nothing_from_a_network(finding_page):
    elements = Elements(finding_page)

    assert not any({"src", "href"} & attributes.keys() for tag, attributes in elements.found if tag != "a")
    assert all(a["href"].startswith("#") for tag, a in elements.found if tag == "a")
    for host in ("cdn.", "jsdelivr", "unpkg", "googleapis"):
        assert host not in finding_page
    assert "default-src 'none'" in finding_page
    own = finding_page.replace(elements.scripts[2], "")  # what is left beside the libraries
    assert len(own) < len(finding_page) / 2
    assert "://" not in own


def test_the_page_stays_below_two_megabytes(finding_page):
    assert len(finding_page.encode()) < 2e6


def test_scripts_are_the_ones_that_the_policy_names(finding_page):
    policy = finding_page.split("script-src ")[1].split(";")[0]
    scripts = re.findall(r"<script>(.*?)</script>", finding_page, flags=re.DOTALL)

    assert len(scripts) == 2
    for script in scripts:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert "unsafe-inline" not in policy
    assert "unsafe-eval" not in policy


def test_hostile_names_stay_names(tmp_path):
    write_run(
        tmp_path, "run", run_name=HOSTILE, dataset=HOSTILE, semi_method=HOSTILE, class_names=[HOSTILE] * 10
    )
    runs, _ = find_runs([tmp_path])

    page = build_page(group_runs(runs), title=HOSTILE, problems=[HOSTILE])
    elements = Elements(page)

    assert elements.count("img") == 0
    assert elements.count("script") == 4
    assert "<img" not in page.replace(elements.scripts[2], "")  # the libraries know the word
    assert page.count("</script>") == 4
    assert HOSTILE in json.dumps(specs_of(page))  # and it arrives whole in the chart


def test_json_in_a_script_cannot_close_it_and_reads_back():
    value = {"name": "</script><!--<script>&\u2028"}

    assert not set("<>&\u2028") & set(script_json(value))
    assert json.loads(script_json(value)) == value


def test_every_chart_of_the_page_renders(finding_page):
    specs = specs_of(finding_page)

    assert len(specs) > 20
    for spec in specs.values():
        assert "$schema" not in spec
        assert "<svg" in vl_convert.vegalite_to_svg(spec)


def test_each_place_for_a_chart_has_its_specification(finding_page):
    places = [
        attributes["data-spec"] for _, attributes in Elements(finding_page).found if "data-spec" in attributes
    ]

    assert sorted(places) == sorted(specs_of(finding_page))


def test_regimes_stand_side_by_side_in_every_section(finding_page):
    blocks = finding_page.split('<div class="regimes">')[1:]

    assert len(blocks) == 6
    for block in blocks:
        assert block.index("<h4>60 labels a class</h4>") < block.index("<h4>1 label a class</h4>")


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
    assert "TV to the target" in json.dumps(specs_of(page))
    for spec in specs_of(page).values():
        vl_convert.vegalite_to_svg(spec)


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser")
def test_a_browser_draws_every_chart_under_the_page_s_own_policy(tmp_path):
    write_run(tmp_path / "runs", "plain", dataset=HOSTILE)
    write_run(tmp_path / "runs", "darp", dataset=HOSTILE, darp=True)
    page = tmp_path / "page.html"
    page.write_text(page_of(tmp_path / "runs"), encoding="utf-8")

    flags = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    )
    command = [str(CHROMIUM), *flags.split(), "--disable-component-update", "--virtual-time-budget=20000"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    drawn = Elements(done.stdout)
    charts = sum("data-spec" in attributes for _, attributes in drawn.found)
    assert charts == len(specs_of(page.read_text(encoding="utf-8")))
    assert done.stdout.count("vega-embed-wrapper") + done.stdout.count('class="chart-wrapper') >= charts
    assert drawn.count("svg") + drawn.count("canvas") >= charts
    assert "could not be drawn" not in done.stdout.replace(drawn.scripts[3], "")
    assert drawn.count("img") == 0
