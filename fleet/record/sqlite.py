"""A record in one SQLite file: how it is told from any other, made and opened.

Journal mode is WAL: the console reads windows while a rollout writes, and neither waits for the other. It costs two
side files and a local disk.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event

from fleet.record.errors import NotARecord, RecordMissing

APPLICATION_ID = 0x43524F4C  # "CROL" in the file's header


def make_engine(path: Path, *, read_only: bool, busy_s: float) -> Engine:
    """Return an engine on the SQLite file *path*; *busy_s* seconds are waited for another process's write."""
    mode = "ro" if read_only else "rw"  # never rwc: a missing file is an error, not a new one
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(uri, uri=True, timeout=busy_s, check_same_thread=False)

    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool, pool_size=8, max_overflow=40)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, never by the driver
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A deferred transaction that later writes can fail with no chance to wait; a writer says so at its start.
        reading = connection.get_execution_options().get("reading") or read_only
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


def identify(path: Path, *, create: bool, busy_s: float) -> str | None:
    """Return the revision of the record in *path*, None when it is still empty; raise NotARecord for any other thing.

    With *create*, a missing file is made, else RecordMissing is raised; readable by its owner alone.
    """
    if not path.exists():
        if not create:
            raise RecordMissing(f"there is no record at {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    if path.is_dir():
        raise NotARecord(f"{path} is a folder")
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=busy_s)
    try:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        if not tables and application == 0:
            return None
        if application != APPLICATION_ID or "alembic_version" not in tables:
            raise NotARecord(f"{path} is a database of something else")
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return row[0] if row else "none"
    finally:
        connection.close()


def mark(connection: Connection) -> None:
    """Make the file ours, before it is migrated."""
    connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")


def settle(connection: Connection) -> None:
    """Do what is left to do after a migration."""


def prepare(path: Path, busy_s: float) -> None:
    """Choose the journal mode, which is kept in the file's header."""
    connection = sqlite3.connect(path, timeout=busy_s)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
