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
├── NotInRecord        no host, plan or rollout of that name
└── ClaimRefused       another live controller drives this rollout
"""

from __future__ import annotations

from sqlite3 import Error as DriverError

from sqlalchemy.exc import DBAPIError

from btf.fault import EXIT_NO, EXIT_USAGE, Fault


class RecordFault(Fault):
    """The record cannot be used."""

    code = "COR-REC-000"
    remedy = "Check the path of the record (--home)."


class RecordLocked(RecordFault):
    """Another process holds the database."""

    code = "COR-REC-001"
    remedy = "Another corollout is writing: wait for it, or find it with `fuser` and end it. Nothing was lost."


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


def as_fault(error: DBAPIError | DriverError, place: str) -> RecordFault | None:
    """Return the fault that a database *error* at *place* means, or None when it is a bug of ours."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    name = getattr(origin, "sqlite_errorname", "")
    for prefix, fault, says in _FAULTS:
        if name.startswith(prefix):
            return fault(f"{place} {says} ({name})")
    return None
