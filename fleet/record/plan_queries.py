"""What a plan is made from, for a fleet of any size in a few statements: columns only, no facts are opened."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import and_, case, func, literal, select

from fleet.record.access import Access
from fleet.record.errors import NotInRecord
from fleet.record.rollout_tables import RolloutRow
from fleet.record.tables import AssignmentRow, ChoiceRow, HostRow, KernelRow, PlanRow
from inventory.host import Host

_TOLD = ("blocked", "refused", "unknown")  # verdicts whose summary a plan repeats


class PlanQueries(Access):
    """Reads for planning."""

    def candidates(self, program: str, *, host: str | None = None) -> list[tuple[Any, ...]]:
        """Return every host by name, or *host* alone, with what was decided for it.

        Rows: host, kernel id, variant or None, verdict or "", summary where the verdict needs one, digest of the facts
        it was decided from, whether those are the last scan's, why the last scan got no answer or "".
        """
        empty = literal("")
        statement = (
            select(
                HostRow.name,
                func.coalesce(ChoiceRow.kernel_id, empty),
                ChoiceRow.variant,
                func.coalesce(ChoiceRow.verdict, empty),
                case((ChoiceRow.verdict.in_(_TOLD), ChoiceRow.summary), else_=empty),
                func.coalesce(ChoiceRow.facts_digest, empty),
                case((HostRow.facts_digest != ChoiceRow.facts_digest, 0), else_=1),
                case((HostRow.reach_code.is_(None), empty), else_=HostRow.reach_code + ": " + HostRow.reach_detail),
            )
            .outerjoin(ChoiceRow, and_(ChoiceRow.host == HostRow.name, ChoiceRow.program == program))
            .order_by(HostRow.name)
        )
        if host is not None:
            statement = statement.where(HostRow.name == host)
        with self.reading() as session:
            return [tuple(row) for row in session.connection().execute(statement)]  # plain columns: no entities to load

    def releases(self) -> dict[str, str]:
        """Return the release of every kernel build, by its id."""
        with self.reading() as session:
            return {row[0]: row[1] for row in session.execute(select(KernelRow.id, KernelRow.release))}

    def running(self, program: str) -> list[tuple[str, str, str, str]]:
        """Return, for every host that should run *program*: its name, variant, build and the id of the plan."""
        statement = (
            select(AssignmentRow.host, AssignmentRow.variant, AssignmentRow.build, RolloutRow.plan_id)
            .outerjoin(RolloutRow, RolloutRow.id == AssignmentRow.rollout_id)
            .where(AssignmentRow.program == program)
        )
        with self.reading() as session:
            return [(host, variant, build, plan or "") for host, variant, build, plan in session.execute(statement)]

    def definition(self, host: str) -> Host | None:
        """Return how to reach one host, or None when the record does not know it."""
        with self.reading() as session:
            text = session.execute(select(HostRow.definition).where(HostRow.name == host)).scalar_one_or_none()
            return None if text is None else msgspec.json.decode(text, type=Host)

    def current(self) -> dict[str, tuple[str | None, str | None]]:
        """Return the kernel id and facts digest of every host's last good scan, by host."""
        with self.reading() as session:
            rows = session.execute(select(HostRow.name, HostRow.kernel_id, HostRow.facts_digest))
            return {name: (kernel_id, digest) for name, kernel_id, digest in rows}

    def plan_text(self, plan_id: str) -> bytes:
        """Return a saved plan as it is kept, or raise NotInRecord."""
        with self.reading() as session:
            text: str | None = session.execute(
                select(PlanRow.document).where(PlanRow.id == plan_id)
            ).scalar_one_or_none()
        if text is None:
            raise NotInRecord(f"no plan is called {plan_id!r}")
        return text.encode()
