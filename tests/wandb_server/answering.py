"""The roots of the GraphQL schema, and the addresses that files are put to and fetched from."""

from __future__ import annotations

import json
from typing import Any

from tests.wandb_server import graphql
from tests.wandb_server.artifact_changes import ArtifactChanges
from tests.wandb_server.artifact_views import ArtifactViews
from tests.wandb_server.automations import Automations
from tests.wandb_server.records import USER
from tests.wandb_server.run_changes import RunChanges
from tests.wandb_server.run_views import Args, RunViews, View, connection, user_view
from tests.wandb_server.saved_views import SavedViews
from tests.wandb_server.store import Store
from tests.wandb_server.sweep_answers import SweepAnswers


class Answering:
    """Puts the parts of the schema together."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.runs = RunViews(store)
        self.artifacts = ArtifactViews(store, self.runs)
        self.arrivals = ArtifactChanges(store, self.artifacts)
        self.sweeps = SweepAnswers(store, self.runs)
        self.saved = SavedViews(store, self.runs)
        self.automations = Automations(store, self.runs)
        parts = (self.artifacts, self.sweeps, self.saved, self.automations)
        self.runs.of_project += [part.of_project for part in parts]
        self.runs.of_entity.append(self.automations.of_entity)
        self.runs.of_run.append(self.artifacts.of_run)
        self._query = self._query_fields()
        self._mutation = {
            **RunChanges(store, self.runs).fields(),
            **self.arrivals.fields(),
            **self.sweeps.fields(),
            **self.saved.fields(),
            **self.automations.fields(),
            "upsertModel": lambda args: self._upsert_project(args["input"]),
        }

    def operation(self, text: str) -> str:
        """The name of a document's operation, empty if it does not parse."""
        try:
            return graphql.parse(text).name
        except graphql.GraphQLError:
            return ""

    def graphql(self, asked: Args) -> tuple[int, View]:
        """The answer to one GraphQL request: (HTTP status, body)."""
        try:
            document = graphql.parse(asked["query"])
            answer = graphql.Answer(document, asked.get("variables") or {}, self.store.missing.add)
            data = answer.run(self._mutation if document.kind == "mutation" else self._query)
        except graphql.GraphQLError as error:
            self.store.missing.add(str(error))
            return 400, {"errors": [{"message": str(error)}]}
        return 200, {"data": data}

    def _project(self, args: Args) -> View | None:
        key = args.get("entityName") or USER, args.get("name") or "uncategorized"
        return self.runs.project(*key) if key in self.store.projects else None

    def _query_fields(self) -> dict[str, Any]:
        def artifact(args: Args) -> View | None:
            found = self.store.artifact(args["id"])
            return None if found is None else self.artifacts.artifact(found)

        def mapping(args: Args) -> View | None:
            found = self.store.artifact(args["clientID"])
            return None if found is None else {"serverID": found.id}

        def projects(args: Args) -> View:
            own = [key for key in self.store.projects if key[0] == args.get("entityName", USER)]
            return connection("Project", own, lambda key: self.runs.project(*key), args)

        def collection(args: Args) -> View | None:
            return self.artifacts.collection(*args["id"].partition(":")[2].split("/", 2))

        return {
            "viewer": user_view,
            "users": lambda args: connection("User", [USER], lambda name: user_view(), {}),
            "serverInfo": {"__typename": "ServerInfo", "features": []},
            "entity": lambda args: self.runs.entity(args["name"]),
            "project": self._project,
            "model": self._project,
            "models": projects,
            "artifact": artifact,
            "artifactCollection": collection,
            "clientIDMapping": mapping,
            "view": lambda args: self.saved.view(args["id"]),
        }

    def _upsert_project(self, given: Args) -> View:
        entity, name = given.get("entityName") or USER, given["name"]
        inserted = (entity, name) not in self.store.projects
        self.store.project_number(entity, name)
        project = self.runs.project(entity, name)
        return {"project": project, "model": project, "inserted": inserted}

    def storage(self, method: str, kind: str, place: list[str], body: bytes) -> tuple[int, bytes]:
        """Put or fetch the bytes behind an upload or download address."""
        if kind == "run":
            run = self.store.run(*place[:3])
            name = "/".join(place[3:])
            if run is None or (method != "PUT" and name not in run.files):
                return 404, b""
            if method == "PUT":
                run.files[name] = body
            return 200, b"" if method == "PUT" else run.files[name]
        name = "/".join(place[1:])
        if method == "PUT":
            self.arrivals.receive(place[0], name, body)
            return 200, b""
        artifact = self.store.artifact(place[0])
        if artifact is None or (name and name not in artifact.files):
            return 404, b""
        return 200, artifact.files[name] if name else json.dumps(artifact.manifest).encode()
