"""Durability: each leg of a rollout is one DBOS workflow. The only module that knows DBOS; it decides nothing.

The record is the truth and DBOS drives. Its own tables are in ``engine.db`` beside the record, so that their frequent
writes never hold the record's lock; the note that a decision was taken is a row *in the record*
(``datasource_outputs``), so decision, audit and note commit in one transaction. What crosses into DBOS are ids and
small JSON documents, never inventory or secrets. Nothing listens, nothing leaves this machine.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dbos import (
    DBOS,
    DBOSConfig,
    DBOSPortableJSONSerializer,
    SetWorkflowID,
    SQLAlchemyDatasource,
    WorkflowHandle,
)

from btf.fault import EXIT_NO, Fault
from fleet.record import Record, open_record
from fleet.record.errors import ClaimRefused
from fleet.record.views import EventView
from fleet.rollout.clock import Clock, SystemClock
from fleet.rollout.controller import claimed, new_id
from fleet.rollout.execute import ExecutorFactory
from fleet.rollout.journal import Document
from fleet.rollout.plan import load_plan
from fleet.rollout.rollback import roll_back
from fleet.rollout.states import ROLLING_BACK, STATES
from fleet.rollout.work import Work
from fleet.rollout.workflow import drive

# Raised by hand when legs begun by older code could not be resumed by newer code.
PROTOCOL = "1"
JSON = DBOSPortableJSONSerializer()  # the default is pickle: whoever writes the file could run code here
_UNDER_WAY = ("PENDING", "ENQUEUED", "DELAYED")
_WATCH_S = 0.2

_one_at_a_time = threading.Lock()  # DBOS is one per process


class ProtocolDiffers(Fault):
    """A leg was interrupted under another version of this engine."""

    code = "COR-ROL-001"
    exit = EXIT_NO
    remedy = "Finish it with the Corollout that began it, or go on from the record alone with --adopt."


class Interrupted(Fault):
    """The engine ended before the leg did."""

    code = "COR-ROL-002"
    remedy = "Start it again: it goes on where it was. engine.log beside the record says more."


class DbosJournal:
    """Makes decisions and effects durable, in the order they are asked for."""

    def __init__(self, datasource: SQLAlchemyDatasource, record: Record) -> None:
        self._datasource = datasource
        self._record = record

    def commit(self, name: str, change: Callable[[Record], Document]) -> Document:
        """Run *change* in one transaction with its note; exactly once."""

        @self._datasource.transaction(name=name)
        def decision() -> Document:
            return change(self._record.joined(self._datasource.sql_session()))

        return decision()

    def perform(self, name: str, effect: Callable[[], Document]) -> Document:
        """Run *effect*, then note its result."""
        return DBOS.run_step({"name": name}, effect)


class Engine:
    """DBOS, launched for one rollout in this process."""

    def __init__(self, home: Path, work: Work) -> None:
        self.work = work
        _quiet(home / "engine.log")
        config: DBOSConfig = {
            "name": "corollout",
            "system_database_url": f"sqlite:///{home / 'engine.db'}",
            "application_version": PROTOCOL,
            "executor_id": work.controller,
            "serializer": JSON,
            "log_level": "WARNING",
            "enable_otlp": False,
        }
        DBOS(config=config)
        try:
            datasource = SQLAlchemyDatasource.create("sqlite://", engine=work.record.engine, serializer=JSON)
            self.legs: dict[str, Callable[[str], Document]] = {}
            self.failure: BaseException | None = None
            for kind, flow in (("forward", drive), ("rollback", roll_back)):
                self.legs[kind] = self._register(kind, flow, DbosJournal(datasource, work.record))
            DBOS.launch()
        except BaseException:
            DBOS.destroy(destroy_registry=True)
            raise

    def _register(self, kind: str, flow: Callable[[DbosJournal, Work], Document], journal: DbosJournal) -> Any:
        @DBOS.workflow(name=f"corollout.{kind}")
        def leg(rollout_id: str) -> Document:
            if rollout_id != self.work.rollout_id:
                raise Interrupted(f"this process drives {self.work.rollout_id}, not {rollout_id}")
            try:
                return flow(journal, self.work)
            except BaseException as error:
                self.failure = error  # what comes back through the journal is a copy without its class
                raise

        return leg

    def begin(self, *, adopt: bool) -> WorkflowHandle[Document]:
        """Resume the leg that was interrupted, or begin the next one."""
        record, rollout_id = self.work.record, self.work.rollout_id
        view = record.rollout(rollout_id)
        status = DBOS.get_workflow_status(f"{rollout_id}/{view.leg}") if view.leg else None
        number = view.leg
        if status is not None and status.status in _UNDER_WAY:
            if status.app_version == PROTOCOL:
                return DBOS.resume_workflow(status.workflow_id)
            if not adopt:
                raise ProtocolDiffers(f"{rollout_id} was begun under protocol {status.app_version}, this is {PROTOCOL}")
            DBOS.cancel_workflow(status.workflow_id)
        if status is not None or not view.leg:
            number += 1
            record.set_leg(rollout_id, number)
        kind = "rollback" if view.state == ROLLING_BACK else "forward"
        with SetWorkflowID(f"{rollout_id}/{number}"):
            return DBOS.start_workflow(self.legs[kind], rollout_id)

    def close(self) -> None:
        """End DBOS in this process."""
        DBOS.destroy(destroy_registry=True)


def _quiet(path: Path) -> None:
    """Send what DBOS has to say to a file: stderr is for our narration."""
    logger = logging.getLogger("dbos")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.addHandler(logging.FileHandler(path, delay=True))
    logger.propagate = False


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
) -> str:
    """Carry a rollout on in the foreground until it ends, waits for a person, or is interrupted; returns its state.

    Takes waiting requests first, so this is also how a halt, resume or rollback of an idle rollout is carried out.
    *on_event* gets each audit row of the rollout as it is written. Ctrl-C, or setting *stop*, ends it between two
    hosts; after that, or after a crash, the same call goes on. *hold*: stay while it is paused. Raises ``ClaimRefused``
    when another live controller drives it, ``ProtocolDiffers`` when an interrupted leg is of another version.
    """
    if not _one_at_a_time.acquire(blocking=False):
        raise ClaimRefused("this process drives a rollout already")
    try:
        return _run(home, rollout_id, executor_factory, on_event, clock or SystemClock(), hold, adopt, stop)
    finally:
        _one_at_a_time.release()


def _run(
    home: Path, rollout_id: str, connect: ExecutorFactory, on_event: Callable[[EventView], None], clock: Clock,
    hold: bool, adopt: bool, stop: threading.Event | None,  # noqa: FBT001 - private, with one caller above
) -> str:  # fmt: skip
    with open_record(home / "fleet.db", now=clock.now) as record:
        plan = load_plan(record.plan(record.rollout(rollout_id).plan_id).document)
        work = Work(
            record=record, rollout_id=rollout_id, plan=plan, hosts=record.definitions(), connect=connect, clock=clock,
            controller=new_id(), stop=stop or threading.Event(), hold=hold, specs=plan.specs,
        )  # fmt: skip
        seen = record.last_event_id()
        with claimed(record, rollout_id, work.controller, work.stop), _launched(home, work) as engine:
            while True:
                seen = _follow(engine, engine.begin(adopt=adopt), on_event, seen)
                view = record.rollout(rollout_id)
                again = view.state == ROLLING_BACK or record.requests(rollout_id, waiting=True)
                if not again or work.stop.is_set():
                    return view.state


@contextmanager
def _launched(home: Path, work: Work) -> Iterator[Engine]:
    engine = Engine(home, work)
    try:
        yield engine
    finally:
        engine.close()


def _follow(engine: Engine, handle: WorkflowHandle[Document], on_event: Callable[[EventView], None], seen: int) -> int:
    """Tell what happens until the leg ends; Ctrl-C asks it to end. Returns the last event's id."""
    work = engine.work
    while True:
        try:
            status = handle.get_status().status
            for event in work.record.events(seen, 10_000, rollout_id=work.rollout_id):
                seen = event.id
                on_event(event)
            if status not in _UNDER_WAY:
                break
            time.sleep(_WATCH_S)
        except KeyboardInterrupt:
            work.stop.set()
    if engine.failure is not None:
        raise engine.failure
    if status != "SUCCESS":
        raise Interrupted(f"{work.rollout_id}: its leg ended as {status}")
    return seen


def exit_of(state: str) -> int:
    """Return the command's exit code for a rollout that stopped in *state*."""
    return STATES[state]
