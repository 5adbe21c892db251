"""What the fields of runs, projects and the user answer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from tests.wandb_server.records import USER, Run, now
from tests.wandb_server.selecting import matches, ordered
from tests.wandb_server.store import Store

Args = Mapping[str, Any]
View = dict[str, Any]


def connection(kind: str, nodes: Sequence[Any], view: Callable[[Any], View], args: Args) -> View:
    """A page of nodes: `first` after the cursor `after`; a cursor is the count of nodes before it."""
    start = int(args.get("after") or 0)
    end = len(nodes) if args.get("first") is None else min(len(nodes), start + int(args["first"]))
    edges = [
        {"__typename": f"{kind}Edge", "cursor": str(k + 1), "node": view(nodes[k])} for k in range(start, end)
    ]
    info = {"__typename": "PageInfo", "hasNextPage": end < len(nodes), "endCursor": str(end)}
    return {"__typename": f"{kind}Connection", "totalCount": len(nodes), "edges": edges, "pageInfo": info}


def thinned(rows: list[Any], limit: int | None) -> list[Any]:
    """At most `limit` rows, evenly spaced, the first and the last among them."""
    if not limit or len(rows) <= limit:
        return rows
    if limit == 1:
        return rows[-1:]
    return [rows[k * (len(rows) - 1) // (limit - 1)] for k in range(limit)]


def user_view(args: Args | None = None) -> View:
    return {
        "__typename": "User",
        "id": "User:1",
        "entity": USER,
        "name": USER,
        "username": USER,
        "email": f"{USER}@localhost",
        "flags": "{}",
        "admin": False,
        "photoUrl": None,
        "deletedAt": None,
        "apiKeys": {"edges": []},
        "teams": {"edges": [{"node": {"__typename": "Entity", "name": USER}}]},
    }


def _history(run: Run, args: Args) -> list[str]:
    """Rows as JSON text, from `minStep` up to but not including `maxStep`."""
    low, high = args.get("minStep") or 0, args.get("maxStep")
    lines = []
    for line in filter(None, run.history_lines):
        step = json.loads(line).get("_step", 0)
        if step >= low and (high is None or step < high):
            lines.append(line)
    return thinned(lines, args.get("samples"))


def _sampled(run: Run, args: Args) -> list[list[dict[str, Any]]]:
    """For each spec the rows that hold all of its keys."""
    found = []
    specs = args.get("specs") or []
    for text in [specs] if isinstance(specs, str) else specs:  # GraphQL takes one item for a list of one
        spec = json.loads(text)
        keys = spec.get("keys")
        low, high = spec.get("minStep", 0), spec.get("maxStep", math.inf)  # inclusive here, unlike `history`
        rows = [row for row in run.history if low <= row.get("_step", 0) <= high]
        rows = [row for row in rows if not keys or all(key in row for key in keys)]
        rows = [{key: row[key] for key in keys} if keys else row for row in rows]
        found.append(thinned(rows, spec.get("samples")))
    return found


def _history_keys(run: Run) -> dict[str, Any] | None:
    if not run.history:
        return None
    keys: dict[str, Any] = {}
    for row in run.history:
        for key, value in row.items():
            kind = (
                "number" if isinstance(value, (int, float)) else "string" if isinstance(value, str) else "map"
            )
            entry = keys.setdefault(key, {"typeCounts": [{"type": kind, "count": 0}]})
            entry["typeCounts"][0]["count"] += 1
    return {"sets": [], "keys": keys, "lastStep": max(row.get("_step", 0) for row in run.history)}


def _wandb_config(run: Run, args: Args) -> str:
    entry = run.raw_config.get("_wandb", {}).get("value", {})
    return json.dumps({key: entry[key] for key in args.get("keys", []) if key in entry})


class RunViews:
    """What a run, a project and an entity look like to a query.

    `of_project`, `of_entity` and `of_run` are added to by whoever knows more fields of them.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.of_project: list[Callable[[str, str], View]] = []
        self.of_entity: list[Callable[[str], View]] = []
        self.of_run: list[Callable[[Run], View]] = []

    def run(self, run: Run) -> View:
        """Every field of a run; the costly ones are functions."""
        plain = {
            "__typename": "Run",
            "id": run.id,
            "name": run.name,
            "displayName": run.display_name or run.name,
            "description": run.notes or None,
            "notes": run.notes or None,
            "group": run.group or None,
            "jobType": run.job_type or None,
            "tags": list(run.tags),
            "state": run.state,
            "exitcode": run.exit_code,
            "sweepName": run.sweep or None,
            "commit": run.facts.get("commit"),
            "readOnly": False,
            "createdAt": run.created_at,
            "heartbeatAt": run.heartbeat_at,
            "shouldStop": run.stop_requested or self._sweep_stops(run),
            "stopped": run.stop_requested,
            "failed": run.state in ("failed", "crashed"),
            "running": not run.finished,
            "historyLineCount": len(run.history_lines),
            "eventsLineCount": len(run.event_lines),
            "logLineCount": len(run.console),
            "fileCount": len(run.files),
            "user": user_view(),
            "projectId": self.store.project_number(run.entity, run.project),
        }
        for more in self.of_run:
            plain |= more(run)
        return plain | self._costly(run)

    def _sweep_stops(self, run: Run) -> bool:
        sweep = self.store.sweeps.get(run.sweep)
        return sweep is not None and sweep.stops(run.name)

    def _costly(self, run: Run) -> View:
        return {
            "config": lambda args: json.dumps(run.raw_config),
            "summaryMetrics": lambda args: json.dumps(run.summary),
            "systemMetrics": lambda args: run.event_lines[-1] if run.event_lines else "{}",
            "historyTail": lambda args: json.dumps(run.history_lines[-1:]),
            "eventsTail": lambda args: json.dumps(run.event_lines[-1:]),
            "wandbConfig": lambda args: _wandb_config(run, args),
            "history": lambda args: _history(run, args),
            "events": lambda args: thinned(list(filter(None, run.event_lines)), args.get("samples")),
            "sampledHistory": lambda args: _sampled(run, args),
            "parquetHistory": lambda args: {"parquetUrls": [], "liveData": run.history},
            "historyKeys": lambda args: _history_keys(run),
            "project": lambda args: self.project(run.entity, run.project),
            "files": lambda args: self._files(run, args),
            "logLines": lambda args: self._log_lines(run, args),
        }

    def _log_lines(self, run: Run, args: Args) -> View:
        lines = list(enumerate(run.console))
        if args.get("last"):
            lines = lines[-int(args["last"]) :]

        def view(numbered: tuple[int, str]) -> View:
            number, text = numbered
            stamp, _, rest = text.partition(" ")
            level = "error" if stamp == "ERROR" else "info"
            if stamp == "ERROR":
                stamp, _, rest = rest.partition(" ")
            return {"number": number, "timestamp": stamp, "level": level, "label": "", "line": rest}

        return connection("LogLine", lines, view, args)

    def _files(self, run: Run, args: Args) -> View:
        wanted, pattern = args.get("names") or [], (args.get("pattern") or "").strip("%")
        names = [name for name in run.files if (not wanted or name in wanted) and pattern in name]
        return connection("File", names, lambda name: self.file(run, name), args)

    def file(self, run: Run, name: str) -> View:
        url = f"{self.store.url}/storage/run/{run.entity}/{run.project}/{run.name}/{quote(name)}"
        return {
            "__typename": "File",
            "id": f"{run.id}/{name}",
            "name": name,
            "displayName": name,
            "url": url,
            "directUrl": url,
            "uploadUrl": url,
            "sizeBytes": len(run.files.get(name, b"")),
            "mimetype": "application/octet-stream",
            "updatedAt": run.heartbeat_at,
            "md5": None,
        }

    def project(self, entity: str, project: str) -> View:
        """Fields of a project (`model` is its old name)."""

        def one(args: Args) -> View | None:
            found = self.store.run(entity, project, args["name"])
            return None if found is None else self.run(found)

        def chosen(args: Args) -> list[Run]:
            wanted = json.loads(args.get("filters") or "{}")
            found = self.store.runs_where(lambda run: (run.entity, run.project) == (entity, project))
            return ordered([run for run in found if matches(run, wanted)], args.get("order") or "+created_at")

        fields = {
            "__typename": "Project",
            "id": f"Project:{entity}/{project}",
            "internalId": str(self.store.project_number(entity, project)),
            "name": project,
            "entityName": entity,
            "entity": self.entity(entity),
            "createdAt": now(),
            "isBenchmark": False,
            "readOnly": False,
            "description": None,
            "access": "USER_READ",
            "views": None,
            "user": user_view(),
            "run": one,
            "bucket": one,
            "runs": lambda args: connection("Run", chosen(args), self.run, args),
            "runCount": lambda args: len(chosen(args)),
        }
        for more in self.of_project:
            fields |= more(entity, project)
        return fields

    def entity(self, name: str) -> View:
        organization = {
            "__typename": "Organization",
            "name": name,
            "coreWeaveOrganizationId": None,
            "orgEntity": None,
        }
        fields = {
            "__typename": "Entity",
            "id": f"Entity:{name}",
            "name": name,
            "isTeam": False,
            "xxhashDigestsEnabled": False,
            "organization": organization,
            "user": None,
        }
        for more in self.of_entity:
            fields |= more(name)
        return fields
