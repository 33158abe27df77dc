"""The record: what is known, decided and done, in one SQLite file. The only room that knows SQL."""

from fleet.record.database import Record, open_record

__all__ = ["Record", "open_record"]
