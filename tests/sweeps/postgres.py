"""A real PostgreSQL (Debian's package `postgresql`) on the loopback, its cluster in a temporary folder."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import pytest

USER = "sweeper"


def programs() -> Path:
    """Where Debian has the server's programs; skips the test where they are not."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    return found[-1].parent


class Postgres:
    """`with Postgres() as database:` runs a server; `database.url` is that of an empty database."""

    def __enter__(self) -> "Postgres":
        self.bin, self.as_user = programs(), list[str]()
        # In /tmp itself, since the server's user may not enter a temporary folder of root's.
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
        if os.getuid() == 0:  # the server refuses to run as root
            owner = pwd.getpwnam("postgres")
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            self.as_user = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"postgresql://{USER}@127.0.0.1:{port}/postgres"
        self._do("initdb", "-D", "data", "-U", USER, "--auth=trust", "--no-sync", "--encoding=UTF8")
        options = f"-c listen_addresses=127.0.0.1 -p {port} -k {self.folder} -c fsync=off"
        self._do("pg_ctl", "-D", "data", "-l", "log", "-w", "-o", options, "start")
        return self

    def _do(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [*self.as_user, str(self.bin / program), *words], cwd=self.folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    def stop(self) -> None:
        """As a crash of its machine would."""
        self._do("pg_ctl", "-D", "data", "-w", "-m", "immediate", "stop")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if (self.folder / "data" / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder)
