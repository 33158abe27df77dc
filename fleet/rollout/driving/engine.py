"""A process that carries rollouts: one in the foreground (``run_rollout``), or whatever comes (``worker``).

Whoever claimed a rollout leads it: decides, and fans each phase out into slices, one for each zone. A slice is carried
by whoever serves its zone, which may be the same process. How both survive is ``legs``; who lives is ``presence``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from btf.fault import Fault
from fleet.record import Record, open_record
from fleet.record.errors import ClaimRefused, SliceTaken
from fleet.record.views import EventView
from fleet.rollout.driving.bell import Looks
from fleet.rollout.driving.carrier import Interrupted, ProtocolDiffers
from fleet.rollout.driving.controller import SILENT_S, alive, claimed, new_id
from fleet.rollout.driving.legs import NOTED_S, UNDER_WAY, Legs
from fleet.rollout.driving.presence import Presence, Stop
from fleet.rollout.execute import ExecutorFactory
from fleet.rollout.hosts.clock import Clock, SystemClock
from fleet.rollout.hosts.join import RolloutSpecs
from fleet.rollout.hosts.work import Work
from fleet.rollout.machine.journal import Document
from fleet.rollout.machine.slices import patiently, perform
from fleet.rollout.planning.plan import read_plan
from fleet.rollout.states import ROLLING_BACK, exit_of

__all__ = ["Engine", "Interrupted", "ProtocolDiffers", "exit_of", "run_rollout"]

_WATCH_S = 0.5  # how often events are told
_ASK_S = 5.0  # how often a leg that did not ring is asked how it is: somebody else cancelled it
_END_S = 30.0  # how long slices that were told to stop are waited for
_KEPT = 8  # works of rollouts that others lead

_one_at_a_time = threading.Lock()  # DBOS is one per process


class Engine:
    """This process, carrying slices of *zones* and leading the rollouts that it claims."""

    def __init__(
        self, record: Record, log: Path, zones: Sequence[str], connect: Callable[[str], ExecutorFactory], *,
        clock: Clock, stop: threading.Event, takeover_s: float = SILENT_S,
    ) -> None:  # fmt: skip
        self.record = record
        self.id = new_id()
        self._clock = clock
        self._stop = stop
        self._connect = connect  # how the hosts of a rollout are reached
        self._leading: dict[str, Work] = {}
        self._known: dict[str, Work] = {}
        self._failures: dict[str, BaseException] = {}
        self._carrying = 0
        self._served: tuple[float, set[str]] = (float("-inf"), set())
        self.presence = Presence(record, self.id, zones, self._bring_back, takeover_s=takeover_s)
        self._legs = Legs(record, log, self.id, zones, self)

    # What legs and slices ask of the process they run in

    def leader(self, rollout_id: str) -> Work:
        """Return the work of a rollout that is led here."""
        try:
            return self._leading[rollout_id]
        except KeyError:
            raise Interrupted(f"this process does not drive {rollout_id}") from None

    def carry(self, slice_id: str, rollout_id: str, wave: int, phase: str, zone: str) -> Document:
        """Do a slice, and say what came of it; a fault of the record is told, one of a host is the host's."""
        base = self._leading.get(rollout_id) or self._work(rollout_id)
        stop = Stop(base.stop, self._stop, self.presence.lost)
        self._carrying += 1
        try:
            claim = patiently(base, lambda: self.record.take_slice(slice_id, rollout_id, wave, phase, zone, self.id))
            work = replace(base, zone=zone, claim=claim, stop=stop)
            with self.presence.holding(claim, stop):
                return patiently(work, lambda: perform(work, phase, wave))
        except SliceTaken:
            raise
        except Exception as error:
            self.failed(rollout_id, error)
            return {"cut": "stopped", "fault": str(error) if isinstance(error, Fault) else repr(error)}
        finally:
            self._carrying -= 1

    def alone(self, zone: str) -> bool:
        """Whether this process serves *zone* and nobody else does; looked up anew every second."""
        if zone not in self.presence.zones:
            return False
        now = time.monotonic()
        if now - self._served[0] > 1.0:
            self._served = now, self.presence.served()
        return zone not in self._served[1]

    def unserved(self, zone: str) -> bool:
        """Whether nobody serves *zone* now."""
        return zone not in self.presence.zones and zone not in self.presence.served()

    def failed(self, rollout_id: str, error: BaseException) -> None:
        """Keep the first thing that went wrong in a leg."""
        if rollout_id in self._leading:
            self._failures.setdefault(rollout_id, error)

    def _bring_back(self, dead: str) -> None:
        self._legs.bring_back(dead)

    def _work(self, rollout_id: str) -> Work:
        """Return the work of a rollout that another process leads."""
        if rollout_id not in self._known:
            if len(self._known) >= _KEPT:
                del self._known[next(iter(self._known))]
            self._known[rollout_id] = self._made(rollout_id, self.id, self._stop, hold=False)
        return self._known[rollout_id]

    def _made(self, rollout_id: str, controller: str, stop: threading.Event, *, hold: bool) -> Work:
        plan = read_plan(self.record.plan_text(self.record.rollout(rollout_id).plan_id))
        return Work(
            record=self.record, rollout_id=rollout_id, plan=plan, hosts=self.record.definitions(),
            connect=self._connect(rollout_id), clock=self._clock, controller=controller, stop=stop, hold=hold,
            specs=RolloutSpecs(self.record, rollout_id, plan),
        )  # fmt: skip

    def lead(
        self,
        rollout_id: str,
        *,
        on_event: Callable[[EventView], None] = lambda _: None,
        hold: bool = False,
        adopt: bool = False,
        stop: threading.Event | None = None,
    ) -> str:
        """Claim a rollout and drive it until it ends or waits for a person; returns its state."""
        lost = threading.Event()
        ended = Stop(stop or self._stop, self._stop, lost, self.presence.lost)
        controller = new_id()
        seen = self.record.last_event_id()
        with claimed(self.record, rollout_id, controller, lost, silent_s=self.presence.takeover_s):
            work = self._made(rollout_id, controller, ended, hold=hold)
            self._leading[rollout_id] = work
            try:
                while True:
                    seen = self._follow(work, lost, on_event, seen, adopt=adopt)
                    view = self.record.rollout(rollout_id)
                    again = view.state == ROLLING_BACK or self.record.requests(rollout_id, waiting=True)
                    if not again or work.stop.is_set():
                        return view.state
            finally:
                del self._leading[rollout_id]
                self._failures.pop(rollout_id, None)

    def _follow(
        self, work: Work, lost: threading.Event, on_event: Callable[[EventView], None], seen: int, *, adopt: bool
    ) -> int:
        """Tell what happens until the leg ends; Ctrl-C asks it to end. Returns the last event's id."""
        bell = self._legs.bell(work.rollout_id)
        looks, rung = Looks(bell, _WATCH_S), bell.rung()
        handle = self._legs.begin(work, adopt=adopt)
        status, asked = "", float("-inf")
        given_up = 0.0  # when a leg that ended is no longer waited for: on a full disk DBOS cannot note its end
        while True:
            try:
                if bell.rung() != rung or time.monotonic() - asked > _ASK_S:
                    status, asked = handle.get_status().status, time.monotonic()
                for event in patiently(work, partial(self.record.events, seen, 10_000, rollout_id=work.rollout_id)):
                    seen = event.id
                    on_event(event)
                if status not in UNDER_WAY:
                    break
                if lost.is_set() or self.presence.lost.is_set():
                    raise ClaimRefused(f"{work.rollout_id} was taken over by another controller")
                if bell.rung() != rung:
                    given_up = given_up or time.monotonic() + NOTED_S
                    if time.monotonic() > given_up:
                        break
                looks.pause()
            except KeyboardInterrupt:
                work.stop.set()
        if work.rollout_id in self._failures:
            raise self._told(work, self._failures[work.rollout_id])
        if status in UNDER_WAY:
            raise Interrupted(f"{work.rollout_id}: its leg ended and the journal does not note it: is its disk full?")
        if status != "SUCCESS":
            raise Interrupted(f"{work.rollout_id}: its leg ended as {status}")
        return seen

    def _told(self, work: Work, error: BaseException) -> BaseException:
        """Return what ended a leg as the fault it is: DBOS has its own words for having lost one."""
        if not isinstance(error, Fault) and not self.record.beat(work.rollout_id, work.controller):
            return ClaimRefused(f"{work.rollout_id} was taken over by another controller")
        return error

    def close(self) -> None:
        """End DBOS in this process; slices that were told to stop get a moment to."""
        until = time.monotonic() + _END_S
        while self._carrying and time.monotonic() < until:
            time.sleep(0.05)
        self._legs.close()


