"""The file stream: how a run's rows, summary, console lines and exit code arrive."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.wandb_server.records import Run, now


def _put(lines: list[str], offset: int, content: list[str]) -> None:
    """Write lines at their offset, so that a chunk sent twice is stored once."""
    lines.extend([""] * (offset - len(lines)))
    lines[offset : offset + len(content)] = content


def apply(run: Run, body: Mapping[str, Any]) -> dict[str, Any]:
    """Store one message of a run's file stream and return the answer to it."""
    run.heartbeat_at = now()
    for name, chunk in (body.get("files") or {}).items():
        offset, content = int(chunk.get("offset", 0)), list(chunk.get("content", []))
        if name == "wandb-history.jsonl":
            _put(run.history_lines, offset, content)
        elif name == "wandb-events.jsonl":
            _put(run.event_lines, offset, content)
        elif name == "wandb-summary.json" and content:
            run.summary = json.loads(content[-1])
        elif name == "output.log":
            _put(run.console, offset, content)
    if body.get("preempting"):
        run.preempting = True
        run.state = "preempting" if run.state == "running" else run.state
    if body.get("complete") and body.get("exitcode") is not None:
        run.finish(int(body["exitcode"]))
    return {"exitcode": None, "limits": {}, "stopped": run.stop_requested}
