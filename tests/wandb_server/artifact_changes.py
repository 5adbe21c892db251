"""What `log_artifact` and `use_artifact` change: versions, their files, aliases and users."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from tests.wandb_server.artifact_views import ArtifactViews
from tests.wandb_server.records import Artifact
from tests.wandb_server.run_views import Args, View, connection
from tests.wandb_server.store import Store


class ArtifactChanges:
    """The mutations on artifacts, and the bytes that arrive for them."""

    def __init__(self, store: Store, views: ArtifactViews) -> None:
        self.store = store
        self.views = views

    def create(self, given: Args) -> View:
        """A new pending version, or the committed one of the same content."""
        collection = (given.get("artifactCollectionNames") or [given.get("artifactCollectionName")])[0]
        entity, project = given["entityName"], given["projectName"]
        same = [a for a in self.store.versions(entity, project, collection) if a.digest == given["digest"]]
        if same and given.get("enableDigestDeduplication", True):
            artifact = same[0]
        else:
            artifact = Artifact(
                id=f"Artifact:{self.store.serial()}",
                entity=entity,
                project=project,
                type=given["artifactTypeName"],
                collection=collection,
                digest=given["digest"],
                digest_algorithm=given.get("digestAlgorithm") or "MANIFEST_MD5",
                description=given.get("description"),
                metadata=json.loads(given.get("metadata") or "{}"),
                client_id=given.get("clientID") or "",
                tags=[tag["tagName"] for tag in given.get("tags") or []],
            )
            run = self.store.run(entity, project, given.get("runName") or "")
            artifact.created_by = run.id if run else ""
            self.store.artifacts.append(artifact)
        artifact.wanted_aliases = [alias["alias"] for alias in given.get("aliases") or []]
        if artifact.state == "COMMITTED":
            self._point(artifact, artifact.wanted_aliases)
        return {"__typename": "CreateArtifactPayload", "artifact": self.views.artifact(artifact)}

    def _point(self, artifact: Artifact, aliases: list[str]) -> None:
        """Move aliases to this version from the others of its collection."""
        for other in self.store.versions(artifact.entity, artifact.project, artifact.collection):
            if other is not artifact:
                other.aliases = [alias for alias in other.aliases if alias not in aliases]
        artifact.aliases = list(dict.fromkeys([*artifact.aliases, *aliases]))

    def create_files(self, given: Args) -> View:
        """Upload addresses for the files of pending versions."""
        nodes = []
        for wanted in given["artifactFiles"]:
            artifact = self.store.artifact(wanted["artifactID"])
            if artifact is not None:
                nodes.append(self.views.file(artifact, wanted["name"]))
        return {"files": connection("File", nodes, lambda node: node, {})}

    def create_manifest(self, given: Args) -> View:
        artifact = self.store.artifact(
            given.get("artifactID") or given["artifactManifestID"].partition(":")[2]
        )
        assert artifact is not None, given
        return {
            "artifactManifest": {"id": f"Manifest:{artifact.id}", "file": self.views.manifest_file(artifact)},
        }

    def commit(self, given: Args) -> View:
        """Number the version, give it its aliases and `latest`, and bind its files by their digests."""
        artifact = self.store.artifact(given["artifactID"])
        assert artifact is not None, given
        if artifact.state != "COMMITTED":
            artifact.version = len(
                list(self.store.versions(artifact.entity, artifact.project, artifact.collection))
            )
            artifact.state = "COMMITTED"
            for name, entry in artifact.manifest.get("contents", {}).items():
                if entry["digest"] in self.store.blobs:
                    artifact.files[name] = self.store.blobs[entry["digest"]]
            self._point(artifact, [*artifact.wanted_aliases, "latest"])
        return {"artifact": self.views.artifact(artifact)}

    def use(self, given: Args) -> View:
        artifact = self.store.artifact(given["artifactID"])
        run = self.store.run(given["entityName"], given["projectName"], given["runName"])
        assert artifact is not None, given
        if run is not None and run.id not in artifact.used_by:
            artifact.used_by.append(run.id)
        return {"artifact": self.views.artifact(artifact)}

    def update(self, given: Args) -> View:
        artifact = self.store.artifact(given["artifactID"])
        assert artifact is not None, given
        if given.get("metadata") is not None:
            artifact.metadata = json.loads(given["metadata"])
        if given.get("description") is not None:
            artifact.description = given["description"]
        return {"artifact": self.views.artifact(artifact)}

    def alias(self, given: Args, *, add: bool) -> View:
        artifact = self.store.artifact(given["artifactID"])
        assert artifact is not None, given
        names = [alias["alias"] for alias in given["aliases"]]
        if add:
            self._point(artifact, names)
        else:
            artifact.aliases = [alias for alias in artifact.aliases if alias not in names]
        return {"success": True}

    def receive(self, artifact_id: str, name: str, content: bytes) -> None:
        """Bytes that arrived at an upload address; an empty name is the manifest."""
        artifact = self.store.artifact(artifact_id)
        assert artifact is not None, artifact_id
        if not name:
            artifact.manifest = json.loads(content)
            return
        digest = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
        self.store.blobs[digest] = content

    def fields(self) -> dict[str, Any]:
        """The fields of Mutation that this class answers."""
        return {
            "createArtifact": lambda args: self.create(args["input"]),
            "createArtifactFiles": lambda args: self.create_files(args["input"]),
            "createArtifactManifest": lambda args: self.create_manifest(args["input"]),
            "updateArtifactManifest": lambda args: self.create_manifest(args["input"]),
            "commitArtifact": lambda args: self.commit(args["input"]),
            "useArtifact": lambda args: self.use(args["input"]),
            "updateArtifact": lambda args: self.update(args["input"]),
            "addAliases": lambda args: self.alias(args["input"], add=True),
            "deleteAliases": lambda args: self.alias(args["input"], add=False),
        }
