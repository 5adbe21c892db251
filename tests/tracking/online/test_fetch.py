"""`report.py` of W&B's own files and of a project at its server: the figures are those of the run folder."""

from pathlib import Path

import pytest

import report
from semi.config import kinds_of
from tests.tracking.online.tracker_driver import drive
from tests.wandb_server import WandbServer
from tracking.local import read_config, read_rows
from tracking.online.fetch import fetch_files, fetch_project, row_of

OFFLINE, ONLINE = {"tracker": {"mode": "offline"}}, {"tracker": {"mode": "online"}}


def test_histograms_give_the_shares_of_classes_where_there_are_no_others():
    of_file = {
        "epoch": 3,
        "pseudo_orig._type": "histogram",
        "pseudo_orig.values": [3, 1],
        "pseudo_orig.bins": [0, 1, 2],
    }
    of_server = {"epoch": 3, "pseudo_orig": {"_type": "histogram", "values": [3, 1], "bins": [0, 1, 2]}}

    for item in (of_file, of_server):
        row = row_of(item | {"_step": 3, "unknown/key": 1.0, "pseudo/orig/1": 0.3, "test/acc": "NaN"})
        assert row == {"epoch": 3, "pseudo_orig": [3, 1], "pseudo/orig/0": 0.75, "pseudo/orig/1": 0.3}


@pytest.mark.slow
def test_the_files_of_a_resumed_offline_run_make_one_whole_run(folder: Path, tmp_path: Path):
    drive(folder, **OFFLINE, until=3)
    drive(folder, **OFFLINE, first=3)
    (folder / "wandb" / "offline-run-broken").mkdir()
    (folder / "wandb" / "offline-run-broken" / "run-x.wandb").write_bytes(b"no log")

    problems = fetch_files(folder / "wandb", tmp_path / "fetched", kinds_of)

    assert len(problems) == 1
    assert "offline-run-broken" in problems[0]
    assert "\n" not in problems[0]
    assert_same(folder, tmp_path / "fetched" / "r1")


@pytest.mark.slow
def test_the_runs_of_a_project_come_from_the_server(server: WandbServer, folder: Path, tmp_path: Path):
    drive(folder, **ONLINE)
    entity = server.runs["r1"].entity

    assert fetch_project(f"{entity}/darp", tmp_path / "fetched", kinds_of) == []

    assert_same(folder, tmp_path / "fetched" / "r1")


@pytest.mark.slow
def test_the_command_takes_both_and_tells_what_is_wrong(
    server: WandbServer, folder: Path, tmp_path: Path, capsys
):
    drive(folder, **ONLINE)
    entity, page = server.runs["r1"].entity, tmp_path / "report.html"

    for source in (f"wandb:{entity}/darp", str(folder / "wandb"), str(folder)):
        page.unlink(missing_ok=True)
        assert report.main([source, "--out", str(page)]) == 0
        assert "digits, 3 labels a class" in page.read_text()
    capsys.readouterr()
    page.unlink()

    for words, told in (
        (["wandb:darp"], "name it as wandb:ENTITY/PROJECT"),
        ([f"wandb:{entity}/darp", "--serve", "--watch"], "leave --watch out"),
    ):
        assert report.main([*words, "--out", str(page)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words[0] in line
        assert told in line
    server.fail(1.0, 403)
    assert report.main([f"wandb:{entity}/darp", "--out", str(page)]) == 2
    assert "check the name and `wandb login`" in capsys.readouterr().err.splitlines()[-1]
    assert not page.exists()


def assert_same(folder: Path, fetched: Path) -> None:
    """Every figure that W&B was given, and what groups the runs."""
    assert [row["epoch"] for row in read_rows(fetched)] == [row["epoch"] for row in read_rows(folder)]
    for kept, sent in zip(read_rows(folder), read_rows(fetched), strict=True):
        assert {key: sent[key] for key in kept} == kept
    assert read_config(fetched)["field_kinds"] == kinds_of(read_config(folder))
    assert read_config(fetched)["dataset"] == "digits"
