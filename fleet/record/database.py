"""Opening the record: create, migrate, refuse what is not ours.

A record is one SQLite file, or a schema in a PostgreSQL database that several machines share. The engine's own journal
lives beside it (a file, another schema), so that its frequent writes never make a reader of the record wait.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session

from fleet.record import sqlite
from fleet.record.access import Access
from fleet.record.artefact_store import ArtefactStore
from fleet.record.control_store import ControlStore
from fleet.record.drift_store import DriftStore
from fleet.record.errors import RecordMissing, RecordUnwritable, SchemaNewer, SchemaOlder, as_fault
from fleet.record.evidence import Evidence
from fleet.record.join_store import JoinStore
from fleet.record.order_store import OrderStore
from fleet.record.pin_store import PinStore
from fleet.record.place import checked, file_of, masked, on_server
from fleet.record.plan_queries import PlanQueries
from fleet.record.proof_store import ProofStore
from fleet.record.queries import HostQueries
from fleet.record.rollout_queries import RolloutQueries
from fleet.record.rollout_store import RolloutStore
from fleet.record.step_store import StepStore
from fleet.record.way_store import WayStore
from fleet.record.window_queries import WindowQueries
from fleet.record.worker_store import WorkerStore

if TYPE_CHECKING:
    from fleet.record.postgres import Link

REVISIONS = ("0001", "0002", "0003")  # in order; the last is the schema of this code
MIGRATIONS = Path(__file__).parent / "migrations"
PATIENCE_S = 60.0  # how long an open record waits for a server that went away


class Record(
    RolloutStore,
    StepStore,
    ControlStore,
    WorkerStore,
    ArtefactStore,
    ProofStore,
    DriftStore,
    PinStore,
    JoinStore,
    PlanQueries,
    HostQueries,
    RolloutQueries,
    WindowQueries,
    Evidence,
    WayStore,
    OrderStore,
):
    """An open record: every read and write of the product."""

    journal: Callable[[], tuple[str, Engine | None]]  # where the engine keeps its own tables: address, or an engine

    def joined(self, session: Session) -> Record:
        """Return this record inside the caller's transaction: what is written commits when *session* does."""
        return Record(self.engine, self.place, self.now, session=session)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_record(
    place: Path | str,
    *,
    create: bool = False,
    read_only: bool = False,
    busy_s: float = 10.0,
    now: Callable[[], float] = time.time,
) -> Record:
    """Open the record at *place*, a file or ``postgresql://…``, migrating an older one.

    A refusal is a ``RecordFault`` and changes nothing.
    """
    if on_server(place):
        return _open_server(str(place), create=create, read_only=read_only, busy_s=busy_s, now=now)
    path = file_of(place)
    name = f"record {path}"
    try:
        revision = sqlite.identify(path, create=create, busy_s=busy_s)
        if _outdated(name, revision, create=create, read_only=read_only):
            sqlite.prepare(path, busy_s)
            _migrate(sqlite.make_engine(path, read_only=False, busy_s=busy_s), sqlite, name)
    except sqlite3.Error as error:
        raise as_fault(error, name) or error from error
    except OSError as error:
        raise RecordUnwritable(f"{name}: {error.strerror}") from None
    record = Record(sqlite.make_engine(path, read_only=read_only, busy_s=busy_s), name, now)
    record.journal = lambda: (f"sqlite:///{path.absolute().parent / 'engine.db'}", None)
    return record


def _open_server(url: str, *, create: bool, read_only: bool, busy_s: float, now: Callable[[], float]) -> Record:
    import psycopg  # a fifth of a second, so only for those who have a server

    from fleet.record import postgres

    name = f"record {masked(url)}"
    link: Link = postgres.Link(checked(url), busy_s=busy_s, patience_s=0.0)
    try:
        revision = postgres.identify(link, name, create=create)
    except psycopg.Error as error:
        raise as_fault(error, name) or error from None
    if _outdated(name, revision, create=create, read_only=read_only):
        _migrate(postgres.make_engine(link, read_only=False), postgres, name)
    link.patience_s = PATIENCE_S
    record = Record(postgres.make_engine(link, read_only=read_only), name, now)
    record.journal = lambda: ("", postgres.journal_engine(link))
    return record


def _outdated(name: str, revision: str | None, *, create: bool, read_only: bool) -> bool:
    """Whether the record must be migrated first; raises where that may not be."""
    if revision is None and not create:
        raise RecordMissing(f"the {name} is empty")
    if revision is not None and revision not in REVISIONS:
        raise SchemaNewer(f"{name} has schema {revision}, this Corollout knows up to {REVISIONS[-1]}")
    if revision == REVISIONS[-1]:
        return False
    if read_only:
        raise SchemaOlder(f"{name} has schema {revision}, needed is {REVISIONS[-1]}")
    return True


def _migrate(engine: Engine, database: Any, name: str) -> None:
    """Bring the schema up to date, all of it or nothing. *database* is the module of its kind."""
    from alembic import command  # costs a quarter of a second, so only when there is something to do
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    try:
        with Access(engine, name, time.time).faults(), engine.connect() as connection:
            _upgrade(connection, database, lambda: command.upgrade(config, REVISIONS[-1]), config.attributes)
    finally:
        engine.dispose()


def _upgrade(connection: Connection, database: Any, upgrade: Callable[[], None], attributes: dict[str, Any]) -> None:
    database.mark(connection)
    attributes["connection"] = connection
    upgrade()
    database.settle(connection)
    connection.commit()
