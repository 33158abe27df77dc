"""Many steps moved at once by what they have in common, and what a rollout is held to; each with its audit row."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from sqlalchemy import func, select, tuple_, update

from fleet.record.access import Access
from fleet.record.rollout_queries import step_view
from fleet.record.rollout_tables import RolloutRow, StepRow
from fleet.record.rollout_views import StepView
from fleet.record.store import SOMEBODY, add_audit

Stratum = tuple[str, str]  # kernel id, variant


class StepStore(Access):
    """Reads and writes about sets of steps."""

    def move_steps(
        self, rollout_id: str, states: Iterable[str], state: str, *, wave: int | None = None, since: int | None = None,
        hosts: Iterable[str] | None = None, kernels: Iterable[str] | None = None,
        strata: Iterable[Stratum] | None = None, outside: Iterable[Stratum] = (), touched: bool = False,
        forget: bool = False, detail: str | None = None, actor: str = SOMEBODY,
    ) -> int:  # fmt: skip
        """Move the steps that are in *states* to *state*, each with its audit row; returns how many.

        Narrowed to a *wave*, to waves *since* one, to *hosts*, *kernels* (ids), *strata* or those *outside* some, or to
        hosts that were *touched*. Tokens stay, unless *forget*: then the next touch is a new order.
        """
        where = [StepRow.rollout_id == rollout_id, StepRow.state.in_(tuple(states))]
        where += [StepRow.wave == wave] if wave is not None else []
        where += [StepRow.wave >= since] if since is not None else []
        where += [StepRow.host.in_(tuple(hosts))] if hosts is not None else []
        where += [StepRow.kernel_id.in_(tuple(kernels))] if kernels is not None else []
        where += [_among(strata)] if strata is not None else []
        where += [~_among(outside)] if (outside := tuple(outside)) else []
        where += [StepRow.attempts > 0] if touched else []
        change: dict[str, Any] = {"state": state, "detail": detail}
        if forget:
            change |= {"token": None, "revert_token": None}
        with self.writing() as session:
            names = sorted(
                session.execute(update(StepRow).where(*where).values(change).returning(StepRow.host)).scalars()
            )
            at = self.now()
            for host in names:
                add_audit(
                    session, at, actor, "step", rollout_id=rollout_id, host=host, after=state, detail=detail or ""
                )
            return len(names)

    def note_rollout(
        self, rollout_id: str, *, verb: str, actor: str = SOMEBODY, detail: str = "", **columns: Any
    ) -> None:
        """Change *columns* of a rollout that are not its state, with an audit row; ``held`` is a list of strata."""
        if "held" in columns:
            columns["held"] = json.dumps(sorted(list(s) for s in columns["held"]))
        with self.writing() as session:
            row = session.get_one(RolloutRow, rollout_id)
            for name, value in columns.items():
                setattr(row, name, value)
            add_audit(session, self.now(), actor, verb, rollout_id=rollout_id, program=row.program, detail=detail)

    def strata(self, rollout_id: str) -> dict[Stratum, Counter[str]]:
        """Return how many steps of each (kernel id, variant) are in which state."""
        found: dict[Stratum, Counter[str]] = defaultdict(Counter)
        statement = (
            select(StepRow.kernel_id, StepRow.variant, StepRow.state, func.count())
            .where(StepRow.rollout_id == rollout_id)
            .group_by(StepRow.kernel_id, StepRow.variant, StepRow.state)
        )
        with self.reading() as session:
            for kernel_id, variant, state, count in session.execute(statement):
                found[kernel_id, variant][state] = count
        return dict(found)

    def pending_reverts(self, rollout_id: str | None = None, *, host: str | None = None) -> list[StepView]:
        """Return the steps whose undoing waits for their host to be seen again, by rollout and host."""
        statement = (
            select(StepRow)
            .where(StepRow.state.in_(("revert-pending", "reverting")))
            .order_by(StepRow.rollout_id, StepRow.host)
        )
        if rollout_id is not None:
            statement = statement.where(StepRow.rollout_id == rollout_id)
        if host is not None:
            statement = statement.where(StepRow.host == host)
        with self.reading() as session:
            return [step_view(row) for row in session.execute(statement).scalars()]


def _among(strata: Iterable[Stratum]) -> Any:
    return tuple_(StepRow.kernel_id, StepRow.variant).in_([tuple(s) for s in strata])