@contextmanager
def launched(
    record: Record, log: Path, zones: Sequence[str], connect: Callable[[str], ExecutorFactory], *,
    clock: Clock, stop: threading.Event, takeover_s: float,
) -> Iterator[Engine]:  # fmt: skip
    """Be a carrier of rollouts for a while; one at a time in a process, else ClaimRefused."""
    if not _one_at_a_time.acquire(blocking=False):
        raise ClaimRefused("this process drives a rollout already")
    try:
        with record.faults():  # what DBOS meets is told as what the record meets
            engine = Engine(record, log, zones, connect, clock=clock, stop=stop, takeover_s=takeover_s)
            try:
                with engine.presence.living():
                    yield engine
            finally:
                engine.close()
    finally:
        _one_at_a_time.release()


def run_rollout(
    home: Path,
    rollout_id: str,
    *,
    executor_factory: ExecutorFactory,
    on_event: Callable[[EventView], None] = lambda _: None,
    clock: Clock | None = None,
    hold: bool = False,
    adopt: bool = False,
    stop: threading.Event | None = None,
    database: Path | str | None = None,
    takeover_s: float = SILENT_S,
) -> str:
    """Carry a rollout on in the foreground until it ends, waits for a person, or is interrupted; returns its state.

    Takes waiting requests first, so this is also how a halt, resume or rollback of an idle rollout is carried out.
    *on_event* gets each audit row of the rollout as it is written. Ctrl-C, or setting *stop*, ends it between two
    hosts; after that, or after a crash, the same call goes on. *hold*: stay while it is paused. Zones that live workers
    serve are left to them, this process serves the others. Raises ``ClaimRefused`` when another live controller drives
    it, ``ProtocolDiffers`` when an interrupted leg is of another version.
    """
    time_of = clock or SystemClock()
    ended = stop or threading.Event()
    with open_record(database or home / "fleet.db", now=time_of.now) as record:
        workers = [w for w in record.workers() if alive(w.id, w.silent_s, takeover_s)]
        served = {zone for worker in workers for zone in worker.zones}
        zones = [zone for zone in ["", *record.rollout_zones(rollout_id)] if zone not in served]
        with launched(
            record, home / "engine.log", sorted(set(zones)), lambda _: executor_factory, clock=time_of, stop=ended,
            takeover_s=takeover_s,
        ) as engine:  # fmt: skip
            return engine.lead(rollout_id, on_event=on_event, hold=hold, adopt=adopt)
