"""Opening the record: create, migrate, refuse what is not ours.

One record is one SQLite file. The engine's own journal lives in a file beside it, so that its frequent writes never
make a reader of the record wait (``fleet.rollout.engine``).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from fleet.record.access import Access, make_engine
from fleet.record.control_store import ControlStore
from fleet.record.drift_store import DriftStore
from fleet.record.errors import (
    NotARecord,
    RecordMissing,
    RecordUnwritable,
    SchemaNewer,
    SchemaOlder,
    as_fault,
)
from fleet.record.evidence import Evidence
from fleet.record.proof_store import ProofStore
from fleet.record.queries import HostQueries
from fleet.record.rollout_queries import RolloutQueries
from fleet.record.rollout_store import RolloutStore
from fleet.record.window_queries import WindowQueries

APPLICATION_ID = 0x43524F4C  # "CROL" in the file's header: how a record is told from any other SQLite file
REVISIONS = ("0001", "0002", "0003")  # in order; the last is the schema of this code
MIGRATIONS = Path(__file__).parent / "migrations"


class Record(RolloutStore, ControlStore, ProofStore, DriftStore, HostQueries, RolloutQueries, WindowQueries, Evidence):
    """An open record: every read and write of the product."""

    def joined(self, session: Session) -> Record:
        """Return this record inside the caller's transaction: what is written commits when *session* does."""
        return Record(self.engine, self.place, self.now, session=session)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _path_of(path_or_url: Path | str) -> Path:
    text = str(path_or_url)
    if text.startswith("sqlite:///"):
        return Path(text.removeprefix("sqlite:///"))
    if "://" in text:
        raise RecordMissing(f"{text}: only SQLite records are supported", remedy="Name a file, or sqlite:///FILE.")
    return Path(text)


def _identify(path: Path, busy_s: float) -> tuple[bool, str | None]:
    """Return whether the file is empty, and its revision; raise NotARecord for any other thing."""
    try:
        with sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=busy_s) as connection:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            if not tables and application == 0:
                return True, None
            if application != APPLICATION_ID or "alembic_version" not in tables:
                raise NotARecord(f"{path} is a database of something else")
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            return False, row[0] if row else None
    finally:
        # sqlite3's context manager commits; it does not close.
        if "connection" in locals():
            connection.close()


def _migrate(engine: Engine) -> None:
    from alembic import command  # costs a quarter of a second, so only when there is something to do
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        config.attributes["connection"] = connection
        command.upgrade(config, REVISIONS[-1])
        connection.commit()


def open_record(
    path_or_url: Path | str,
    *,
    create: bool = False,
    read_only: bool = False,
    busy_s: float = 10.0,
    now: Callable[[], float] = time.time,
) -> Record:
    """Open the record at *path_or_url*, migrating an older one; a refusal is a ``RecordFault`` and changes nothing."""
    path = _path_of(path_or_url)
    place = f"record {path}"
    try:
        if not path.exists():
            if not create:
                raise RecordMissing(f"there is no record at {path}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
        if path.is_dir():
            raise NotARecord(f"{path} is a folder")
        empty, revision = _identify(path, busy_s)
        if empty and not create:
            raise RecordMissing(f"the record at {path} is empty")
        if not empty and revision not in REVISIONS:
            raise SchemaNewer(f"{place} has schema {revision}, this Corollout knows up to {REVISIONS[-1]}")
        if revision != REVISIONS[-1]:
            if read_only:
                raise SchemaOlder(f"{place} has schema {revision}, needed is {REVISIONS[-1]}")
            _prepare(path, busy_s)
    except sqlite3.Error as error:
        raise as_fault(error, place) or error from error
    except OSError as error:
        raise RecordUnwritable(f"{place}: {error.strerror}") from None
    return Record(make_engine(str(path.absolute()), read_only=read_only, busy_s=busy_s), place, now)


def _prepare(path: Path, busy_s: float) -> None:
    with sqlite3.connect(path, timeout=busy_s) as connection:
        connection.execute("PRAGMA journal_mode = WAL")  # kept in the file's header
    connection.close()
    engine = make_engine(str(path.absolute()), read_only=False, busy_s=busy_s)
    try:
        with Access(engine, f"record {path}", time.time).faults():
            _migrate(engine)
    finally:
        engine.dispose()
