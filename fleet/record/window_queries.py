"""Reads made for live screens: is anything new, and a rollout's hosts as a window by key. Frozen values out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import case, func, select
from sqlalchemy.orm import InstrumentedAttribute

from fleet.record.access import Access
from fleet.record.rollout_queries import step_view
from fleet.record.rollout_tables import SampleRow, StepRow
from fleet.record.rollout_views import StepView
from fleet.record.tables import AuditRow, ChoiceRow, HostRow, KernelRow
from fleet.record.views import HostBrief, Pulse
from inventory.host import Host

_CHUNK = 500

# What a window of steps may be sorted by: the word users type → the column.
STEP_SORTS: dict[str, InstrumentedAttribute[Any]] = {
    "host": StepRow.host,
    "wave": StepRow.wave,
    "variant": StepRow.variant,
    "state": StepRow.state,
    "detail": StepRow.detail,
    "kernel": StepRow.kernel_id,
}
# Where a person looks first, first.
_URGENCY = ("failed", "revert-failed", "unreachable", "applying", "reverting")


class WindowQueries(Access):
    """Reads for live screens."""

    def pulse(self) -> Pulse:
        """Return the newest of what screens show, by index look-ups; equal pulses mean there is nothing to read."""
        with self.reading() as session:
            return Pulse(
                event=session.execute(select(func.max(AuditRow.id))).scalar_one() or 0,
                sample=session.execute(select(func.max(SampleRow.id))).scalar_one() or 0,
                scan=session.execute(select(func.max(HostRow.scanned_at))).scalar_one() or 0.0,
            )

    def host_briefs(self) -> list[HostBrief]:
        """Return every host with what selectors mostly ask for, by name."""
        statement = (
            select(HostRow.definition, KernelRow.release, KernelRow.arch, HostRow.btf, HostRow.facts_digest)
            .outerjoin(KernelRow, KernelRow.id == HostRow.kernel_id)
            .order_by(HostRow.name)
        )
        decode = msgspec.json.Decoder(Host).decode
        with self.reading() as session:
            return [
                HostBrief(decode(text), release or "", arch or "", btf, digest)
                for text, release, arch, btf, digest in session.execute(statement)
            ]

    def programs(self) -> list[str]:
        """Return the programs that decisions name, by name."""
        with self.reading() as session:
            return list(session.execute(select(ChoiceRow.program).distinct().order_by(ChoiceRow.program)).scalars())

    def step_hosts(
        self,
        rollout_id: str,
        *,
        wave: int | None = None,
        states: Iterable[str] | None = None,
        sort: Sequence[str] = (),
    ) -> list[str]:
        """Return the hosts of a rollout's steps in order: by *sort* (words of ``STEP_SORTS``, "-" for descending), else
        the trouble first, then by wave and host."""
        statement = select(StepRow.host).where(StepRow.rollout_id == rollout_id)
        if wave is not None:
            statement = statement.where(StepRow.wave == wave)
        if states is not None:
            statement = statement.where(StepRow.state.in_(tuple(states)))
        for word in sort:
            column = STEP_SORTS[word.removeprefix("-")]
            statement = statement.order_by((column.desc() if word.startswith("-") else column.asc()).nulls_last())
        if not sort:
            rank = {state: n for n, state in enumerate(_URGENCY)}
            statement = statement.order_by(case(rank, value=StepRow.state, else_=len(rank)))
        with self.reading() as session:
            return list(session.execute(statement.order_by(StepRow.wave, StepRow.host)).scalars())

    def steps_named(self, rollout_id: str, hosts: Iterable[str]) -> list[StepView]:
        """Return the steps of these hosts, in the order of *hosts*; one that is gone is left out."""
        order = list(hosts)
        found: dict[str, StepView] = {}
        with self.reading() as session:
            for start in range(0, len(order), _CHUNK):
                names = order[start : start + _CHUNK]
                rows = session.execute(
                    select(StepRow).where(StepRow.rollout_id == rollout_id, StepRow.host.in_(names))
                ).scalars()
                found |= {row.host: step_view(row) for row in rows}
        return [found[name] for name in order if name in found]
