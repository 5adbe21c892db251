import pytest

import report
from tests.tracking.report.synthetic_runs import write_finding


@pytest.fixture(scope="module")
def finding(tmp_path_factory):
    return write_finding(tmp_path_factory.mktemp("finding"), epochs=3, seeds=1)


def test_the_command_writes_page_and_picture_and_prints_the_table(finding, tmp_path, capsys):
    page, picture = tmp_path / "sub" / "report.html", tmp_path / "finding.png"

    assert report.main([str(finding), "--out", str(page), "--png", str(picture), "--title", "A & B"]) == 0

    assert "<title>A &amp; B</title>" in page.read_text(encoding="utf-8")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["finding.png", "report.html", "sub"]
    printed = capsys.readouterr().out
    assert "FixMatch + DARP" in printed
    assert str(page) in printed


@pytest.mark.parametrize("make", [lambda folder: None, lambda folder: folder.mkdir()])
def test_an_empty_or_missing_folder_is_named_with_the_remedy(tmp_path, capsys, make):
    folder = tmp_path / "nothing"
    make(folder)

    assert report.main([str(folder), "--out", str(tmp_path / "report.html")]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder) in line
    assert "train first" in line
    assert not (tmp_path / "report.html").exists()


def test_a_failed_write_leaves_the_old_page_and_no_remains(tmp_path, monkeypatch):
    page = tmp_path / "report.html"
    page.write_text("old")

    def fail(source, target):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space"):
        report.write_whole(page, b"new")

    assert page.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
