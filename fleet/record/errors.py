"""What can be wrong with the record, as faults with a remedy.

RecordFault
├── RecordLocked       another process holds it for longer than we wait
├── SchemaNewer        a newer Corollout wrote it
├── SchemaOlder        it must be migrated and was opened read-only
├── NotARecord         the file is something else, or damaged
├── DiskFull           nothing more can be written; what was committed is safe
├── RecordMissing      no such file
├── RecordUnwritable   the file or its folder refuses writing
├── RecordBroken       the disk failed below the database
├── RecordGone         the database server does not answer, or went away in the middle
├── PlaceMalformed     neither a file nor the address of a database
├── NotInRecord        no host, plan or rollout of that name
├── ClaimRefused       another live controller drives this rollout
└── SliceTaken         another worker has this piece of a wave now
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.exc import DBAPIError

from btf.fault import EXIT_NO, EXIT_USAGE, Fault, printable


class RecordFault(Fault):
    """The record cannot be used. ``transient``: the same may work in a moment, and nothing was half written."""

    code = "COR-REC-000"
    remedy = "Check the path of the record (--home)."
    transient = False


class RecordLocked(RecordFault):
    """Another process holds the database."""

    code = "COR-REC-001"
    remedy = "Another corollout is writing: wait for it, or find it with `fuser` and end it. Nothing was lost."
    transient = True


class SchemaNewer(RecordFault):
    """A newer Corollout migrated this record."""

    code = "COR-REC-002"
    exit = EXIT_USAGE
    remedy = "Use the newer Corollout, or a copy of the record from before it was migrated. Nothing was changed."


class NotARecord(RecordFault):
    """The file is not a Corollout record."""

    code = "COR-REC-003"
    exit = EXIT_USAGE
    remedy = "Name another file, or move this one away and run `corollout init`. Nothing was changed."


class DiskFull(RecordFault):
    """The disk is full."""

    code = "COR-REC-004"
    remedy = "Free space on the record's disk and run again: what was committed is kept, the last change was not made."


class RecordMissing(RecordFault):
    """There is no record yet."""

    code = "COR-REC-005"
    exit = EXIT_USAGE
    remedy = "Run `corollout init`, or name the right folder with --home."


class RecordUnwritable(RecordFault):
    """The record may not be written."""

    code = "COR-REC-006"
    remedy = "Run as the user who owns the record, or open it read-only."


class SchemaOlder(RecordFault):
    """The record waits for a migration."""

    code = "COR-REC-007"
    exit = EXIT_USAGE
    remedy = "Open it once for writing (any changing verb migrates it), then read it again."


class RecordBroken(RecordFault):
    """The disk failed below the database."""

    code = "COR-REC-008"
    remedy = "Check the disk (dmesg), then restore the record or copy it to a good one."


class NotInRecord(RecordFault):
    """No host, plan or rollout of that name."""

    code = "COR-REC-010"
    exit = EXIT_USAGE
    remedy = "List what there is: `corollout hosts list`, `corollout rollout list`."


class ClaimRefused(RecordFault):
    """Another live controller drives this rollout."""

    code = "COR-REC-011"
    exit = EXIT_NO
    remedy = "Let the other controller go on; `corollout rollout watch` follows it. A dead one is taken over by itself."


class RecordGone(RecordFault):
    """The database server does not answer."""

    code = "COR-REC-012"
    remedy = "Check that PostgreSQL runs and can be reached from here (psql says more), then run the same again."
    transient = True


class PlaceMalformed(RecordFault):
    """Neither a file nor the address of a database."""

    code = "COR-REC-013"
    exit = EXIT_USAGE
    remedy = "Name a file, or postgresql://USER@HOST/DATABASE with special characters percent-encoded."


class SliceTaken(RecordFault):
    """Another worker has this piece of a wave now."""

    code = "COR-REC-014"
    exit = EXIT_NO
    remedy = "Nothing to do: this worker was taken for dead and another one carries its hosts on."


class StepMoved(RecordFault):
    """What was to be done to a host was decided otherwise meanwhile."""

    code = "COR-REC-018"
    exit = EXIT_NO
    remedy = "Nothing was done to the host; `corollout rollout status` shows where its step is."


# SQLite's error names, first match by prefix: what the database says → what a person needs to know.
_FAULTS: tuple[tuple[str, type[RecordFault], str], ...] = (
    ("SQLITE_BUSY", RecordLocked, "is locked by another process"),
    ("SQLITE_LOCKED", RecordLocked, "is locked"),
    ("SQLITE_FULL", DiskFull, "cannot grow: the disk is full"),
    ("SQLITE_NOTADB", NotARecord, "is not a database"),
    ("SQLITE_CORRUPT", NotARecord, "is damaged"),
    ("SQLITE_READONLY", RecordUnwritable, "is read-only"),
    ("SQLITE_CANTOPEN", RecordUnwritable, "cannot be opened"),
    ("SQLITE_PERM", RecordUnwritable, "may not be accessed"),
    ("SQLITE_IOERR", RecordBroken, "cannot be read or written"),
)

_BROKEN = ("OperationalError", "InterfaceError", "ConnectionTimeout")  # never had, or lost, a session
_PASSING = ("starting up", "shutting down", "recovery", "connection slots", "too many")  # refused now, not for good

# The same for PostgreSQL's SQLSTATE.
_SERVER_FAULTS: tuple[tuple[str, type[RecordFault], str], ...] = (
    ("55P03", RecordLocked, "is locked by another process"),
    ("40", RecordLocked, "was changed by another process at the same moment"),
    ("25P03", RecordLocked, "gave our transaction up because we were stopped in it"),
    ("53100", DiskFull, "cannot grow: the server's disk is full"),
    ("53", RecordGone, "has no room for another connection"),
    ("57P", RecordGone, "is stopping or starting"),
    ("08", RecordGone, "cannot be reached"),
    ("25006", RecordUnwritable, "is read-only"),
    ("42501", RecordUnwritable, "may not be written by this user"),
    ("28", RecordUnwritable, "refuses this user"),
    ("3D000", RecordMissing, "does not exist on the server"),
    ("58", RecordBroken, "cannot be read or written"),
    ("XX00", NotARecord, "is damaged"),
)


def server_state(error: Any) -> str:
    """Return a PostgreSQL driver error's SQLSTATE; of one that never got a session, what the words of it mean."""
    if error.sqlstate or type(error).__name__ not in _BROKEN:
        return error.sqlstate or ""
    words = str(error)
    if "no password supplied" in words:
        return "28"
    if "FATAL" not in words or any(passing in words for passing in _PASSING):
        return "08"
    return "3D000" if "database" in words and "does not exist" in words else "28"


def as_fault(error: BaseException, place: str) -> RecordFault | None:
    """Return the fault that a database *error* at *place* means, or None when it is a bug of ours."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    table, name = _FAULTS, getattr(origin, "sqlite_errorname", "")
    if hasattr(origin, "sqlstate"):
        table, name = _SERVER_FAULTS, server_state(origin)
    for prefix, fault, says in table:
        if name.startswith(prefix):
            why = str(origin).partition("\n")[0].rpartition("failed: ")[2] if name in ("08", "28") else name
            return fault(f"{place} {says} ({printable(why, 200)})")
    return None
