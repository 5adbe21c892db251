"""What the stand-in backend keeps: runs, agents, artifacts, and the log of requests."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

USER = "tester"
"""The one user; also the default entity."""


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Run:
    """One run. `name` is the id in its URL, `display_name` what people read.

    `state` is what the service would show: pending, running, preempting, preempted, finished, failed or
    crashed.
    """

    name: str
    project: str
    entity: str
    display_name: str = ""
    group: str = ""
    job_type: str = ""
    notes: str = ""
    tags: list[str] = field(default_factory=list)
    raw_config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history_lines: list[str] = field(default_factory=list)
    event_lines: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    state: str = "running"
    exit_code: int | None = None
    preempting: bool = False
    stop_requested: bool = False
    sweep: str = ""
    alerts: list[dict[str, Any]] = field(default_factory=list)
    upserts: int = 0
    created_at: str = field(default_factory=now)
    heartbeat_at: str = field(default_factory=now)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"Run:{self.entity}/{self.project}/{self.name}"

    @property
    def config(self) -> dict[str, Any]:
        """The user's configuration as plain values, without W&B's own `_wandb` entry."""
        plain = {
            k: v["value"] if isinstance(v, dict) and "value" in v else v for k, v in self.raw_config.items()
        }
        plain.pop("_wandb", None)
        return plain

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows in the order of the file stream; rows that never arrived are left out."""
        return [json.loads(line) for line in self.history_lines if line]

    @property
    def finished(self) -> bool:
        return self.state not in ("pending", "running", "preempting")

    def finish(self, exit_code: int) -> None:
        """The last message of a file stream: the run's process ended with this code."""
        self.exit_code = exit_code
        if exit_code == 0:
            self.state = "finished"
        else:
            self.state = "preempted" if self.preempting else "failed"


@dataclass
class Agent:
    """One `wandb agent`; `trials` are the names of the runs it was given."""

    id: str
    host: str
    sweep: str
    trials: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    created_at: str = field(default_factory=now)
    heartbeat_at: str = field(default_factory=now)


@dataclass
class Artifact:
    """One version. `files` maps a path inside the artifact to its bytes (references have none)."""

    id: str
    entity: str
    project: str
    type: str
    collection: str
    digest: str
    digest_algorithm: str = "MANIFEST_MD5"
    description: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    aliases: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    state: str = "PENDING"
    version: int | None = None
    created_by: str = ""
    used_by: list[str] = field(default_factory=list)
    client_id: str = ""
    manifest: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    wanted_aliases: list[str] = field(default_factory=list)
    created_at: str = field(default_factory=now)

    @property
    def name(self) -> str:
        """`collection:v0`, as `wandb.Artifact.name` has it once committed."""
        return f"{self.collection}:v{self.version}"


@dataclass(frozen=True)
class Request:
    """One request. `operation` is the GraphQL operation's name, else empty; `at_s` a monotonic clock."""

    method: str
    path: str
    operation: str
    variables: dict[str, Any]
    status: int
    at_s: float
