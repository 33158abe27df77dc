"""Durability: each leg of a rollout is one DBOS workflow, each slice of a wave's phase another, on its zone's queue.

The only module that knows DBOS; it decides nothing. The record is the truth and DBOS drives. Its own tables are beside
the record's, so that their frequent writes never hold the record's lock; the note that a decision was taken is a row
*in the record's database*, so decision, audit and note commit in one transaction. What crosses into DBOS are ids and
small JSON documents, never inventory or secrets. Nothing listens, nothing leaves for anywhere but the database.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dbos import (
    DBOS,
    DBOSConfig,
    DBOSPortableJSONSerializer,
    SetEnqueueOptions,
    SetWorkflowID,
    SQLAlchemyDatasource,
    WorkflowHandle,
)

from fleet.record import Record
from fleet.rollout.driving.bell import Bell, Looks
from fleet.rollout.driving.carrier import Carrier, Interrupted, ProtocolDiffers
from fleet.rollout.hosts.work import Work
from fleet.rollout.machine.journal import Document
from fleet.rollout.machine.rollback import roll_back
from fleet.rollout.machine.slices import patiently
from fleet.rollout.machine.workflow import drive
from fleet.rollout.states import ROLLING_BACK

# Raised by hand when legs begun by older code could not be resumed by newer code.
PROTOCOL = "2"
JSON = DBOSPortableJSONSerializer()  # the default is pickle: whoever writes the database could run code here
UNDER_WAY = ("PENDING", "ENQUEUED", "DELAYED")
SLICE = "corollout.slice"
_SCHEMA = "corollout_engine"
_LOOK_S = 1.0  # for what another process does; what ends in this one rings
_FIRST_S = 0.1
NOTED_S = 5.0  # how long the journal has to note the end of a leg, or of a slice
_TELL_S = 10.0  # how long a slice may lie before somebody is told that nobody takes it
_log = logging.getLogger("dbos")
_SLICES_AT_ONCE = 4  # of one zone in one process; each has as many connections as its rollout's settings say


class DbosJournal:
    """Makes decisions and effects durable, in the order they are asked for."""

    def __init__(self, legs: Legs, datasource: SQLAlchemyDatasource, work: Work) -> None:
        self._legs = legs
        self._datasource = datasource
        self._work = work

    def commit(self, name: str, change: Callable[[Record], Document]) -> Document:
        """Run *change* in one transaction with its note; exactly once, and only while this controller drives."""
        work = self._work

        # Writers are one at a time, so what they read last is what counts: no need to be serializable on top.
        @self._datasource.transaction(name=name, isolation_level=self._legs.isolation)
        def decision() -> Document:
            record = work.record.joined(self._datasource.sql_session())
            record.require_owner(work.rollout_id, work.controller)
            return change(record)

        return decision()

    def perform(self, name: str, effect: Callable[[], Document]) -> Document:
        """Run *effect*, then note its result."""
        return DBOS.run_step({"name": name}, effect)

    def fan(self, work: Work, phase: str, wave: int) -> list[Document]:
        """Do *phase* in one slice for each zone of *wave*."""
        zones = partial(work.record.zones, work.rollout_id, wave)
        found = DBOS.run_step({"name": "zones"}, lambda: {"zones": patiently(work, zones) or [""]})
        slices = {self._legs.send(work, phase, wave, zone): zone for zone in found["zones"]}
        gathered = DBOS.run_step({"name": phase}, lambda: {"outcomes": self._legs.gather(work, phase, slices)})
        outcomes: list[Document] = gathered["outcomes"]
        for fault in (outcome["fault"] for outcome in outcomes if outcome.get("fault")):
            raise Interrupted(fault)
        return outcomes


class Legs:
    """DBOS, launched in this process under *executor*, listening to the queues of *zones* and to its own."""

    def __init__(self, record: Record, log: Path, executor: str, zones: Sequence[str], carrier: Carrier) -> None:
        self._record = record
        self._carrier = carrier
        self._launched = False
        self._slice_ended = Bell()
        self._leg_ended: dict[str, Bell] = {}
        self._ended: dict[str, tuple[float, BaseException | None]] = {}  # slices that ended here: when, and of what
        self._own_queue = f"lead:{executor}"
        _quiet(log)
        url, engine = record.journal()
        self._engine = engine
        self.isolation: Any = "SERIALIZABLE" if engine is None else "READ COMMITTED"
        config: DBOSConfig = {
            "name": "corollout",
            "system_database_url": url or None,
            "system_database_engine": engine,
            "dbos_system_schema": _SCHEMA,
            "application_version": PROTOCOL,
            "executor_id": executor,
            "serializer": JSON,
            "log_level": "WARNING",
            "enable_otlp": False,
        }
        DBOS(config=config)
        try:
            self._datasource = SQLAlchemyDatasource.create(
                "sqlite://" if engine is None else "postgresql://", engine=record.engine, serializer=JSON,
                schema=_SCHEMA,
            )  # fmt: skip
            self._legs = {kind: self._leg(kind, flow) for kind, flow in (("forward", drive), ("rollback", roll_back))}
            self._slice = self._slices()
            queues = [queue_of(zone) for zone in zones]
            DBOS.listen_queues([*queues, self._own_queue])
            DBOS.launch()
            self._launched = True
            for queue in queues:
                DBOS.register_queue(queue, worker_concurrency=_SLICES_AT_ONCE, polling_interval_sec=_LOOK_S)
        except BaseException:
            self.close()
            raise

    def _leg(self, kind: str, flow: Callable[[DbosJournal, Work], Document]) -> Any:
        @DBOS.workflow(name=f"corollout.{kind}")
        def leg(rollout_id: str) -> Document:
            try:
                work = self._carrier.leader(rollout_id)
                return flow(DbosJournal(self, self._datasource, work), work)
            except BaseException as error:
                self._carrier.failed(rollout_id, error)
                raise
            finally:
                self.bell(rollout_id).ring()

        return leg

    def _slices(self) -> Any:
        @DBOS.workflow(name=SLICE)
        def carry_slice(rollout_id: str, wave: int, phase: str, zone: str) -> Document:
            slice_id, failure = str(DBOS.workflow_id), None
            self._ended.pop(slice_id, None)
            try:
                return self._carrier.carry(slice_id, rollout_id, wave, phase, zone)
            except BaseException as error:
                failure = error
                raise
            finally:
                if rollout_id in self._leg_ended:  # gathered here
                    self._ended[slice_id] = time.monotonic(), failure
                self._slice_ended.ring()

        return carry_slice

    def bell(self, rollout_id: str) -> Bell:
        """Return what is rung when a leg of a rollout ends here, a moment before its journal says so."""
        return self._leg_ended.setdefault(rollout_id, Bell())

    def begin(self, work: Work, *, adopt: bool) -> WorkflowHandle[Document]:
        """Resume the leg that was interrupted, or begin the next one; what slices of another leg still do is undone."""
        record, rollout_id = work.record, work.rollout_id
        view = record.rollout(rollout_id)
        status = DBOS.get_workflow_status(f"{rollout_id}/{view.leg}") if view.leg else None
        number = view.leg
        if status is not None and status.status in UNDER_WAY:
            if status.app_version == PROTOCOL:
                # On our own queue: on DBOS's, any process might take it up, and only this one holds the claim.
                # It is there from now on only: a queue is asked every second, and few legs are resumed.
                DBOS.register_queue(self._own_queue, polling_interval_sec=_LOOK_S)
                return DBOS.resume_workflow(status.workflow_id, queue_name=self._own_queue)
            if not adopt:
                raise ProtocolDiffers(f"{rollout_id} was begun under protocol {status.app_version}, this is {PROTOCOL}")
            DBOS.cancel_workflow(status.workflow_id)
        record.recall_slices(rollout_id, controller=work.controller)
        for left in DBOS.list_workflows(
            workflow_id_prefix=f"{rollout_id}/", name=SLICE, status=list(UNDER_WAY), load_input=False
        ):
            DBOS.cancel_workflow(left.workflow_id)
        if status is not None or not view.leg:
            number += 1
            record.set_leg(rollout_id, number)
        kind = "rollback" if view.state == ROLLING_BACK else "forward"
        with SetWorkflowID(f"{rollout_id}/{number}"):
            return DBOS.start_workflow(self._legs[kind], rollout_id)

    def send(self, work: Work, phase: str, wave: int, zone: str) -> str:
        """Put a slice on its zone's queue, or begin it here when nobody else would take it; returns its id."""
        handle: WorkflowHandle[Document]
        if self._carrier.alone(zone):
            handle = DBOS.start_workflow(self._slice, work.rollout_id, wave, phase, zone)
            return handle.workflow_id
        # Lower goes first: what undoes before what does, earlier waves before later ones.
        with SetEnqueueOptions(priority=1 if phase == "revert" else wave + 2):
            handle = DBOS.enqueue_workflow(queue_of(zone), self._slice, work.rollout_id, wave, phase, zone)
            return handle.workflow_id

    def gather(self, work: Work, phase: str, slices: Mapping[str, str]) -> list[Document]:
        """Wait for slices (id → zone) and return their outcomes. A person's request does not wait for those that
        nobody got to; a zone that nobody serves is told of, once."""
        told, since = False, time.monotonic()
        looks = Looks(self._slice_ended, _LOOK_S, _FIRST_S)
        while True:
            found = {s.workflow_id: s for s in DBOS.list_workflows(workflow_ids=list(slices), load_input=False)}
            waiting = [s for s in found.values() if s.status in UNDER_WAY]
            if not waiting:
                for slice_id in slices:
                    self._ended.pop(slice_id, None)
                return [_outcome(found[i]) for i in slices]
            self._not_noted([s.workflow_id for s in waiting])
            if work.stop.is_set() or (phase != "revert" and patiently(work, work.watching)):
                idle = [s.workflow_id for s in waiting if s.status != "PENDING"]
                elsewhere = [s.workflow_id for s in waiting if s.executor_id != DBOS.executor_id]
                recalled = sorted({*idle, *(elsewhere if work.stop.is_set() else ())})
                if recalled:
                    recall = partial(work.record.recall_slices, work.rollout_id, recalled, controller=work.controller)
                    patiently(work, recall)
                    DBOS.cancel_workflows(recalled)
            if not told and time.monotonic() - since > _TELL_S:
                lonely = sorted(slices[s.workflow_id] for s in waiting if s.status != "PENDING")
                lonely = [zone for zone in lonely if self._carrier.unserved(zone)]
                if lonely:
                    told = True
                    words = f"no worker serves {', '.join(f'zone {zone!r}' for zone in lonely)}"
                    work.record.audit("corollout", "wait", rollout_id=work.rollout_id, detail=words)
            looks.pause()

    def _not_noted(self, waiting: Iterable[str]) -> None:
        """Raise when a slice ended here and the journal does not note it: on a full disk it never would."""
        for slice_id in waiting:
            at, failure = self._ended.get(slice_id, (math.inf, None))
            if time.monotonic() - at > NOTED_S:
                raise failure or Interrupted(f"{slice_id} ended and the journal does not note it: is its disk full?")

    def bring_back(self, dead: str) -> None:
        """Put the slices that a dead process was carrying back on their zones' queues; its rights are gone by now."""
        for left in DBOS.list_workflows(executor_id=dead, name=SLICE, status="PENDING"):
            zone = left.input["args"][3] if left.input else ""
            DBOS.resume_workflow(left.workflow_id, queue_name=queue_of(zone))
        DBOS.delete_queue(f"lead:{dead}")

    def close(self) -> None:
        """End DBOS in this process."""
        try:
            if self._launched:
                DBOS.delete_queue(self._own_queue)
        except Exception:  # the database is away: who takes over from us deletes it
            _log.exception("the queue is left behind")
        finally:
            DBOS.destroy(destroy_registry=True)
            if self._engine is not None:
                self._engine.dispose()


def queue_of(zone: str) -> str:
    """Return the name of a zone's queue."""
    return f"zone:{zone}"


def _outcome(status: Any) -> Document:
    """What a slice came to; one that was lost or recalled left hosts for the next."""
    if status.status == "SUCCESS" and isinstance(status.output, dict):
        return status.output
    return {"cut": "asked" if status.status == "CANCELLED" else "stopped"}


def _quiet(path: Path) -> None:
    """Send what DBOS has to say to a file: stderr is for our narration."""
    for handler in list(_log.handlers):
        _log.removeHandler(handler)
        handler.close()
    _log.addHandler(logging.FileHandler(path, delay=True))
    _log.propagate = False
