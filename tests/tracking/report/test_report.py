import pytest

import report
from tests.tracking.report.synthetic_runs import write_finding, write_run


@pytest.fixture(scope="module")
def finding(tmp_path_factory):
    return write_finding(tmp_path_factory.mktemp("finding"), epochs=3, seeds=1)


def test_the_command_writes_page_and_figures_and_prints_the_table(finding, tmp_path, capsys):
    page, figures = tmp_path / "sub" / "report.html", tmp_path / "figures"

    assert report.main([str(finding), "--out", str(page), "--figures", str(figures), "--title", "A & B"]) == 0

    assert "<title>A &amp; B</title>" in page.read_text(encoding="utf-8")
    regimes = ("1_digits_60_labels_a_class", "2_digits_1_label_a_class")
    names = [
        "finding",
        *(f"{name}_{what}" for name in regimes for what in ("classes", "distance", "accuracy")),
    ]
    assert sorted(path.stem for path in figures.glob("*.svg")) == sorted(names)
    assert sorted(path.stem for path in figures.glob("*.png")) == sorted(names)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures.glob("*.png"))
    assert "1 label a class: FixMatch + DARP" in (figures / "finding.svg").read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert "FixMatch + DARP" in printed
    assert str(page) in printed
    assert "14 files" in printed


def test_runs_without_numbers_make_no_figures(tmp_path):
    bare = write_run(tmp_path / "runs", "bare", dataset="../../etc")
    (bare / "metrics.jsonl").write_text('{"epoch": 0}\n')

    assert (
        report.main(
            [str(tmp_path / "runs"), "--out", str(tmp_path / "r.html"), "--figures", str(tmp_path / "f")]
        )
        == 0
    )

    assert not (tmp_path / "f").exists()


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
