"""The page on the loopback, for the one who started it: live while runs go on, and nothing but the page.

The address holds a token, since other users of the machine can reach the port. A request whose Host is not this server
is refused, so that a page of somebody else's cannot ask through a name that points here.
"""

from __future__ import annotations

import hmac
import os
import secrets
import sys
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from tracking.local import CONFIG_FILE, METRICS_FILE
from tracking.report.runs import Run, read_run

HOST = "127.0.0.1"


class Source:
    """The page of some folders, built anew when a file of a run has changed.

    Args:
        folders: where the runs are.
        build: makes the page from a reader of one run folder and a version, a short text that goes into it.
    """

    def __init__(self, folders: Sequence[str], build: Callable[[Callable[[Path], Run], str], bytes]) -> None:
        self.folders = folders
        self.build = build
        self._lock = threading.Lock()
        self._version, self._page = "", b""
        self._runs: dict[Path, tuple[str, Run]] = {}

    def version(self) -> str:
        """Changes when a run's files do."""
        stamps = (
            stamp
            for top in self.folders
            for place, _, files in os.walk(top)
            if METRICS_FILE in files
            for stamp in _stamps(Path(place))
        )
        return format(hash(tuple(stamps)) & 0xFFFFFFFFFFFF, "x")

    def page(self) -> bytes:
        """The page of now.

        Raises:
            ValueError: no run can be read; one line.
        """
        with self._lock:
            if (version := self.version()) != self._version:
                self._page = self.build(self._read, version)
                self._version = version
            return self._page

    def _read(self, folder: Path) -> Run:
        """A run whose files have not changed since it was read is not read again."""
        stamp = str(_stamps(folder))
        known = self._runs.get(folder)
        if known is None or known[0] != stamp:
            known = self._runs[folder] = (stamp, read_run(folder))
        return known[1]


def serve(source: Source, port: int, *, ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C.

    Args:
        port: 0 takes a free one.
        ready: is told the address.

    Raises:
        OSError: the port is taken.
    """
    server = PageServer(source, port)
    try:
        ready(server.address)
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


class PageServer(ThreadingHTTPServer):
    """Answers GET at `/TOKEN/` and `/TOKEN/version`, and 404 to everything else."""

    daemon_threads = True

    def __init__(self, source: Source, port: int) -> None:
        self.source = source
        self.token = secrets.token_urlsafe(24)
        super().__init__((HOST, port), _Handler)

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/{self.token}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that goes away in the middle of an answer is nothing to report."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version, sys_version = "report", ""

    def do_GET(self) -> None:
        parts = urlsplit(self.path).path.split("/")
        known = self.headers.get("Host", "") in self._own_names()
        if (
            not known
            or len(parts) != 3
            or not hmac.compare_digest(parts[1].encode(), self.server.token.encode())
        ):
            return self._answer(HTTPStatus.NOT_FOUND, b"", "text/plain")
        if parts[2] == "version":
            return self._answer(HTTPStatus.OK, self.server.source.version().encode(), "text/plain")
        if parts[2] != "":
            return self._answer(HTTPStatus.NOT_FOUND, b"", "text/plain")
        try:
            page = self.server.source.page()
        except ValueError as error:
            return self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n".encode(), "text/plain")
        return self._answer(HTTPStatus.OK, page, "text/html")

    def _own_names(self) -> set[str]:
        port = self.server.server_address[1]
        return {f"{HOST}:{port}", f"localhost:{port}"}

    def _answer(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the address with its token belongs in no log."""


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    found = []
    for name in (CONFIG_FILE, METRICS_FILE):
        try:
            state = (folder / name).stat()
        except OSError:
            continue
        found.append((str(folder / name), state.st_size, state.st_mtime_ns))
    return found
