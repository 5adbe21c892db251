"""Notes, saved code and summaries, by this project's flags and by W&B's own variables."""

import subprocess
from pathlib import Path

import pytest

from tests.tracking.online.tracker_driver import drive
from tests.wandb_server import WandbServer
from tracking.online.artifacts import ROOT, source_files
from tracking.online.sync import sync_run

pytestmark = pytest.mark.slow


def test_notes_and_summaries_arrive_now_and_when_they_are_sent_later(
    server: WandbServer, folder: Path
) -> None:
    told = {"notes": "a second try", "summary": {"test/bacc": "max", "pseudo/orig/0": "none"}}
    drive(folder, tracker=told | {"mode": "online"})
    drive(folder.with_name("later"), tracker=told | {"mode": "offline"}, id="r2")
    assert sync_run(folder.with_name("later")).complete
    for run in server.runs.values():
        assert run.notes == "a second try"
        assert run.summary["test/bacc"] == {"max": 0.55}
        assert "pseudo/orig/0" not in run.summary
        assert run.summary["pseudo/orig/1"] == pytest.approx(2 / 6)
        assert run.history[-1]["pseudo/orig/0"] == pytest.approx(1 / 6), "the row has it"
    assert len(server.runs) == 2
    assert sync_run(folder.with_name("later")).sentence.endswith("nothing to send")


def test_the_variable_of_wandb_wins_over_the_flag_for_notes(
    server: WandbServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_NOTES", "by the scheduler")
    drive(folder, tracker={"mode": "online", "notes": "by the flag"})
    assert server.runs["r1"].notes == "by the scheduler"


def test_the_code_that_is_saved_is_every_file_that_a_run_may_read(server: WandbServer, folder: Path) -> None:
    drive(folder, tracker={"mode": "online", "code": True})
    (code,) = (artifact for artifact in server.artifacts if artifact.type == "code")
    assert code.created_by == server.runs["r1"].id
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], check=True, capture_output=True, text=True)
    no_part_of_a_run = ("tests/", "docs/", "examples/", ".")
    tracked = [name for name in listed.stdout.splitlines() if not name.startswith(no_part_of_a_run)]
    documents = {"LICENSE", "Makefile", "CITATION.cff", *(name for name in tracked if name.endswith(".md"))}
    assert code.files.keys() >= set(tracked) - documents
    assert code.files["semi/loop.py"] == (ROOT / "semi" / "loop.py").read_bytes()
    assert sum(file.stat().st_size for file in source_files()) < 2e6


def test_no_code_is_saved_unless_it_is_asked_for(server: WandbServer, folder: Path) -> None:
    drive(folder, tracker={"mode": "online"})
    assert {artifact.type for artifact in server.artifacts} == {"run_table"}


def test_wandbs_own_variable_saves_the_code_of_a_folder(
    server: WandbServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.parent.parent / "code").mkdir()
    (folder.parent.parent / "code" / "mine.py").write_text("x = 1\n")
    monkeypatch.setenv("WANDB_SAVE_CODE", "true")
    monkeypatch.setenv("WANDB_CODE_DIR", str(folder.parent.parent / "code"))
    drive(folder, tracker={"mode": "online"})
    (code,) = (artifact for artifact in server.artifacts if artifact.type == "code")
    assert code.files == {"mine.py": b"x = 1\n"}
