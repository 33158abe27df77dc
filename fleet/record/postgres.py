"""A record in a PostgreSQL database: in a schema of its own, with the habits of the file it may have begun as.

What SQLite does by itself is arranged here: one writer at a time (an advisory lock, so that audit rows become visible
in the order of their ids and nothing deadlocks), text in byte order and of any length, integers of 64 bits. Addresses
are libpq's own (``postgresql://…``), so PGHOST, PGPASSFILE, PGSERVICE and the others are honoured; the password stays
inside ``connect``.
"""

from __future__ import annotations

import os
import time
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, Engine, QueuePool, create_engine, event

from fleet.record.errors import NotARecord, PlaceMalformed, RecordMissing, server_state
from fleet.record.rollout_tables import METADATA

SCHEMA = "corollout"
ENGINE_SCHEMA = "corollout_engine"  # DBOS's tables
_WRITER = 0x43524F4C  # the advisory lock of whoever writes
_MIGRATOR = _WRITER + 1
_TRY_AGAIN_S = 0.25
# Defaults that an address or libpq's environment may set otherwise. A server that was cut off is noticed in a minute.
_DEFAULTS = {"connect_timeout": "10", "keepalives_idle": "15", "keepalives_interval": "5", "keepalives_count": "6",
         "tcp_user_timeout": "60000"}  # fmt: skip


class Link:
    """How connections to one database are made. *patience_s* is how long a server that is away is waited for."""

    def __init__(self, url: str, *, busy_s: float, patience_s: float) -> None:
        self._busy_s = busy_s
        self.patience_s = patience_s
        try:
            known = conninfo_to_dict(url)
        except psycopg.Error:  # its words would show the address, and with it the password
            raise PlaceMalformed("the address of the database cannot be read") from None
        self._connect = url
        self._options: dict[str, Any] = {k: v for k, v in _DEFAULTS.items() if k not in known}
        if "PGCONNECT_TIMEOUT" in os.environ:
            self._options.pop("connect_timeout", None)
        self._options.setdefault("application_name", known.get("application_name") or "corollout")

    def open(self) -> psycopg.Connection[Any]:
        """Return a new connection, waiting for a server that is starting or gone for a moment."""
        until = time.monotonic() + self.patience_s
        while True:
            try:
                return psycopg.connect(self._connect, **self._options)
            except psycopg.OperationalError as error:
                # What the server itself refuses (a login, a database) is not mended by waiting.
                if server_state(error) != "08" or time.monotonic() >= until:
                    raise
                time.sleep(_TRY_AGAIN_S)

    def record(self) -> psycopg.Connection[Any]:
        """Return a new connection on the record's schema, with bounded waits."""
        connection = self.open()
        busy = round(self._busy_s * 1000)
        # A writer that was stopped (SIGSTOP, a frozen machine) loses its transaction before the others lose patience.
        idle = round(self._busy_s * 600)
        connection.execute(
            f"SET search_path = {SCHEMA}; SET lock_timeout = {busy}; SET idle_in_transaction_session_timeout = {idle};"
            "SET timezone = 'UTC'"
        )
        connection.commit()
        return connection


def make_engine(link: Link, *, read_only: bool) -> Engine:
    """Return an engine on the record that *link* leads to."""
    engine = create_engine(
        "postgresql+psycopg://", creator=link.record, poolclass=QueuePool, pool_size=8, max_overflow=40,
        pool_pre_ping=True,
    )  # fmt: skip

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if read_only:
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        elif not connection.get_execution_options().get("reading"):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER})")

    return engine


def journal_engine(link: Link) -> Engine:
    """Return an engine for the journal of rollouts, which keeps its tables in a schema of its own."""
    return create_engine(
        "postgresql+psycopg://", creator=link.open, poolclass=QueuePool, pool_size=20, max_overflow=20,
        pool_pre_ping=True,
    )  # fmt: skip


def identify(link: Link, place: str, *, create: bool) -> str | None:
    """Return the revision of the record in the database, None when it is still empty; raise NotARecord for another
    thing in our schema. With *create*, the schema is made, else RecordMissing is raised."""
    with link.open() as connection:
        names = {
            row[0]
            for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [SCHEMA]).fetchall()
        }
        if "alembic_version" in names:
            row = connection.execute(f"SELECT version_num FROM {SCHEMA}.alembic_version").fetchone()  # noqa: S608 - ours
            return str(row[0]) if row else "none"
        if names:
            raise NotARecord(f"{place}: the schema {SCHEMA} is of something else")
        if not create:
            raise RecordMissing(f"there is no record in {place}")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_MIGRATOR])
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        return None


def mark(connection: Connection) -> None:
    """Let one process migrate at a time; the lock ends with the transaction."""
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATOR})")


def settle(connection: Connection) -> None:
    """Give every column of ours the habits of SQLite's: text of any length in byte order, integers of 64 bits."""
    ours = set(METADATA.tables)
    rows = connection.exec_driver_sql(
        "SELECT table_name, column_name, data_type, collation_name FROM information_schema.columns "
        "WHERE table_schema = %s ORDER BY table_name, ordinal_position", (SCHEMA,)
    ).all()  # fmt: skip
    changes: dict[str, list[str]] = {}
    for table, column, kind, collation in rows:
        wanted = None
        if kind == "integer":
            wanted = "bigint"
        elif kind == "character varying" or (kind == "text" and collation != "C"):
            wanted = 'text COLLATE "C"'
        if table in ours and wanted:
            changes.setdefault(table, []).append(f'ALTER COLUMN "{column}" TYPE {wanted}')
    for table, alterations in changes.items():
        connection.exec_driver_sql(f'ALTER TABLE "{table}" {", ".join(alterations)}')
    numbered = connection.exec_driver_sql(
        "SELECT sequencename FROM pg_sequences WHERE schemaname = %s AND data_type = 'integer'::regtype", (SCHEMA,)
    ).all()
    for (sequence,) in numbered:
        connection.exec_driver_sql(f'ALTER SEQUENCE "{sequence}" AS bigint')
