"""What hosts should run, and how those that were looked at differ from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import and_, delete, func, insert, select, update
from sqlalchemy.orm import Session

from fleet.record.access import Access
from fleet.record.rollout_queries import document_of
from fleet.record.rollout_tables import RolloutRow, StepRow
from fleet.record.store import SOMEBODY, add_audit
from fleet.record.tables import AssignmentRow, DriftRow
from fleet.record.views import Desired, Difference, DriftView

_CHUNK = 500  # names per statement; SQLite bounds the variables of one


class DriftStore(Access):
    """Reads and writes about desired state and drift."""

    def assigned_hosts(self) -> list[str]:
        """Return the names of hosts that should run something, sorted."""
        with self.reading() as session:
            return list(session.execute(select(AssignmentRow.host).distinct().order_by(AssignmentRow.host)).scalars())

    def touched_hosts(self) -> list[str]:
        """Return the names of hosts that any rollout ever touched, sorted: there something of ours may be left."""
        with self.reading() as session:
            statement = select(StepRow.host).where(StepRow.attempts > 0).distinct().order_by(StepRow.host)
            return list(session.execute(statement).scalars())

    def busy_hosts(self, ended: Sequence[str]) -> dict[str, str]:
        """Return the hosts of rollouts whose state is none of *ended*, with one such rollout each."""
        statement = (
            select(StepRow.host, func.max(StepRow.rollout_id))
            .join(RolloutRow, RolloutRow.id == StepRow.rollout_id)
            .where(RolloutRow.state.not_in(ended))
            .group_by(StepRow.host)
        )
        with self.reading() as session:
            return {row[0]: row[1] for row in session.execute(statement)}

    def desired(self, hosts: Sequence[str]) -> dict[str, list[Desired]]:
        """Return what each of *hosts* should run, with what was read back when it was attached."""
        found: dict[str, list[Desired]] = {host: [] for host in hosts}
        with self.reading() as session:
            for start in range(0, len(hosts), _CHUNK):
                statement = (
                    select(AssignmentRow, StepRow.kernel_id, StepRow.document)
                    .outerjoin(
                        StepRow,
                        and_(StepRow.rollout_id == AssignmentRow.rollout_id, StepRow.host == AssignmentRow.host),
                    )
                    .where(AssignmentRow.host.in_(hosts[start : start + _CHUNK]))
                    .order_by(AssignmentRow.host, AssignmentRow.program)
                )
                for row, kernel_id, document in session.execute(statement):
                    wanted = Desired(
                        row.host, row.program, row.variant, row.build, row.token, row.rollout_id, kernel_id or "",
                        document_of(document) or {},
                    )  # fmt: skip
                    found[row.host].append(wanted)
        return found

    def drift(self) -> list[DriftView]:
        """Return every recorded difference, by host, program and kind."""
        with self.reading() as session:
            rows = session.execute(select(DriftRow).order_by(DriftRow.host, DriftRow.program, DriftRow.kind)).scalars()
            return [
                DriftView(
                    Difference(r.host, r.program, r.kind, r.wanted, r.seen, r.detail), r.first_seen, r.last_seen
                )
                for r in rows
            ]  # fmt: skip

    def record_looks(self, looks: Mapping[str, Iterable[Difference]], *, actor: str = SOMEBODY) -> None:
        """Keep what each looked-at host differs in, in place of what it did; what came and what went is audited."""
        at = self.now()
        with self.writing() as session:
            for host, differences in looks.items():
                before = {(r.program, r.kind): r for r in _of(session, host)}
                now = {(d.program, d.kind): d for d in differences}
                for key in sorted(before.keys() - now.keys()):
                    session.execute(delete(DriftRow).where(*_is(host, *key)))
                    add_audit(
                        session, at, actor, "drift", host=host, program=key[0] or None, before=key[1], detail="gone"
                    )
                for key, found in sorted(now.items()):
                    values = {"wanted": found.wanted, "seen": found.seen, "detail": found.detail, "last_seen": at}
                    if key in before:
                        session.execute(update(DriftRow).where(*_is(host, *key)).values(**values))
                        continue
                    row = {"host": host, "program": key[0], "kind": key[1], "first_seen": at, **values}
                    session.execute(insert(DriftRow).values(**row))
                    add_audit(
                        session, at, actor, "drift", host=host, program=key[0] or None, after=key[1],
                        detail=f"wanted {found.wanted}, seen {found.seen}: {found.detail}",
                    )  # fmt: skip


def _of(session: Session, host: str) -> Iterable[DriftRow]:
    return session.execute(select(DriftRow).where(DriftRow.host == host)).scalars().all()


def _is(host: str, program: str, kind: str) -> tuple[Any, ...]:
    return DriftRow.host == host, DriftRow.program == program, DriftRow.kind == kind
