"""Everything that the stand-in backend has been told, behind one lock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from tests.wandb_server.records import Agent, Artifact, Request, Run
from tests.wandb_server.trials import Sweep


class Store:
    """Everything stored, behind one lock. Iterate over the snapshots, not over the inner mappings."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.url = ""
        self.run_table: dict[tuple[str, str, str], Run] = {}
        self.sweeps: dict[str, Sweep] = {}
        self.agents: dict[str, Agent] = {}
        self.artifacts: list[Artifact] = []
        self.blobs: dict[str, bytes] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.charts: list[dict[str, Any]] = []
        self.triggers: dict[str, dict[str, Any]] = {}
        self.slack_channels: list[str] = []
        self.projects: dict[tuple[str, str], int] = {}
        self.requests: list[Request] = []
        self.errors: list[str] = []
        self.missing: set[str] = set()
        self._serial = 0

    def serial(self) -> int:
        with self.lock:
            self._serial += 1
            return self._serial

    def project_number(self, entity: str, project: str) -> int:
        """The project's internal number; a project exists from the first time that something is put in it."""
        with self.lock:
            return self.projects.setdefault((entity, project), len(self.projects) + 1)

    def runs_where(self, keep: Callable[[Run], bool]) -> list[Run]:
        with self.lock:
            return [run for run in self.run_table.values() if keep(run)]

    def run(self, entity: str, project: str, name: str) -> Run | None:
        with self.lock:
            return self.run_table.get((entity, project, name))

    def run_by_id(self, run_id: str) -> Run | None:
        return next(iter(self.runs_where(lambda run: run.id == run_id)), None)

    def artifact(self, artifact_id: str) -> Artifact | None:
        """The artifact of this id, or of this client id (the SDK's own, before the server has answered)."""
        with self.lock:
            return next((a for a in self.artifacts if artifact_id in (a.id, a.client_id)), None)

    def versions(self, entity: str, project: str, collection: str) -> Iterator[Artifact]:
        """The committed versions of a collection, oldest first."""
        with self.lock:
            found = [a for a in self.artifacts if a.state == "COMMITTED"]
        return (a for a in found if (a.entity, a.project, a.collection) == (entity, project, collection))
