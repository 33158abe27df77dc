"""Who carries what: workers with their heartbeats, and the slices of waves that each of them owns.

A slice's epoch rises whenever it gets or loses its owner. Every write about its hosts checks owner and epoch in its own
transaction, so a worker that was taken for dead and comes back can write nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence

import msgspec
from sqlalchemy import bindparam, delete, func, insert, or_, select, update
from sqlalchemy.orm import Session

from fleet.record.access import Access, clock_of, upsert
from fleet.record.control_store import check_owner
from fleet.record.errors import SliceTaken
from fleet.record.rollout_tables import ControllerRow, RequestRow, RolloutRow, SliceRow, StepRow, WorkerRow
from fleet.record.rollout_views import Claim, WorkerView
from fleet.record.store import add_audit
from fleet.record.tables import HostRow
from inventory.host import Host, zone_of

GONE = 0.0  # the beat of a worker that is being taken over
_HOLDER = select(SliceRow.owner, SliceRow.epoch).where(SliceRow.id == bindparam("slice"))


class WorkerStore(Access):
    """Reads and writes about workers and slices."""

    def join_workers(self, worker: str, zones: Sequence[str]) -> None:
        """Begin to live as a worker that listens to the queues of *zones*."""
        with self.writing() as session:
            now = clock_of(session, self.now)
            session.execute(
                insert(WorkerRow).values(id=worker, zones=json.dumps(sorted(zones)), started_at=now, beat_at=now)
            )

    def beat_worker(self, worker: str) -> bool:
        """Say that this worker lives; False when it was taken for dead, and its slices were taken over."""
        with self.writing() as session:
            alive = (
                update(WorkerRow)
                .where(WorkerRow.id == worker, WorkerRow.beat_at != GONE)
                .values(beat_at=clock_of(session, self.now))
            )
            return session.execute(alive.returning(WorkerRow.id)).first() is not None

    def leave_workers(self, worker: str) -> None:
        """Stop being a worker; idempotent. What it still owned may be taken by any other."""
        with self.writing() as session:
            _disown(session, [worker])
            session.execute(delete(WorkerRow).where(WorkerRow.id == worker))

    def workers(self) -> list[WorkerView]:
        """Return every worker that has not left, by id; whether it still lives is for the reader to judge."""
        with self.reading() as session:
            now = clock_of(session, self.now)
            rows = session.execute(select(WorkerRow).order_by(WorkerRow.id)).scalars()
            return [
                WorkerView(row.id, tuple(json.loads(row.zones)), row.started_at, row.beat_at, now - row.beat_at)
                for row in rows
            ]

    def fence_worker(self, worker: str, taker: str, *, alive: Callable[[str, float], bool]) -> bool:
        """Take a dead worker's rights away: raise the epoch of all it owns. False when it lives, or has left.

        Its row stays, marked, until ``bury_worker``: who dies in between leaves it to the next one.
        """
        with self.writing() as session:
            row = session.get(WorkerRow, worker)
            if row is None:
                return False
            now = clock_of(session, self.now)
            if row.beat_at != GONE:
                if alive(worker, now - row.beat_at):
                    return False
                slices = _disown(session, [worker])
                detail = f"{worker} was silent for {now - row.beat_at:.0f} s; slices: {', '.join(slices) or 'none'}"
                add_audit(session, self.now(), taker, "takeover", detail=detail)
                row.beat_at = GONE
            return True

    def bury_worker(self, worker: str) -> None:
        """Forget a worker whose slices are on their way to another one; idempotent."""
        with self.writing() as session:
            session.execute(delete(WorkerRow).where(WorkerRow.id == worker, WorkerRow.beat_at == GONE))

    def take_slice(self, slice_id: str, rollout_id: str, wave: int, phase: str, zone: str, worker: str) -> Claim:
        """Become the owner of a slice; whoever had it before writes nothing more about its hosts."""
        with self.writing() as session:
            row = upsert(session, SliceRow).values(
                id=slice_id, rollout_id=rollout_id, wave=wave, phase=phase, zone=zone, owner=worker, epoch=1
            )
            taken = row.on_conflict_do_update(
                index_elements=["id"], set_={"owner": worker, "epoch": SliceRow.epoch + 1}
            ).returning(SliceRow.epoch)
            return Claim(slice_id, worker, int(session.execute(taken).scalar_one()))

    def give_back(self, claim: Claim) -> None:
        """Stop owning a slice that is done; idempotent."""
        with self.writing() as session:
            session.execute(
                update(SliceRow)
                .where(SliceRow.id == claim.slice_id, SliceRow.owner == claim.worker, SliceRow.epoch == claim.epoch)
                .values(owner=None)
            )

    def recall_slices(
        self, rollout_id: str, slices: Iterable[str] | None = None, *, controller: str | None = None
    ) -> list[str]:
        """Take a rollout's slices (or only these) from whoever owns them; returns their ids.

        With *controller*, refuses when another one has claimed the rollout meanwhile.
        """
        held = select(SliceRow.id).where(SliceRow.rollout_id == rollout_id, SliceRow.owner.is_not(None))
        if slices is not None:
            held = held.where(SliceRow.id.in_(tuple(slices)))
        with self.writing() as session:
            if controller is not None:
                check_owner(session, rollout_id, controller)
            found = sorted(session.execute(held).scalars())
            if found:
                session.execute(
                    update(SliceRow).where(SliceRow.id.in_(found)).values(owner=None, epoch=SliceRow.epoch + 1)
                )
            return found

    def holds(self, claim: Claim) -> bool:
        """Whether a claim is still worth something."""
        with self.reading() as session:
            return _held(session, claim)

    def zones(self, rollout_id: str, wave: int) -> list[str]:
        """Return the zones in which a wave has hosts, sorted."""
        statement = select(StepRow.zone).where(StepRow.rollout_id == rollout_id, StepRow.wave == wave).distinct()
        with self.reading() as session:
            return sorted(session.execute(statement).scalars())

    def to_lead(self, states: Iterable[str]) -> list[tuple[str, str | None, float]]:
        """Return rollouts in *states*, with a duty, or that were asked something.

        Of each its id, its controller, and for how long that is silent.
        """
        asked = select(RequestRow.rollout_id).where(RequestRow.taken_at.is_(None))
        statement = (
            select(RolloutRow.id, ControllerRow.id, ControllerRow.beat_at)
            .outerjoin(ControllerRow, ControllerRow.rollout_id == RolloutRow.id)
            .where(
                or_(
                    RolloutRow.state.in_(tuple(states)),
                    RolloutRow.duty.is_not(None),
                    RolloutRow.id.in_(asked),
                )
            )
            .order_by(RolloutRow.created_at, RolloutRow.id)
        )
        with self.reading() as session:
            now = clock_of(session, self.now)
            return [(i, held, now - (beat or now)) for i, held, beat in session.execute(statement)]

    def steps_in(self, rollout_id: str, wave: int, state: str) -> int:
        """Return how many steps of a wave are in *state*, in whatever zone."""
        statement = select(func.count()).where(
            StepRow.rollout_id == rollout_id, StepRow.wave == wave, StepRow.state == state
        )
        with self.reading() as session:
            return int(session.execute(statement).scalar_one())

    def rollout_zones(self, rollout_id: str) -> list[str]:
        """Return the zones in which a rollout has hosts, sorted."""
        with self.reading() as session:
            return sorted(
                session.execute(select(StepRow.zone).where(StepRow.rollout_id == rollout_id).distinct()).scalars()
            )


def check_claim(session: Session, claim: Claim | None) -> None:
    """Raise SliceTaken unless *claim* still stands, in the caller's transaction; none is no claim to check."""
    if claim is not None and not _held(session, claim):
        raise SliceTaken(f"{claim.slice_id} was taken over from {claim.worker}")


def zones_of(session: Session) -> dict[str, str]:
    """Return every host's zone, by name."""
    decode = msgspec.json.Decoder(Host).decode
    hosts = map(decode, session.execute(select(HostRow.definition)).scalars())
    return {host.name: zone_of(host) for host in hosts}


def _held(session: Session, claim: Claim) -> bool:
    row = session.execute(_HOLDER, {"slice": claim.slice_id}).one_or_none()
    return row is not None and (row.owner, row.epoch) == (claim.worker, claim.epoch)


def _disown(session: Session, workers: Sequence[str]) -> list[str]:
    """Raise the epoch of all that these workers own; returns the slices."""
    lost = update(SliceRow).where(SliceRow.owner.in_(workers)).values(owner=None, epoch=SliceRow.epoch + 1)
    return sorted(session.execute(lost.returning(SliceRow.id)).scalars())
