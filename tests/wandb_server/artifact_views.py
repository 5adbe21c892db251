"""What the fields of artifacts answer: versions, aliases, manifests, lineage."""

from __future__ import annotations

import json
from urllib.parse import quote

from tests.wandb_server.records import Artifact, Run
from tests.wandb_server.run_views import Args, RunViews, View, connection
from tests.wandb_server.store import Store


class ArtifactViews:
    """What artifacts, their collections and their files look like to a query."""

    def __init__(self, store: Store, runs: RunViews) -> None:
        self.store = store
        self.runs = runs

    def of_project(self, entity: str, project: str) -> View:
        """The fields that artifacts add to a project."""

        def kind(args: Args) -> View:
            return self.type(entity, project, args["name"])

        def membership(args: Args) -> View | None:
            collection, _, alias = args["name"].partition(":")
            found = self._find(entity, project, collection, alias or "latest")
            return None if found is None else self.membership(found)

        return {
            "artifactType": kind,
            "artifactCollection": lambda args: self.collection(entity, project, args["name"]),
            "artifactCollectionMembership": membership,
            "artifactTypes": lambda args: connection(
                "ArtifactType", self._types(entity, project), lambda v: v, args
            ),
            "artifact": lambda args: (membership(args) or {}).get("artifact"),
        }

    def of_run(self, run: Run) -> View:
        """The fields that artifacts add to a run: its inputs and its outputs."""
        committed = [a for a in self.store.artifacts if a.state == "COMMITTED"]
        outputs = [a for a in committed if a.created_by == run.id]
        inputs = [a for a in committed if run.id in a.used_by]
        return {
            "outputArtifacts": lambda args: connection("VersionedArtifact", outputs, self.artifact, args),
            "inputArtifacts": lambda args: connection("VersionedArtifact", inputs, self.artifact, args),
        }

    def _find(self, entity: str, project: str, collection: str, alias: str) -> Artifact | None:
        for artifact in self.store.versions(entity, project, collection):
            if alias in (f"v{artifact.version}", artifact.digest, *artifact.aliases):
                return artifact
        return None

    def _types(self, entity: str, project: str) -> list[View]:
        names = {a.type: None for a in self.store.artifacts if (a.entity, a.project) == (entity, project)}
        return [self.type(entity, project, name) for name in names]

    def type(self, entity: str, project: str, name: str) -> View:
        return {
            "__typename": "ArtifactType",
            "id": f"ArtifactType:{entity}/{project}/{name}",
            "name": name,
            "description": None,
            "createdAt": "2020-01-01T00:00:00Z",
            "artifactCollection": lambda args: self.collection(entity, project, args["name"]),
            "artifactCollections": lambda args: connection(
                "ArtifactCollection",
                sorted({a.collection for a in self.store.artifacts if a.type == name}),
                lambda collection: self.collection(entity, project, collection) or {},
                args,
            ),
        }

    def collection(self, entity: str, project: str, name: str) -> View | None:
        own = [
            a for a in self.store.artifacts if (a.entity, a.project, a.collection) == (entity, project, name)
        ]
        if not own:
            return None
        committed = [a for a in own if a.state == "COMMITTED"]

        def membership(args: Args) -> View | None:
            found = self._find(entity, project, name, args["aliasName"])
            return None if found is None else self.membership(found)

        def versions(args: Args) -> View:
            page = connection("VersionedArtifact", committed[::-1], self.artifact, args)
            for edge in page["edges"]:
                edge["version"] = f"v{edge['node']['versionIndex']}"
            return page

        return {
            "__typename": "ArtifactSequence",
            "id": f"ArtifactSequence:{entity}/{project}/{name}",
            "name": name,
            "description": None,
            "state": "READY",
            "createdAt": own[0].created_at,
            "updatedAt": own[-1].created_at,
            "project": lambda args: self.runs.project(entity, project),
            "defaultArtifactType": self.type(entity, project, own[0].type),
            "digestAlgorithm": "MANIFEST_MD5",
            "tags": {"edges": []},
            "aliases": lambda args: connection(
                "ArtifactAlias", [(a, alias) for a in committed for alias in a.aliases], self._alias, args
            ),
            "latestArtifact": lambda args: self.artifact(committed[-1]) if committed else None,
            "artifactMembership": membership,
            "artifacts": versions,
        }

    def _alias(self, pair: tuple[Artifact, str]) -> View:
        artifact, alias = pair
        return {
            "__typename": "ArtifactAlias",
            "id": f"ArtifactAlias:{artifact.id}/{alias}",
            "alias": alias,
            "artifactCollection": lambda args: self.collection(
                artifact.entity, artifact.project, artifact.collection
            ),
        }

    def membership(self, artifact: Artifact) -> View:
        return {
            "__typename": "ArtifactCollectionMembership",
            "id": f"Membership:{artifact.id}",
            "versionIndex": artifact.version,
            "createdAt": artifact.created_at,
            "aliases": [self._alias((artifact, alias)) for alias in artifact.aliases],
            "artifactCollection": self.collection(artifact.entity, artifact.project, artifact.collection),
            "artifact": self.artifact(artifact),
            "files": lambda args: self._files(artifact, args),
        }

    def artifact(self, artifact: Artifact) -> View:
        """Every field of a version."""
        manifest = {"id": f"Manifest:{artifact.id}", "file": self.manifest_file(artifact)}
        return {
            "__typename": "Artifact",
            "id": artifact.id,
            "artifactSequence": lambda args: self.collection(
                artifact.entity, artifact.project, artifact.collection
            ),
            "artifactType": self.type(artifact.entity, artifact.project, artifact.type),
            "versionIndex": artifact.version,
            "description": artifact.description,
            "metadata": json.dumps(artifact.metadata),
            "ttlDurationSeconds": -1,
            "ttlIsInherited": False,
            "tags": [{"__typename": "Tag", "id": f"Tag:{tag}", "name": tag} for tag in artifact.tags],
            "historyStep": None,
            "state": artifact.state,
            "size": sum(map(len, artifact.files.values())),
            "digest": artifact.digest,
            "digestAlgorithm": artifact.digest_algorithm,
            "commitHash": None,
            "fileCount": len(artifact.files),
            "createdAt": artifact.created_at,
            "updatedAt": artifact.created_at,
            "aliases": [self._alias((artifact, alias)) for alias in artifact.aliases],
            "currentManifest": manifest,
            "createdBy": lambda args: self._run(artifact.created_by),
            "usedBy": lambda args: connection("Run", artifact.used_by, self._run_view, args),
            "files": lambda args: self._files(artifact, args),
            "filesByManifestEntries": lambda args: self._files(
                artifact, {"names": [entry["name"] for entry in args.get("entries") or []]}
            ),
        }

    def _run(self, run_id: str) -> View | None:
        run = self.store.run_by_id(run_id)
        return None if run is None else self.runs.run(run)

    def _run_view(self, run_id: str) -> View:
        return self._run(run_id) or {}

    def manifest_file(self, artifact: Artifact) -> View:
        url = f"{self.store.url}/storage/manifest/{quote(artifact.id, safe='')}"
        return {"id": f"ManifestFile:{artifact.id}", "uploadUrl": url, "uploadHeaders": [], "directUrl": url}

    def _files(self, artifact: Artifact, args: Args) -> View:
        wanted = args.get("names") or []
        names = [name for name in artifact.files if not wanted or name in wanted]
        return connection("File", names, lambda name: self.file(artifact, name), args)

    def file(self, artifact: Artifact, name: str) -> View:
        url = f"{self.store.url}/storage/artifact/{quote(artifact.id, safe='')}/{quote(name)}"
        digest = artifact.manifest.get("contents", {}).get(name, {}).get("digest")
        return {
            "__typename": "File",
            "id": f"{artifact.id}/{name}",
            "name": name,
            "displayName": name,
            "url": url,
            "directUrl": url,
            "uploadUrl": url,
            "uploadHeaders": [],
            "uploadMultipartUrls": None,
            "storagePath": f"{artifact.id}/{name}",
            "sizeBytes": len(artifact.files.get(name, b"")),
            "mimetype": None,
            "updatedAt": artifact.created_at,
            "digest": digest,
            "md5": digest,
            "artifact": lambda args: self.artifact(artifact),
        }
