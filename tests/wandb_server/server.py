"""The HTTP side of the stand-in backend, and the object that tests hold."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.wandb_server import filestream
from tests.wandb_server.answering import Answering
from tests.wandb_server.faults import Faults
from tests.wandb_server.records import Artifact, Request, Run
from tests.wandb_server.store import Store
from tests.wandb_server.sweep_answers import retire
from tests.wandb_server.trials import Sweep

API_KEY = "0123456789abcdef0123456789abcdef01234567"


class _Listener(ThreadingHTTPServer):
    """Listens until closed; closing it also cuts the connections that clients keep open."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, port: int, owner: WandbServer) -> None:
        self.owner = owner
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or that `stop` cut off, is no mistake of this server's; the rest is."""
        if not isinstance(sys.exc_info()[1], OSError):
            self.owner.store.errors.append(traceback.format_exc())

    def cut(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, asks the owner, writes the answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are kept in `WandbServer.requests` instead of being printed."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(parts)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _serve(self) -> None:
        status, content = self.server.owner.handle(self.command, self.path, self._body())
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_PATCH = _serve


class WandbServer:
    """A stand-in W&B backend on the loopback.

    Use as a context manager, give subprocesses `env(tmp_dir)`, then look at what arrived: `runs`, `sweeps`,
    `artifacts`, `requests`. Faults: `fail`, `hang`, `heal`, `stop`, `restart`.
    """

    def __init__(self, port: int = 0) -> None:
        self.store = Store()
        self.faults = Faults()
        self.port = port
        self._answering = Answering(self.store)
        self._listener: _Listener | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> WandbServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen on `port` (0 picks a free one, which then stays)."""
        if self._listener is not None:
            return
        self._listener = _Listener(self.port, self)
        self.port = self._listener.server_address[1]
        self.store.url = self.url
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Die: refuse connections and cut the open ones. What was stored stays."""
        if self._listener is None or self._thread is None:
            return
        self.faults.hang(0.0)
        self._listener.cut()
        self._thread.join()
        self._listener = self._thread = None

    def restart(self) -> None:
        """Come back on the same port with what was stored."""
        self.stop()
        self.start()

    def fail(self, rate: float = 1.0, status: int = 500, *, only: str = "", limit: int | None = None) -> None:
        """Answer a share of the following requests with `status`, evenly spaced by count.

        `only` narrows this to paths that contain it (`"file_stream"`, `"graphql"`, `"storage"`), `limit`
        bounds how many fail. A failed request changes nothing that is stored. `rate=0` ends it.
        """
        self.faults.fail(rate, status, only, limit)

    def hang(self, seconds: float) -> None:
        """Hold every following request for so long before answering; 0 ends it and lets waiting ones go."""
        self.faults.hang(seconds)

    def heal(self) -> None:
        """End `fail` and `hang`."""
        self.faults.clear()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def runs(self) -> dict[str, Run]:
        """Runs by id (the last one made where two projects share an id), oldest first."""
        return {run.name: run for run in self.store.runs_where(lambda run: True)}

    @property
    def sweeps(self) -> dict[str, Sweep]:
        with self.store.lock:
            return dict(self.store.sweeps)

    @property
    def artifacts(self) -> list[Artifact]:
        """All versions, pending ones too, oldest first."""
        with self.store.lock:
            return list(self.store.artifacts)

    @property
    def views(self) -> list[dict[str, Any]]:
        """Saved workspaces (`type` "project-view") and reports ("runs"); `spec` is JSON text."""
        with self.store.lock:
            return [dict(view, id=view_id) for view_id, view in self.store.views.items()]

    @property
    def automations(self) -> list[dict[str, Any]]:
        """Automations as they were sent; `store.slack_channels` names the channels that an entity has."""
        with self.store.lock:
            return [dict(stored, id=number) for number, stored in self.store.triggers.items()]

    @property
    def requests(self) -> list[Request]:
        """Every request so far, in the order of their answers."""
        with self.store.lock:
            return list(self.store.requests)

    @property
    def unanswered(self) -> set[str]:
        """GraphQL fields that a client asked for and this server does not know ("Type.field")."""
        with self.store.lock:
            return set(self.store.missing)

    @property
    def errors(self) -> list[str]:
        """Tracebacks of this server's own mistakes: a test fixture asserts that there are none."""
        with self.store.lock:
            return list(self.store.errors)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> bool:
        """Poll until the condition holds; False if it did not in time."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def lose_agents(self, sweep: str) -> None:
        """Take a sweep's agents for dead, as the service does after minutes of silence.

        Their running trials crash, or go back in the queue if they were preempting.
        """
        with self.store.lock:
            for agent in self.store.agents.values():
                if agent.sweep == sweep:
                    for name in agent.running:
                        self._answering.sweeps.lose(self.store.sweeps[sweep], name)
                    agent.running = []

    def env(self, tmp_dir: str | Path, *, silent: bool = False) -> dict[str, str]:
        """The whole environment for a subprocess that talks to this server and writes under `tmp_dir` only.

        Other `WANDB_*` variables of this process are left out; `python` is this interpreter.
        """
        root = Path(tmp_dir)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
        environment |= {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": API_KEY,
            "WANDB_DIR": str(root),
            "WANDB_ERROR_REPORTING": "false",
            "NETRC": str(root / "netrc"),
        }
        for kind in ("CACHE", "CONFIG", "DATA", "ARTIFACT"):
            folder = root / f"wandb-{kind.lower()}"
            folder.mkdir(parents=True, exist_ok=True)
            environment[f"WANDB_{kind}_DIR"] = str(folder)
        if silent:
            environment["WANDB_SILENT"] = "true"
        return environment

    def handle(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        """Answer one request: (status, content).

        An error of this server's own is kept in `errors` and answered 400, which clients do not retry.
        """
        path = urlsplit(target).path
        began_s = time.monotonic()
        operation = ""
        variables: dict[str, Any] = {}
        status = self.faults.status(path)
        content = b'{"errors": [{"message": "told to fail"}]}'
        try:
            if path == "/graphql":
                asked = json.loads(body)
                variables = asked.get("variables") or {}
                operation = self._answering.operation(asked["query"])
            if status is None:
                status, content = self._answer(method, path, body)
        except Exception:
            status, content = 400, b'{"errors": [{"message": "the stand-in server has a bug"}]}'
            with self.store.lock:
                self.store.errors.append(f"{operation or path}\n{traceback.format_exc()}")
        with self.store.lock:
            self.store.requests.append(Request(method, path, operation, variables, status, began_s))
        return status, content

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        parts = [unquote(part) for part in path.strip("/").split("/")]
        with self.store.lock:
            if path == "/graphql":
                status, reply = self._answering.graphql(json.loads(body))
                return status, json.dumps(reply).encode()
            if parts[0] == "files" and parts[-1] == "file_stream" and len(parts) == 5:
                return self._stream(parts[1:4], json.loads(body))
            if parts[0] == "storage" and len(parts) >= 3:
                return self._answering.storage(method, parts[1], parts[2:], body)
        return 404, b'{"error": "no such address"}'

    def _stream(self, place: list[str], message: Mapping[str, Any]) -> tuple[int, bytes]:
        run = self.store.run(*place)
        if run is None:
            return 404, b'{"error": "no such run"}'
        reply = filestream.apply(run, message)
        if message.get("complete"):
            retire(self.store, run)
        return 200, json.dumps(reply).encode()
