"""Files made for hosts, shared through the record by controllers that are on several machines."""

from __future__ import annotations

import zlib

from sqlalchemy import select

from fleet.record.access import Access, upsert
from fleet.record.tables import ArtefactRow


class ArtefactStore(Access):
    """Reads and writes shared artefacts; whoever gets one checks that it is what its digest says."""

    def share_artefact(self, digest: str, data: bytes) -> None:
        """Keep a file for every controller on this record; the same one again changes nothing."""
        with self.writing() as session:
            if session.execute(select(ArtefactRow.digest).where(ArtefactRow.digest == digest)).first() is None:
                row = upsert(session, ArtefactRow).values(digest=digest, data=zlib.compress(data))
                session.execute(row.on_conflict_do_nothing())

    def artefact(self, digest: str) -> bytes | None:
        """Return a shared file, or None when nobody shared it."""
        with self.reading() as session:
            row = session.get(ArtefactRow, digest)
            return None if row is None else zlib.decompress(row.data)
