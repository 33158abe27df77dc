"""How the record is read and written: one writer at a time, readers never wait, faults instead of driver errors.

Both databases keep the same promises (``sqlite``, ``postgres``): a writer says so at its start and then is the only
one, so audit rows become visible in the order of their ids; a reader sees one state; a commit is on disk when it
returns, because a host is touched only after the row that says so is.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from fleet.record.errors import as_fault

# How a reader sees one state and changes nothing; on a server both travel with its BEGIN.
_READING: dict[str, dict[str, Any]] = {
    "sqlite": {"reading": True},
    "postgresql": {"reading": True, "isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
}


def inserting(session: Session) -> Callable[[Any], Any]:
    """Return what makes an INSERT that knows ON CONFLICT, in the words of the session's database."""
    return postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert


def upsert(session: Session, table: Any) -> Any:
    """Return an INSERT into *table* that knows ON CONFLICT, in the words of the session's database."""
    return inserting(session)(table)


def clock_of(session: Session, now: Callable[[], float]) -> float:
    """Return the time by which heartbeats are judged: the server's, where machines share one, else *now*'s."""
    if session.get_bind().dialect.name != "postgresql":
        return now()
    return float(session.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


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
            self.engine.connect().execution_options(**_READING[self.engine.dialect.name]) as connection,
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
