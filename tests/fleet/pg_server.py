"""Test fixture: a real PostgreSQL of our own, in a temporary folder, on a Unix socket; as an unprivileged user when
the tests run as root, because PostgreSQL refuses root. Missing or refusing, it is an error and not a skip."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin")
_count = itertools.count(1)


def programs() -> Path:
    """The folder of PostgreSQL's server programs, the newest version's first."""
    found = [p for pattern in _PLACES for p in Path("/").glob(pattern.lstrip("/"))]
    found.sort(key=lambda p: [int(part) if part.isdigit() else -1 for part in p.parts])
    if not found:
        which = shutil.which("initdb")
        found = [Path(which).resolve().parent] if which else []
    if not found:
        raise RuntimeError("no PostgreSQL server programs here: install the package postgresql (make setup does)")
    return found[-1]


class Server:
    """One server under *root*; every database that is asked for is new."""

    def __init__(self, root: Path, *, safe: bool = False) -> None:
        self.root = root
        self.bin = programs()
        self.data = root / "data"
        self.user = None
        if os.getuid() == 0:
            self.user = next((u for u in ("postgres", "nobody") if _known(u)), None)
            if self.user is None:
                raise RuntimeError("PostgreSQL refuses root, and neither postgres nor nobody is a user here")
            account = pwd.getpwnam(self.user)
            os.chown(root, account.pw_uid, account.pw_gid)
        self._run("initdb", "-D", str(self.data), "-U", "fleet", "--auth=trust", "--encoding=UTF8", "--no-sync",
                  "--locale=C.UTF-8")  # fmt: skip
        # `fsync = off` outlives any process, only not the machine: it costs these tests nothing of what they show.
        with (self.data / "postgresql.conf").open("a") as config:
            config.write(
                f"listen_addresses = ''\nunix_socket_directories = '{root}'\nmax_connections = 200\n"
                f"fsync = {'on' if safe else 'off'}\nshared_buffers = 32MB\n"
            )
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self.bin / program, *arguments], user=self.user, group=self.user and pwd.getpwnam(self.user).pw_gid,
            extra_groups=[] if self.user else None, capture_output=True, text=True, timeout=120, check=False,
            cwd=self.root, env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stdout}{done.stderr}")

    def start(self) -> None:
        self._run("pg_ctl", "-D", str(self.data), "-w", "-l", str(self.root / "log"), "start")

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", mode, "stop")

    def restart(self) -> None:
        """As a crash and a new start: what was in flight is lost, what was committed is there."""
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", "immediate", "-l", str(self.root / "log"), "restart")

    def url(self, database: str, user: str = "fleet") -> str:
        return f"postgresql://{user}@/{database}?host={self.root}"

    def database(self, like: str | None = None) -> str:
        """Make an empty database, or a copy of the one at *like*; returns its address."""
        name = f"d{next(_count)}"
        self.sql(f"CREATE DATABASE {name}" + (f" TEMPLATE {urlsplit(like).path[1:]}" if like else ""))
        return self.url(name)

    def sql(self, statement: str, url: str | None = None) -> list[tuple]:
        with psycopg.connect(url or self.url("postgres"), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


def _known(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
