"""Writes about rollouts: states, steps with their fencing tokens, samples.

Every change of state commits together with its audit row. A step's token is on disk before its host is touched, and is
handed out again while the outcome of the touch is unknown, so that the host can tell a repetition from a new order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

from sqlalchemy import bindparam, case, insert, select
from sqlalchemy.orm import Session

from btf.fault import printable
from fleet.record.access import inserting
from fleet.record.control_store import check_owner
from fleet.record.errors import NotInRecord, StepMoved
from fleet.record.rollout_tables import CounterRow, RolloutRow, SampleRow, StepRow, WaveRow
from fleet.record.rollout_views import Claim, SampleView, StepOutcome
from fleet.record.store import SOMEBODY, HostStore, add_audit, add_audits, audit_row
from fleet.record.tables import AssignmentRow, PlanRow
from fleet.record.worker_store import check_claim, zones_of

_AT_ONCE = 500  # rows that one statement reads by name


# Made once: to make a statement costs several times what it costs to run it, and each host's steps run these.
_PROGRAM = select(RolloutRow.program).where(RolloutRow.id == bindparam("rollout"))
_OWNER = select(AssignmentRow.rollout_id).where(
    AssignmentRow.host == bindparam("host"), AssignmentRow.program == bindparam("program")
)
_STEPS = select(StepRow).where(
    StepRow.rollout_id == bindparam("rollout"), StepRow.host.in_(bindparam("hosts", expanding=True))
)


@cache
def _rising(insert_into: Callable[[Any], Any]) -> Any:
    above: Any = bindparam("above")
    next_one = CounterRow.value + 1
    row = insert_into(CounterRow.__table__).values(name=bindparam("counter"), value=bindparam("first"))
    higher = {"value": case((next_one > above, next_one), else_=above)}
    return row.on_conflict_do_update(index_elements=["name"], set_=higher).returning(CounterRow.value)


def _count(session: Session, name: str, floor: int = 0) -> int:
    """Return the next value of counter *name*, above *floor*; never one twice."""
    values = {"counter": name, "first": max(1, floor), "above": floor}
    return int(session.execute(_rising(inserting(session)), values).scalar_one())


def _owner(session: Session, host: str, program: str) -> str | None:
    """The rollout whose build *host* should be running."""
    return session.execute(_OWNER, {"host": host, "program": program}).scalar_one_or_none()


def _program(session: Session, rollout_id: str) -> str:
    return session.execute(_PROGRAM, {"rollout": rollout_id}).scalar_one()


class RolloutStore(HostStore):
    """Writes about rollouts."""

    def create_rollout(self, plan_id: str, actor: str) -> str:
        """Make a rollout of a saved plan, with its waves and steps; returns its id. Touches no host."""
        at = self.now()
        with self.writing() as session:
            plan = session.get(PlanRow, plan_id)
            if plan is None:
                raise NotInRecord(f"no plan is called {plan_id!r}")
            document = json.loads(plan.document)
            zones = zones_of(session)
            rollout_id = f"{plan.program[:28]}-{_count(session, 'rollout')}"
            session.execute(
                insert(RolloutRow).values(
                    id=rollout_id, plan_id=plan_id, program=plan.program, state="PLANNED", actor=actor, created_at=at,
                    wave=-1, epoch=0, leg=0,
                )
            )  # fmt: skip
            for wave in document["waves"]:
                number = wave["number"]
                session.execute(
                    insert(WaveRow).values(
                        rollout_id=rollout_id, number=number, name=wave["name"], state="pending",
                        bake_s=float(wave.get("bake_s", 0.0)), approval=bool(wave.get("approval", False)),
                    )
                )  # fmt: skip
                rows = [
                    {
                        "rollout_id": rollout_id, "host": h["host"], "wave": number, "variant": h["variant"],
                        "build": h["build"], "kernel_id": h["kernel_id"], "state": "pending", "attempts": 0,
                        "zone": zones.get(h["host"], ""),
                    }
                    for h in wave["hosts"]
                ]  # fmt: skip
                if rows:
                    session.execute(insert(StepRow), rows)
            add_audit(
                session, at, actor, "create", rollout_id=rollout_id, program=plan.program, after="PLANNED",
                detail=f"plan {plan_id}",
            )  # fmt: skip
        return rollout_id

    def set_rollout_state(
        self, rollout_id: str, state: str, *, actor: str = SOMEBODY, verb: str = "state", reason: str | None = None,
        **columns: Any,
    ) -> None:  # fmt: skip
        """Move a rollout to *state*, with its audit row; ``columns`` are further columns of ``RolloutRow``."""
        with self.writing() as session:
            row = session.get(RolloutRow, rollout_id)
            if row is None:
                raise NotInRecord(f"no rollout is called {rollout_id!r}")
            before, row.state, row.reason = row.state, state, reason
            for name, value in columns.items():
                setattr(row, name, value)
            add_audit(
                session, self.now(), actor, verb, rollout_id=rollout_id, program=row.program, before=before,
                after=state, detail=reason or "",
            )  # fmt: skip

    def set_leg(self, rollout_id: str, number: int) -> None:
        """Note which leg of a rollout is under way."""
        with self.writing() as session:
            session.get_one(RolloutRow, rollout_id).leg = number

    def set_wave(self, rollout_id: str, number: int, *, detail: str = "", **columns: Any) -> None:
        """Change a wave; a change of its ``state`` is audited. ``gate`` may be a mapping."""
        with self.writing() as session:
            row = session.get_one(WaveRow, (rollout_id, number))
            if isinstance(columns.get("gate"), Mapping):
                columns["gate"] = json.dumps(columns["gate"], sort_keys=True, default=str)
            before = row.state
            for name, value in columns.items():
                setattr(row, name, value)
            if row.state != before:
                add_audit(
                    session, self.now(), SOMEBODY, "wave", rollout_id=rollout_id, before=before, after=row.state,
                    detail=f"wave {number} ({row.name}) {detail}".strip(),
                )  # fmt: skip

    def begin_step(
        self, rollout_id: str, host: str, *, controller: str | None = None, claim: Claim | None = None,
        revert: bool = False, among: tuple[str, ...] | None = None,
    ) -> int:  # fmt: skip
        """Write that *host* is about to be touched, and return its fencing token.

        The token of an earlier beginning whose outcome is unknown is returned again. Refuses when another one has
        claimed the rollout (*controller*) or the slice (*claim*) meanwhile; and, with *among*, when the step is no
        longer in one of these states: whoever comes so late was given up.
        """
        at = self.now()
        kind, state, verb = ("revert_token", "reverting", "revert") if revert else ("token", "applying", "apply")
        with self.writing() as session:
            if controller is not None:
                check_owner(session, rollout_id, controller)
            check_claim(session, claim)
            row = session.get_one(StepRow, (rollout_id, host))
            if among is not None and row.state not in among:
                raise StepMoved(f"{host}: its step is {row.state} by now")
            program = _program(session, rollout_id)
            before, token = row.state, getattr(row, kind)
            again = token is not None
            if not again:
                # Above the clock, so that a record made anew still hands out tokens that hosts accept.
                token = _count(session, "token", floor=int(at))
                setattr(row, kind, token)
            row.state = state
            if not revert:
                row.attempts += 1
                row.started_at = row.started_at or at
                owner = _owner(session, host, program)
                if not again and owner != rollout_id:  # tried once more, what it replaced at first is still known
                    row.previous = owner
            add_audit(
                session, at, SOMEBODY, f"{verb}-again" if again else verb, rollout_id=rollout_id, host=host,
                program=program, before=before, after=state, token=token,
            )  # fmt: skip
            return int(token)

    def finish_steps(
        self, rollout_id: str, outcomes: Iterable[StepOutcome], *, controller: str | None = None,
        claim: Claim | None = None,
    ) -> None:  # fmt: skip
        """Write where steps got to, in one transaction; a step that is there already is left alone.

        Refuses when the rollout belongs to another *controller* by now, or the slice of *claim* to another worker:
        what they know is newer.

        ``attached`` makes the assignment (desired state), ``reverted`` restores the one before or ends it.
        """
        at = self.now()
        outcomes = tuple(outcomes)
        with self.writing() as session, session.no_autoflush:  # what changed is written at once, at the end
            if controller is not None:
                check_owner(session, rollout_id, controller)
            check_claim(session, claim)
            program = _program(session, rollout_id)
            names = tuple({outcome.host for outcome in outcomes[:_AT_ONCE]})
            rows = session.execute(_STEPS, {"rollout": rollout_id, "hosts": names}).scalars()
            found = {row.host: row for row in rows}
            told = []
            for outcome in outcomes:
                row = found.get(outcome.host) or session.get_one(StepRow, (rollout_id, outcome.host))
                if row.state != outcome.state and (event := self._finish(session, row, program, outcome, at)):
                    told.append(event)
            add_audits(session, told)

    def finish_step(self, rollout_id: str, host: str, state: str, *, claim: Claim | None = None, **fields: Any) -> None:
        """Write where one step got to; *fields* are those of ``StepOutcome``."""
        self.finish_steps(rollout_id, [StepOutcome(host, state, **fields)], claim=claim)

    def _finish(
        self, session: Session, row: StepRow, program: str, outcome: StepOutcome, at: float
    ) -> dict[str, Any] | None:
        """Change one step; return its audit row."""
        if outcome.state == "attached" and row.state != "applying":
            return None  # a touch that was given up on answers late: what was decided since stands
        before, row.state = row.state, outcome.state
        row.detail = printable(outcome.detail, 1000) if outcome.detail else None
        if outcome.document is not None:
            row.document = json.dumps(outcome.document)[:65536]
        row.ended_at = at
        if row.state == "attached":
            self.assign(
                session, row.host, program, variant=row.variant, build=row.build, token=row.token,
                rollout_id=row.rollout_id, since=at,
            )  # fmt: skip
        if row.state == "reverted":
            self._restore(session, row, program, at)
        kind = "revert_token" if row.state.startswith("revert") else "token"
        token = getattr(row, kind)
        if outcome.forget_token:
            setattr(row, kind, None)
        return audit_row(
            at, SOMEBODY, "step", rollout_id=row.rollout_id, host=row.host, program=program, before=before,
            after=row.state, token=token, detail=outcome.detail or "",
        )  # fmt: skip

    def _restore(self, session: Session, row: StepRow, program: str, at: float) -> None:
        if _owner(session, row.host, program) not in (None, row.rollout_id, row.previous):
            return  # a later rollout took its place
        earlier = session.get(StepRow, (row.previous, row.host)) if row.previous else None
        if earlier is None:
            self.unassign(session, row.host, program)
        else:
            self.assign(
                session, row.host, program, variant=earlier.variant, build=earlier.build, token=row.revert_token,
                rollout_id=earlier.rollout_id, since=at,
            )  # fmt: skip

    def record_samples(self, samples: Iterable[SampleView]) -> None:
        """Keep measurements, in one transaction."""
        rows = []
        for sample in samples:
            row = asdict(sample)
            del row["id"]
            rows.append(row | {"document": json.dumps(row["document"])[:65536]})
        if rows:
            with self.writing() as session:
                session.execute(insert(SampleRow), rows)
