"""Reads about rollouts, steps, samples, requests and the audit; frozen values out, never a row."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fleet.record.access import Access
from fleet.record.errors import NotInRecord
from fleet.record.rollout_tables import ControllerRow, RequestRow, RolloutRow, SampleRow, StepRow, WaveRow
from fleet.record.rollout_views import Rejection, RequestView, RolloutView, SampleView, StepView, WaveView
from fleet.record.tables import AuditRow
from fleet.record.views import EventView


class RolloutQueries(Access):
    """Reads about rollouts."""

    def rollouts(self, *, states: Iterable[str] | None = None) -> list[RolloutView]:
        """Return rollouts with their waves, newest first; only those in *states* when given."""
        statement = select(RolloutRow).order_by(RolloutRow.created_at.desc(), RolloutRow.id)
        if states is not None:
            statement = statement.where(RolloutRow.state.in_(tuple(states)))
        with self.reading() as session:
            rows = session.execute(statement).scalars().all()
            return [_rollout(session, row) for row in rows]

    def rollout(self, rollout_id: str) -> RolloutView:
        """Return one rollout with its waves and their counts, or raise NotInRecord."""
        with self.reading() as session:
            row = session.get(RolloutRow, rollout_id)
            if row is None:
                raise NotInRecord(f"no rollout is called {rollout_id!r}")
            return _rollout(session, row)

    def steps(
        self, rollout_id: str, *, wave: int | None = None, states: Iterable[str] | None = None,
        zone: str | None = None, hosts: Iterable[str] | None = None, offset: int = 0, limit: int | None = None,
    ) -> list[StepView]:  # fmt: skip
        """Return a rollout's steps by wave and host; one window of them with *offset* and *limit*."""
        statement = select(StepRow).where(StepRow.rollout_id == rollout_id).order_by(StepRow.wave, StepRow.host)
        if wave is not None:
            statement = statement.where(StepRow.wave == wave)
        if states is not None:
            statement = statement.where(StepRow.state.in_(tuple(states)))
        if zone is not None:
            statement = statement.where(StepRow.zone == zone)
        if hosts is not None:
            statement = statement.where(StepRow.host.in_(tuple(hosts)))
        with self.reading() as session:
            return [step_view(row) for row in session.execute(statement.offset(offset).limit(limit)).scalars()]

    def step(self, rollout_id: str, host: str) -> StepView:
        """Return one host's step, or raise NotInRecord."""
        with self.reading() as session:
            row = session.get(StepRow, (rollout_id, host))
            if row is None:
                raise NotInRecord(f"{rollout_id} has no step on {host!r}")
            return step_view(row)

    def rejections(self) -> list[Rejection]:
        """Return every build that a host's verifier rejected, with its own words, by host and rollout.

        A rejection is the agent's COR-AGT-007 at stage ``load`` with the verifier's own words; a denial has none.
        """
        failed = (
            select(StepRow, RolloutRow.program)
            .join(RolloutRow, RolloutRow.id == StepRow.rollout_id)
            .where(StepRow.state == "failed", StepRow.document.is_not(None))
            .order_by(StepRow.host, StepRow.rollout_id)
        )
        with self.reading() as session:
            rows = [(row, program, document_of(row.document) or {}) for row, program in session.execute(failed)]
            return [
                Rejection(program, row.variant, row.build, row.kernel_id, row.host, row.rollout_id, said)
                for row, program, said in rows
                if said.get("code") == "COR-AGT-007" and said.get("stage") == "load" and said.get("log")
            ]

    def quarantined(self) -> frozenset[tuple[str, str]]:
        """Return (build digest, kernel id) of every rejection: never a reason to fall back silently."""
        return frozenset((rejection.build, rejection.kernel_id) for rejection in self.rejections())

    def samples(
        self, rollout_id: str | None = None, *, host: str | None = None, program: str | None = None,
        wave: int | None = None, since: float | None = None, limit: int = 1000,
    ) -> list[SampleView]:  # fmt: skip
        """Return the newest *limit* samples that match, oldest of them first."""
        statement = select(SampleRow).order_by(SampleRow.id.desc()).limit(limit)
        exact = (
            (SampleRow.rollout_id, rollout_id),
            (SampleRow.host, host),
            (SampleRow.program, program),
            (SampleRow.wave, wave),
        )
        for column, value in exact:
            if value is not None:
                statement = statement.where(column == value)
        if since is not None:
            statement = statement.where(SampleRow.at >= since)
        with self.reading() as session:
            return [sample_view(row) for row in reversed(session.execute(statement).scalars().all())]

    def sample_counts(self, rollout_id: str, wave: int, *, since: float) -> dict[str, dict[str, int]]:
        """Return how many samples each host of a wave gave since then, by host and outcome."""
        statement = (
            select(SampleRow.host, SampleRow.outcome, func.count())
            .where(SampleRow.rollout_id == rollout_id, SampleRow.wave == wave, SampleRow.at >= since)
            .group_by(SampleRow.host, SampleRow.outcome)
        )
        counts: dict[str, dict[str, int]] = defaultdict(dict)
        with self.reading() as session:
            for host, outcome, count in session.execute(statement):
                counts[host][outcome] = count
        return dict(counts)

    def requests(self, rollout_id: str, *, waiting: bool = False) -> list[RequestView]:
        """Return what was asked of a rollout, oldest first; *waiting*: only what nobody took yet."""
        statement = select(RequestRow).where(RequestRow.rollout_id == rollout_id).order_by(RequestRow.id)
        if waiting:
            statement = statement.where(RequestRow.taken_at.is_(None))
        with self.reading() as session:
            return [
                RequestView(r.id, r.rollout_id, r.verb, json.loads(r.arguments), r.actor, r.at, r.taken_at, r.outcome)
                for r in session.execute(statement).scalars()
            ]

    def events(
        self, after_id: int = 0, limit: int = 200, *, rollout_id: str | None = None, host: str | None = None
    ) -> list[EventView]:
        """Return the first *limit* audit rows after *after_id*, oldest first: the feed that live screens follow."""
        statement = select(AuditRow).where(AuditRow.id > after_id).order_by(AuditRow.id).limit(limit)
        return self._events(statement, rollout_id, host)

    def last_event_id(self) -> int:
        """Return the id of the newest audit row, 0 when there is none."""
        with self.reading() as session:
            return session.execute(select(func.max(AuditRow.id))).scalar_one() or 0

    def _events(self, statement: Any, rollout_id: str | None, host: str | None) -> list[EventView]:
        if rollout_id is not None:
            statement = statement.where(AuditRow.rollout_id == rollout_id)
        if host is not None:
            statement = statement.where(AuditRow.host == host)
        with self.reading() as session:
            return [_event(row) for row in session.execute(statement).scalars()]


