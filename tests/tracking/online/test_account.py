"""What the user told W&B holds, and what W&B refuses is refused before anything is trained."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import wandb

import tracking.sync
from semi.commands import train
from semi.config import WandbOptions
from tests.semi.runs import TINY
from tests.tracking.online.tracker_driver import config, end, epochs, start
from tests.wandb_server import WandbServer
from tracking.local import LocalTracker
from tracking.online.account import Refused, resolve_mode, told
from tracking.online.tracker import WandbTracker
from train_with_wandb import wandb_tracker


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """This process in an empty folder, as a user without an account and without settings."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    yield tmp_path
    wandb.teardown()


def test_online_without_a_key_is_offline_and_says_what_is_missing(alone: Path, capsys, monkeypatch) -> None:
    tracker = WandbTracker(alone / "run", mode="online")
    tracker.start(config(1), {}, 0)
    tracker.finish(0)
    assert "W&B has no key here; run `wandb login`; logging offline instead\n" in capsys.readouterr().err
    LocalTracker(alone / "run").start(config(1), {}, 0)
    monkeypatch.setattr(sys, "argv", ["sync.py", str(alone)])
    with pytest.raises(SystemExit) as ended:
        tracking.sync.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "python -m tracking.sync: no W&B key here: run `wandb login` first\n"


def tell_wandb(server: WandbServer, folder: Path, *words: str) -> None:
    """`wandb init`, `wandb offline` and the like, as a user types them in the working folder."""
    folder.mkdir(exist_ok=True)
    environment = server.env(folder.parent)
    del environment["WANDB_DIR"]
    subprocess.run(["wandb", *words], cwd=folder, env=environment, check=True, capture_output=True)


@pytest.mark.parametrize("word", ["offline", "disabled"])
def test_after_wandb_offline_or_disabled_nothing_leaves_the_machine_though_a_key_is_stored(
    server: WandbServer, tmp_path: Path, word: str
) -> None:
    folder = tmp_path / "run"
    tell_wandb(server, folder, word)
    _, printed = end(start(server, folder))
    assert server.requests == []
    assert f"W&B: {word}" in printed
    assert epochs(folder) == list(range(6))
    assert bool(list(folder.glob("wandb/offline-run-*"))) == (word == "offline")


def test_the_project_and_entity_of_wandb_init_hold(server: WandbServer, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    tell_wandb(server, folder, "init", "--project", "stored", "--entity", "lab")
    end(start(server, folder))
    assert (server.runs["r1"].entity, server.runs["r1"].project) == ("lab", "stored")


def test_the_flag_wins_over_the_settings_file_and_the_variable_over_both(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alone / "wandb").mkdir()
    (alone / "wandb" / "settings").write_text("[default]\nproject = stored\nentity = lab\n")
    tracker = WandbTracker(alone / "r", project="flagged")
    assert (tracker.record.project, tracker.record.entity) == ("flagged", "lab")
    monkeypatch.setenv("WANDB_PROJECT", "set")
    wandb.teardown()
    assert WandbTracker(alone / "r", project="flagged").record.project == "set"


def test_the_mode_shared_is_kept(server: WandbServer, tmp_path: Path) -> None:
    _, printed = end(start(server, tmp_path / "run", {"WANDB_MODE": "shared"}))
    assert "W&B: online at" in printed
    assert [row["epoch"] for row in server.runs["r1"].history] == list(range(6))


@pytest.mark.parametrize(
    ("flag", "variables", "remedy"),
    [
        ("--wandb_tags=fine," + "t" * 65, {}, "--wandb_tags: Tag"),
        ("--wandb_project=a/b", {}, "--wandb_project: Invalid project name 'a/b'"),
        ("--run_name=" + "n" * 129, {}, "W&B takes names of at most 128 characters"),
        ("--wandb_artifacts", {"WANDB_NAME": "two words"}, "with --wandb_artifacts"),
        ("--seed=1", {"WANDB_TAGS": "a,,b"}, "WANDB_TAGS: Tag at index 1 is empty"),
        ("--seed=1", {"WANDB_PROJECT": "a#b"}, "Invalid project name 'a#b'"),
        ("--seed=1", {"WANDB_MODE": "onlin"}, "WANDB_MODE: Input should be 'online', 'offline'"),
        ("--seed=1", {"WANDB_RUN_ID": "a:b"}, "Run ID cannot contain the characters"),
    ],
)
def test_what_wandb_refuses_is_one_line_and_exit_code_2_before_training_starts(
    alone: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flag: str,
    variables: dict[str, str],
    remedy: str,
) -> None:
    for name, value in (variables | {"WANDB_SILENT": "true"}).items():
        monkeypatch.setenv(name, value)
    words = [f"--{key}={value}" for key, value in (TINY | {"out": "out", "epochs": 1}).items()]
    monkeypatch.setattr(sys, "argv", ["train_with_wandb.py", *words, flag])
    code = train("test", WandbOptions, more=wandb_tracker)
    printed = capsys.readouterr().err
    assert (code, len(printed.splitlines())) == (2, 1), printed
    assert remedy in printed
    assert not (alone / "out").exists()


def test_a_mode_that_nobody_knows_is_refused(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert resolve_mode("online") == "offline"
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(Refused, match="WANDB_MODE: Input should be"):
        told()


def test_without_a_key_auto_is_offline(alone: Path) -> None:
    assert resolve_mode("auto") == "offline"
    host = urlsplit(wandb.Settings().base_url).hostname
    (alone / "netrc").write_text(f"machine {host} login user password key\n")
    assert resolve_mode("auto") == "online"
    (alone / "wandb").mkdir()
    (alone / "wandb" / "settings").write_text("[default]\nmode = disabled\n")
    wandb.teardown()
    assert resolve_mode("auto") == "disabled"
    assert resolve_mode("online") == "online", "a flag is newer than a file"


def test_a_key_for_another_server_does_not_count(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.example")
    (alone / "netrc").write_text("machine api.wandb.ai login user password key\n")
    assert resolve_mode("auto") == "offline"
