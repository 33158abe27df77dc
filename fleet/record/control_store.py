"""Writes about who steers: what persons ask of a rollout, and the one controller that drives it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from btf.fault import printable
from fleet.record.access import Access, clock_of
from fleet.record.errors import ClaimRefused, NotInRecord
from fleet.record.rollout_tables import ControllerRow, RequestRow, RolloutRow
from fleet.record.store import add_audit


class ControlStore(Access):
    """Writes about requests and controllers."""

    def request(self, rollout_id: str, verb: str, actor: str, **arguments: Any) -> int:
        """Ask something of a rollout; whoever drives it takes the request. Returns its id."""
        at = self.now()
        with self.writing() as session:
            if session.get(RolloutRow, rollout_id) is None:
                raise NotInRecord(f"no rollout is called {rollout_id!r}")
            row = insert(RequestRow).values(
                rollout_id=rollout_id, verb=verb, actor=printable(actor, 200), at=at, arguments=json.dumps(arguments)
            )
            request_id = session.execute(row.returning(RequestRow.id)).scalar_one()
            add_audit(session, at, actor, f"ask-{verb}"[:32], rollout_id=rollout_id, detail=f"request {request_id}")
            return request_id

    def answer_request(self, request_id: int, outcome: str) -> None:
        """Mark a request as taken, with what came of it."""
        with self.writing() as session:
            session.execute(
                update(RequestRow)
                .where(RequestRow.id == request_id, RequestRow.taken_at.is_(None))
                .values(taken_at=self.now(), outcome=printable(outcome, 1000))
            )

    def claim_rollout(self, rollout_id: str, controller: str, *, alive: Callable[[str, float], bool]) -> int:
        """Become the one controller of a rollout, and return the new epoch.

        *alive(controller id, seconds since its last beat)* says whether another one still lives: then ClaimRefused.
        """
        at = self.now()
        with self.writing() as session:
            rollout = session.get(RolloutRow, rollout_id)
            if rollout is None:
                raise NotInRecord(f"no rollout is called {rollout_id!r}")
            heard = clock_of(session, self.now)
            held = session.execute(
                select(ControllerRow).where(ControllerRow.rollout_id == rollout_id)
            ).scalar_one_or_none()
            detail = ""
            if held is not None and held.id != controller:
                if alive(held.id, heard - held.beat_at):
                    ago = f"last heard {heard - held.beat_at:.0f} s ago"
                    raise ClaimRefused(f"{rollout_id} is driven by {held.id}, {ago}")
                detail = f"taken over from {held.id}"
            session.execute(delete(ControllerRow).where(ControllerRow.rollout_id == rollout_id))
            session.execute(
                insert(ControllerRow).values(id=controller, started_at=at, beat_at=heard, rollout_id=rollout_id)
            )
            rollout.epoch += 1
            add_audit(session, at, controller, "claim", rollout_id=rollout_id, program=rollout.program, detail=detail)
            return rollout.epoch

    def beat(self, rollout_id: str, controller: str) -> bool:
        """Say that this controller lives; False when another one has claimed its rollout."""
        with self.writing() as session:
            row = session.get(ControllerRow, controller)
            if row is None or row.rollout_id != rollout_id:
                return False
            row.beat_at = clock_of(session, self.now)
            return True

    def require_owner(self, rollout_id: str, controller: str) -> None:
        """Raise ClaimRefused unless *controller* still drives the rollout."""
        with self.writing() as session:
            check_owner(session, rollout_id, controller)

    def release_rollout(self, rollout_id: str, controller: str) -> None:
        """Stop being the controller; idempotent."""
        with self.writing() as session:
            session.execute(
                delete(ControllerRow).where(ControllerRow.id == controller, ControllerRow.rollout_id == rollout_id)
            )


def check_owner(session: Session, rollout_id: str, controller: str) -> None:
    """Raise ClaimRefused unless *controller* still drives the rollout, in the caller's transaction."""
    row = session.get(ControllerRow, controller)
    if row is None or row.rollout_id != rollout_id:
        raise ClaimRefused(f"{rollout_id} was taken over by another controller")
