"""The documents: links, the site, what is cited, what is packaged, what the hosted CI calls."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import unicodedata
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

from semi.cli import parse
from semi.config import Config, ConfigError, WandbOptions

ROOT = Path(__file__).parents[1]
TRACKED = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.splitlines()
PAGES = [name for name in TRACKED if name.endswith(".md")]
VERSION = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)[0]


def anchors(text: str) -> set[str]:
    """The names that a forge gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    plain = [re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading).strip().lower() for heading in headings]
    kept = ["".join(c for c in name if c in " -_" or unicodedata.category(c)[0] in "LNM") for name in plain]
    return {name.replace(" ", "-") for name in kept}


def broken_links(page: Path) -> list[str]:
    """Links of a Markdown page to files or headings that are not there. Links to other hosts are not followed."""
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.M | re.S)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'(?:src|srcset|href)="([^"]+)"', prose)
    broken = []
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES)
def test_no_link_of_a_page_leads_nowhere(page):
    assert broken_links(ROOT / page) == []


def test_links_that_lead_nowhere_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        '# One `two`, three\n[a](page.md#one-two-three) [b](no.md) [c](#no) <img src="no.png"> `[d](e)`\n'
    )
    assert broken_links(page) == ["no.md", "#no", "no.png"]


@pytest.mark.slow
def test_the_site_is_made_without_a_warning(tmp_path):
    command = re.findall(r"^\t\$\(BIN\)/(python -m sphinx .*)$", (ROOT / "Makefile").read_text(), re.M)[0]
    words = command.replace(" docs site", f" docs {tmp_path}").split()[1:]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    api = (tmp_path / "api.html").read_text(encoding="utf-8")
    assert "the pseudo-labels" in api.split('id="darp.refine"')[1].split("</dd>")[0]  # its docstring
    pages = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    assert pages == {path.relative_to(tmp_path).with_suffix("") for path in tmp_path.rglob("*.html")} & pages


def command_lines(page: Path) -> list[list[str]]:
    """The words of each command in a page's blocks, without remarks; `a && b` and `a ; b` are two."""
    blocks = re.findall(r"^```\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    lines = [re.sub(r"\s+#.*$", "", line) for block in blocks for line in block.splitlines()]
    return [shlex.split(part) for line in lines for part in re.split(r" && | ; ", line) if part.strip()]


def problem_of(words: list[str]) -> str:
    """Why nobody can type this command of a page; empty where one can. Capitals are the reader's to fill in."""
    if words[0] == "make" and not re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M):
        return f"no target {words[1]}"
    files = [word for word in words if re.search(r"\.(py|sh|yaml)$", word)]
    if missing := [name for name in files if not (ROOT / name).is_file()]:
        return f"no file {missing[0]}"
    if words[0] == "python3" and words[1].startswith("train"):
        try:
            parse([word for word in words[2:] if word not in ("...", "--help")], "", Config, WandbOptions)
        except ConfigError as error:
            return str(error)
    return ""


def test_the_readme_fits_two_screens_and_its_commands_can_be_typed():
    readme = ROOT / "README.md"
    assert len(readme.read_text(encoding="utf-8").splitlines()) <= 130
    commands = command_lines(readme)
    assert len(commands) > 20
    assert {problem_of(words) for words in commands} == {""}
    wrong = [
        "make dmo",
        "python3 trian.py --darp",
        "python3 train.py --dapr",
        "./run.sh --config configs/no.yaml",
    ]
    assert all(problem_of(shlex.split(line)) for line in wrong)


def test_the_version_is_the_same_wherever_it_stands():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == VERSION
    assert re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[0] == VERSION


def test_the_citation_has_what_its_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    for part in (citation, citation["preferred-citation"]):
        assert part["title"]
        assert all(author.get("name") or author.get("family-names") for author in part["authors"])
    assert citation["message"]
    assert citation["preferred-citation"]["type"] == "conference-paper"


@pytest.mark.parametrize(
    ("file", "schema"),
    [
        ("CITATION.cff", "vendor.citation-file-format"),
        (".github/workflows/ci.yml", "vendor.github-workflows"),
        (".github/workflows/ci.yml", "custom.github-workflows-require-timeout"),
    ],
)
def test_what_a_forge_reads_fits_its_schema(file, schema):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, file]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_hosted_checks_call_targets_of_the_makefile_and_install_what_the_tests_use():
    hosted = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    lines = [step["run"] for job in hosted["jobs"].values() for step in job["steps"] if "run" in step]
    called = [line.split()[1] for line in lines if line.startswith("make ")]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert {"lint", "test"} <= set(called) <= set(targets)
    wanted = re.findall(r"wanted\+=\((.*?)\)", (ROOT / ".ci/run").read_text())
    installed = " ".join(lines).split()
    assert [name for names in wanted for name in names.split() if name not in installed] == []


@pytest.mark.slow
def test_the_wheel_installs_and_refines_where_nothing_but_its_requirements_is(tmp_path):
    """Of the wheel: its files, its requirements, one right answer. NUMBA_DISABLE_JIT saves the time to compile, so the
    compiled kernels are not run from the wheel; tests/darp/engine runs them from the checkout.
    """
    source = tmp_path / "source"
    for name in TRACKED:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", source],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert (tmp_path / "dist" / f"darp_wandb-{VERSION}.tar.gz").exists()  # the wheel was made of it
    with zipfile.ZipFile(wheel) as archive:
        folders = {name.split("/")[0] for name in archive.namelist()}
        modules = {name for name in archive.namelist() if name.endswith(".py")}
        about = Parser().parsestr(archive.read(f"darp_wandb-{VERSION}.dist-info/METADATA").decode())
    assert folders == {"darp", f"darp_wandb-{VERSION}.dist-info"}
    assert modules == {name for name in TRACKED if name.startswith("darp/") and name.endswith(".py")}
    required = [line for line in about.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert {re.split(r"[<>=]", line)[0] for line in required} == {"torch", "numpy", "scipy", "numba"}
    assert {"train", "wandb", "report"} <= set(about.get_all("Provides-Extra", []))

    bare = tmp_path / "bare"
    venv.create(bare, with_pip=False)
    python = bare / "bin/python"
    subprocess.run(
        [sys.executable, "-m", "pip", f"--python={python}", "install", "-q", "--no-deps", "--no-index", wheel],
        check=True, capture_output=True,
    )  # fmt: skip
    (packages,) = bare.glob("lib/python*/site-packages")
    # What the wheel requires, without downloading 3 GB again; its folder comes after the wheel's own.
    (packages / "requirements.pth").write_text(os.path.dirname(os.path.dirname(yaml.__file__)))
    script = (
        "import torch, darp; probs = torch.rand(40, 4).softmax(1); s = darp.refine(probs, [10.0] * 4); "
        "print(darp.__file__, s.converged, s.residual < 1e-5)"
    )
    slow_but_uncompiled = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [python, "-c", script],
        cwd=tmp_path,
        env=slow_but_uncompiled,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(packages / "darp/__init__.py"), "True", "True"]
