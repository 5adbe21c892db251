"""Saved views (workspaces and reports) and custom charts, as wandb-workspaces and `wandb.Api` send them."""

from __future__ import annotations

import base64
from typing import Any

from tests.wandb_server.records import USER, now
from tests.wandb_server.run_views import Args, RunViews, View, connection, user_view
from tests.wandb_server.store import Store


class SavedViews:
    """Stores what it is given, under ids that survive the trip through a report's URL (base64)."""

    def __init__(self, store: Store, runs: RunViews) -> None:
        self.store = store
        self.runs = runs

    def of_project(self, entity: str, project: str) -> View:
        """The fields that saved views add to a project."""

        def chosen(args: Args) -> View:
            wanted = {"type": args.get("viewType"), "name": args.get("viewName")}
            own = [
                view_id
                for view_id, view in self.store.views.items()
                if (view["entityName"], view["projectName"]) == (entity, project)
                and all(value in (None, view.get(key)) for key, value in wanted.items())
            ]
            return connection("View", own, lambda view_id: self.view(view_id) or {}, args)

        return {"allViews": chosen}

    def view(self, view_id: str) -> View | None:
        stored = self.store.views.get(view_id)
        if stored is None:
            return None
        project = self.runs.project(stored["entityName"], stored["projectName"])
        fields = {"__typename": "View", "user": user_view(), "project": project, "accessTokens": []}
        return {"description": None, **stored, **fields, "id": view_id}

    def upsert(self, given: Args) -> View:
        view_id = given.get("id") or base64.b64encode(f"View:{self.store.serial()}".encode()).decode()
        inserted = view_id not in self.store.views
        empty = {"entityName": USER, "projectName": "uncategorized", "createdAt": now()}
        stored = self.store.views.setdefault(view_id, empty)
        stored.update({key: value for key, value in given.items() if value is not None}, updatedAt=now())
        self.store.project_number(stored["entityName"], stored["projectName"])
        return {"view": self.view(view_id), "inserted": inserted}

    def delete(self, given: Args) -> View:
        return {
            "__typename": "DeleteViewPayload",
            "success": self.store.views.pop(given["id"], None) is not None,
            "pendingDrafts": False,
        }

    def create_chart(self, given: Args) -> View:
        self.store.charts.append(dict(given))
        return {"chart": {"id": f"{given.get('entity', USER)}/{given.get('name')}"}}

    def fields(self) -> dict[str, Any]:
        """The fields of Mutation that this class answers."""
        return {
            "upsertView": lambda args: self.upsert(args["input"]),
            "deleteView": lambda args: self.delete(args["input"]),
            "createCustomChart": lambda args: self.create_chart(args["input"]),
        }
