"""An estimate is a W&B run that `python -m tracking.sync` delivers like the others."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.wandb_server import WandbServer
from tracking.online.estimate import log_estimate, run_of
from tracking.online.sync import runs_below, sync, sync_run

RECORD: dict[str, Any] = {
    "config": {"dataset": "digits", "epochs": 2},
    "class_names": ["0", "1"],
    "dist": [0.25, 0.75],
    "low": [0.2, 0.7],
    "high": [0.3, 0.8],
    "condition": 3.5,
    "identifiable": True,
    "published_dist": None,
    "accepted_epochs": 0,
}
pytestmark = pytest.mark.slow


@pytest.fixture
def estimate(folder: Path) -> Path:
    """The file of an estimate that estimate.py has just made."""
    path = folder.parent / "estimation" / "digits_s0.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(RECORD))
    return path


def log(path: Path, mode: str) -> None:
    log_estimate(path, RECORD, mode=mode, project="p", entity="", machine_info=False)


def assert_there(server: WandbServer, path: Path) -> None:
    (run,) = server.runs.values()
    assert (run.job_type, run.state, run.display_name) == ("estimate", "finished", path.stem)
    assert [run.summary[f"estimate/dist/{k}"] for k in (0, 1)] == RECORD["dist"]
    assert run.summary["estimate/accepted_epochs"] == 0
    (artifact,) = server.artifacts
    assert artifact.files[path.name] == path.read_bytes()


def test_an_offline_estimate_arrives_by_the_command_that_its_message_names(
    server: WandbServer, estimate: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log(estimate, "offline")
    assert capsys.readouterr().err == f"W&B: offline; send it with `python -m tracking.sync {estimate}`\n"
    assert server.runs == {}
    assert list(runs_below(estimate.parent.parent)) == list(runs_below(estimate)) == [estimate]
    assert sync([estimate], replace=False) == 0
    assert_there(server, estimate)
    before = len(server.requests)
    assert sync_run(estimate).sentence == "complete: an estimate, nothing to send"
    assert not {"UpsertBucket", "CreateArtifact"} & {r.operation for r in server.requests[before:]}


def test_an_estimate_that_was_online_is_complete(server: WandbServer, estimate: Path) -> None:
    log(estimate, "online")
    assert sync_run(estimate).sentence == "complete: an estimate, nothing to send"
    assert_there(server, estimate)


def test_an_estimate_whose_process_was_killed_while_it_was_sent_is_sent_again(
    server: WandbServer, estimate: Path
) -> None:
    log(estimate, "online")
    (run,) = server.runs.values()
    run.state = "crashed"
    assert sync_run(estimate).sentence == "complete: an estimate"
    del run.summary["estimate/dist/1"]
    assert sync_run(estimate).sentence == "complete: an estimate"
    assert_there(server, estimate)


def test_an_estimate_without_wandb_is_no_run_and_a_damaged_one_is_not_sent(
    server: WandbServer, estimate: Path
) -> None:
    log(estimate, "disabled")
    assert run_of(estimate) is None
    assert list(runs_below(estimate.parent)) == []
    assert sync_run(estimate).sentence == "skipped: estimated without W&B"
    log(estimate, "offline")
    estimate.write_text("[]")
    assert not sync_run(estimate).complete
    assert server.runs == {}