def _rollout(session: Session, row: RolloutRow) -> RolloutView:
    counts: dict[int, dict[str, int]] = defaultdict(dict)
    grouped = (
        select(StepRow.wave, StepRow.state, func.count())
        .where(StepRow.rollout_id == row.id)
        .group_by(StepRow.wave, StepRow.state)
        .order_by(StepRow.wave, StepRow.state)
    )
    for wave, state, count in session.execute(grouped):
        counts[wave][state] = count
    waves = session.execute(select(WaveRow).where(WaveRow.rollout_id == row.id).order_by(WaveRow.number)).scalars()
    held = session.execute(select(ControllerRow).where(ControllerRow.rollout_id == row.id)).scalar_one_or_none()
    return RolloutView(
        id=row.id, plan_id=row.plan_id, program=row.program, state=row.state, reason=row.reason, wave=row.wave,
        leg=row.leg, epoch=row.epoch, actor=row.actor, created_at=row.created_at, ended_at=row.ended_at,
        controller=held.id if held else None, beat_at=held.beat_at if held else None,
        approved_by=row.approved_by, pace=row.pace, duty=row.duty,
        held=tuple((kernel_id, variant) for kernel_id, variant in json.loads(row.held)),
        waves=tuple(
            WaveView(
                number=w.number, name=w.name, state=w.state, phase=w.phase, bake_s=w.bake_s,
                baking_since=w.baking_since, started_at=w.started_at, ended_at=w.ended_at,
                gate=json.loads(w.gate) if w.gate else None, steps=counts[w.number], approval=w.approval,
            )
            for w in waves
        ),
    )  # fmt: skip


def step_view(row: StepRow) -> StepView:
    """Return the value that a step's row stands for."""
    return StepView(
        rollout_id=row.rollout_id, host=row.host, wave=row.wave, variant=row.variant, build=row.build,
        kernel_id=row.kernel_id, state=row.state, attempts=row.attempts, token=row.token,
        revert_token=row.revert_token, previous=row.previous, detail=row.detail,
        document=document_of(row.document), started_at=row.started_at, ended_at=row.ended_at,
        zone=row.zone,
    )  # fmt: skip


def sample_view(row: SampleRow) -> SampleView:
    """Return the value that a sample's row stands for."""
    return SampleView(
        host=row.host, program=row.program, rollout_id=row.rollout_id, wave=row.wave, at=row.at, outcome=row.outcome,
        window_s=row.window_s, cpu_percent=row.cpu_percent, ns_per_event=row.ns_per_event, events=row.events,
        memory_bytes=row.memory_bytes, lost=row.lost, loss_percent=row.loss_percent, tripped=row.tripped,
        document=document_of(row.document) or {}, id=row.id,
    )  # fmt: skip


def _event(row: AuditRow) -> EventView:
    return EventView(
        id=row.id, at=row.at, actor=row.actor, verb=row.verb, rollout_id=row.rollout_id, host=row.host,
        program=row.program, before=row.before, after=row.after, token=row.token, detail=row.detail,
    )  # fmt: skip


def document_of(text: str | None) -> dict[str, Any] | None:
    """Return a kept document; one that was cut at the size limit is no longer JSON and is not shown."""
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
