"""Pins: hosts that persons hold to what they run, or to one variant."""

from __future__ import annotations

from sqlalchemy import bindparam, delete, select

from btf.fault import printable
from fleet.record.access import Access, upsert
from fleet.record.errors import NotInRecord
from fleet.record.store import add_audit
from fleet.record.tables import ChoiceRow, HostRow, PinRow
from fleet.record.views import DecidedView, PinView

_PIN = select(PinRow).where(PinRow.host == bindparam("host"), PinRow.program == bindparam("program"))
_CHOSEN = select(ChoiceRow.variant).where(
    ChoiceRow.host == bindparam("host"), ChoiceRow.program == bindparam("program")
)


class PinStore(Access):
    """Reads and writes about pins."""

    def pin(self, host: str, program: str, *, variant: str | None, reason: str, actor: str) -> None:
        """Hold *host* to what it runs of *program*, or to *variant*; takes the place of an earlier pin."""
        at = self.now()
        values = {"variant": variant, "reason": printable(reason, 400), "actor": printable(actor, 200), "at": at}
        with self.writing() as session:
            if session.get(HostRow, host) is None:
                raise NotInRecord(f"no host is called {host!r}")
            row = upsert(session, PinRow).values(host=host, program=program, **values)
            session.execute(row.on_conflict_do_update(index_elements=["host", "program"], set_=values))
            detail = f"{reason or 'no reason given'}"
            add_audit(session, at, actor, "pin", host=host, program=program, after=variant or "as it is", detail=detail)

    def unpin(self, host: str, program: str, *, actor: str) -> None:
        """End a pin, or raise NotInRecord."""
        with self.writing() as session:
            gone = delete(PinRow).where(PinRow.host == host, PinRow.program == program).returning(PinRow.host)
            if session.execute(gone).first() is None:
                raise NotInRecord(f"{host!r} is not pinned for {program!r}", remedy="`corollout pins` lists them.")
            add_audit(session, self.now(), actor, "unpin", host=host, program=program)

    def decided(self, host: str, program: str) -> DecidedView:
        """Return what holds for *program* on *host* now."""
        which = {"host": host, "program": program}
        with self.reading() as session:
            pin = session.execute(_PIN, which).scalar_one_or_none()
            chosen = session.execute(_CHOSEN, which).one_or_none()
            return DecidedView(_view(pin) if pin else None, chosen is not None, chosen.variant if chosen else None)

    def pins(self, program: str | None = None) -> list[PinView]:
        """Return pins by program and host."""
        statement = select(PinRow).order_by(PinRow.program, PinRow.host)
        if program is not None:
            statement = statement.where(PinRow.program == program)
        with self.reading() as session:
            return [_view(row) for row in session.execute(statement).scalars()]


def _view(row: PinRow) -> PinView:
    return PinView(row.host, row.program, row.variant, row.reason, row.actor, row.at)
