"""A real Postgres server in a folder of its own, reached by a socket in it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
SETTINGS = ["listen_addresses=", "fsync=off", "max_connections=50", "shared_buffers=16MB"]


def unavailable() -> str | None:
    """Why no server can be had here; None if one can."""
    if _binary("initdb") is None:
        return "needs Postgres' own programs (initdb, pg_ctl), which are not installed"
    if os.getuid() == 0 and _user() is None:
        return "Postgres does not run as root, and there is no other user to run it"
    return None


class Postgres:
    """A server that runs until it is stopped."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="desk-pg-", dir="/tmp"))  # sockets' paths: short
        if os.getuid() == 0:
            owner = pwd.getpwnam(str(_user()))
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        self._run("initdb", "-D", "data", "-U", "desk", "-A", "trust", "-E", "UTF8", "--no-sync")
        self._places = 0
        self.start()

    def start(self) -> None:
        options = " ".join(
            f"-c {one}" for one in [*SETTINGS, f"unix_socket_directories={self.folder}"]
        )
        self._run("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", "data", "-w", "-m", mode, "stop")

    def close(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self.folder)

    def database(self) -> str:
        """The URL of an empty place: a schema, for a database is many files."""
        self._places += 1
        name = f"desk{self._places}"
        self.execute(f"CREATE SCHEMA {name}")
        host = quote(str(self.folder), safe="")
        return f"postgresql+psycopg://desk@/postgres?host={host}&options=-csearch_path%3D{name}"

    def execute(self, statement: str) -> None:
        """Run SQL as the superuser."""
        import psycopg

        with psycopg.connect(
            host=str(self.folder), user="desk", dbname="postgres", autocommit=True
        ) as c:
            c.execute(statement)  # type: ignore[call-overload]

    def _run(self, program: str, *arguments: str) -> None:
        as_user: dict[str, Any] = {}
        if os.getuid() == 0:
            as_user = {
                "user": _user(),
                "group": pwd.getpwnam(str(_user())).pw_gid,
                "extra_groups": [],
            }
        # No pipes: the server would keep them open.
        with open(os.devnull, "w") as nowhere:
            done = subprocess.run(
                [str(_binary(program)), *arguments],
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PGTZ": "UTC"},
                stdout=nowhere,
                stderr=nowhere,
                timeout=60,
                check=False,
                **as_user,
            )
        log = self.folder / "log"
        assert done.returncode == 0, log.read_text() if log.exists() else (program, arguments)


def _binary(name: str) -> Path | None:
    for folder in reversed(BINARIES):
        if (folder / name).exists():
            return folder / name
    found = shutil.which(name)
    return Path(found) if found else None


def _user() -> str | None:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    return None
