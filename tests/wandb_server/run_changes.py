"""What the SDK changes about runs: create and resume, edit, file uploads, alerts, state."""

from __future__ import annotations

import json
from typing import Any

from tests.wandb_server.records import USER, Run, now
from tests.wandb_server.run_views import Args, RunViews, View
from tests.wandb_server.store import Store


class RunChanges:
    """The mutations on runs."""

    def __init__(self, store: Store, views: RunViews) -> None:
        self.store = store
        self.views = views

    def upsert_run(self, given: Args) -> View:
        """Create a run, or change the fields that are given; a run that is upserted is running again."""
        with self.store.lock:
            run = self.store.run_by_id(given["id"]) if given.get("id") else None
            inserted = False
            if run is None:
                entity, project = given.get("entityName") or USER, given.get("modelName") or "uncategorized"
                name = given.get("name") or f"run{self.store.serial():05d}"
                run = self.store.run(entity, project, name)
                inserted = run is None
                if run is None:
                    run = Run(name, project, entity, display_name=given.get("displayName") or f"run-{name}")
                    self.store.project_number(entity, project)
                    self.store.run_table[entity, project, name] = run
            started = {"host", "jobProgram"} & {key for key, value in given.items() if value is not None}
            if (
                inserted or started
            ):  # a process that starts names its host or program; a later change does not
                run.state, run.exit_code, run.preempting = given.get("state") or "running", None, False
            self._change(run, given)
            return {"__typename": "UpsertBucketPayload", "bucket": self.views.run(run), "inserted": inserted}

    def _change(self, run: Run, given: Args) -> None:
        run.upserts += 1
        run.heartbeat_at = now()
        names = {"displayName": "display_name", "groupName": "group", "jobType": "job_type", "notes": "notes"}
        for key, attribute in (names | {"tags": "tags", "sweep": "sweep"}).items():
            if given.get(key) is not None:
                setattr(run, attribute, given[key])
        if given.get("config") is not None:
            run.raw_config = json.loads(given["config"])
        if given.get("summaryMetrics") is not None:
            run.summary = json.loads(given["summaryMetrics"])
        facts = ("host", "commit", "jobProgram", "jobRepo", "description")
        run.facts.update({key: given[key] for key in facts if given.get(key) is not None})

    def create_files(self, given: Args) -> View:
        run = self.store.run(given["entityName"], given["projectName"], given["runName"])
        if run is None:
            return {"runID": None, "uploadHeaders": [], "files": []}
        return {
            "runID": run.id,
            "uploadHeaders": [],
            "files": [self.views.file(run, n) for n in given["files"]],
        }

    def alert(self, given: Args) -> View:
        run = self.store.run(given["entityName"], given["projectName"], given["runName"])
        if run is not None:
            run.alerts.append({key: given.get(key) for key in ("title", "text", "severity", "waitDuration")})
        return {"success": run is not None}

    def set_state(self, given: Args) -> View:
        run = self.store.run_by_id(given["id"])
        if run is not None and "state" in given:
            run.state = given["state"]
        elif run is not None:
            run.stop_requested = True
        return {"success": run is not None}

    def delete(self, given: Args) -> View:
        with self.store.lock:
            for key, run in list(self.store.run_table.items()):
                if run.id == given["id"]:
                    del self.store.run_table[key]
        return {"clientMutationId": None}

    def fields(self) -> dict[str, Any]:
        """The fields of Mutation that this class answers."""
        return {
            "upsertBucket": lambda args: self.upsert_run(args["input"]),
            "createRunFiles": lambda args: self.create_files(args["input"]),
            "markRunFilesUploaded": lambda args: {"success": True},
            "notifyScriptableRunAlert": lambda args: self.alert(args["input"]),
            "updateRunState": lambda args: self.set_state(args["input"]),
            "stopRun": lambda args: self.set_state(args["input"]),
            "deleteRun": lambda args: self.delete(args["input"]),
        }
