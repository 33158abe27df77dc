"""How the record is read and written: sessions on one engine, one writer at a time, faults instead of driver errors.

Journal mode is WAL: the console reads windows while a rollout writes, and neither waits for the other. It costs two
side files and a local disk. Durable commits (``synchronous=FULL``) are kept, because a host is touched only after the
row that says so is on disk.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from fleet.record.errors import as_fault


def make_engine(path: str, *, read_only: bool, busy_s: float) -> Engine:
    """Return an engine on the SQLite file *path*; *busy_s* seconds are waited for another process's write."""
    uri = (
        f"file:{quote(path)}?mode={'ro' if read_only else 'rw'}"  # never rwc: a missing file is an error, not a new one
    )

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


class Access:
    """An open record's sessions. ``now`` is the clock, in seconds since the epoch."""

    def __init__(self, engine: Engine, place: str, now: Callable[[], float], *, session: Session | None = None) -> None:
        self.engine = engine
        self.place = place
        self.now = now
        self._joined = session
        self._writer = threading.RLock()

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Yield a session whose changes commit together, or not at all."""
        if self._joined is not None:  # the caller's transaction: it commits, and it handles the driver's errors
            yield self._joined
            self._joined.flush()
            return
        with self._writer, self.faults(), Session(self.engine) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session that sees one state of the record and changes nothing."""
        if self._joined is not None:
            yield self._joined
            return
        with (
            self.faults(),
            self.engine.connect().execution_options(reading=True) as connection,
            Session(connection) as session,
        ):
            yield session

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Turn the database's errors into faults; those that are bugs pass."""
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            fault = as_fault(error, self.place)
            if fault is None:
                raise
            raise fault from error

    def close(self) -> None:
        """Close every connection; idempotent."""
        self.engine.dispose()
