"""A worker: a process that carries what comes to its zones, and leads rollouts that nobody leads.

It ends when it is told to. When it was taken for dead meanwhile (stopped, or cut off from the database), everything it
held belongs to others by then: it begins anew, under another name.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from btf.fault import Fault
from fleet.record import Record, open_record
from fleet.record.errors import ClaimRefused, RecordFault
from fleet.record.views import EventView
from fleet.rollout.driving.controller import SILENT_S, alive
from fleet.rollout.driving.engine import Engine, launched
from fleet.rollout.execute import ExecutorFactory
from fleet.rollout.hosts.clock import Clock, SystemClock
from fleet.rollout.states import BAKING, FROZEN, PAUSED, ROLLING_BACK, RUNNING

LEADS = 32  # rollouts that one worker leads at a time
LOOK_S = 1.0
AGAIN_S = 10.0  # after a rollout could not be led, or the record could not be used
DRIVEN = (RUNNING, BAKING, ROLLING_BACK, PAUSED, FROZEN)  # hosts of those that wait are watched, their leases renewed


def run_worker(
    home: Path,
    zones: Sequence[str],
    connect: Callable[[Record, str], ExecutorFactory],
    *,
    database: Path | str | None = None,
    stop: threading.Event | None = None,
    clock: Clock | None = None,
    takeover_s: float = SILENT_S,
    on_event: Callable[[EventView], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Work for *zones* until *stop* is set; *connect(record, rollout id)* says how a rollout's hosts are reached.

    Raises the record's fault when it cannot even be opened; one that is busy or away later is waited for.
    """
    ended = stop or threading.Event()
    time_of = clock or SystemClock()
    with open_record(database or home / "fleet.db", now=time_of.now) as record:
        while not ended.is_set():
            try:
                with launched(
                    record, home / "engine.log", zones, lambda r: connect(record, r),
                    clock=time_of, stop=ended, takeover_s=takeover_s,
                ) as engine:  # fmt: skip
                    say(f"worker {engine.id} serves {', '.join(repr(z) for z in zones)}")
                    _Leads(engine, on_event, say).until(ended)
            except RecordFault as fault:
                if not fault.transient:
                    raise
                say(f"{fault}; trying again")
                ended.wait(AGAIN_S)


class _Leads:
    """The rollouts that one engine leads."""

    def __init__(self, engine: Engine, on_event: Callable[[EventView], None], say: Callable[[str], None]) -> None:
        self._engine = engine
        self._on_event = on_event
        self._say = say
        self._led: dict[str, Future[None]] = {}
        self._not_before: dict[str, float] = {}

    def until(self, stop: threading.Event) -> None:
        """Lead what nobody leads, until *stop* is set or this process was taken for dead."""
        presence = self._engine.presence
        with ThreadPoolExecutor(LEADS, thread_name_prefix="lead") as pool:
            while not stop.is_set() and not presence.lost.is_set():
                try:
                    for rollout_id in self._orphans():
                        self._led[rollout_id] = pool.submit(self._lead, rollout_id)
                except RecordFault as fault:
                    if not fault.transient:
                        raise
                stop.wait(LOOK_S)
        if presence.lost.is_set():
            self._say(f"worker {self._engine.id} was taken for dead; beginning anew")

    def _orphans(self) -> list[str]:
        self._led = {i: future for i, future in self._led.items() if not future.done()}
        now, takeover_s = time.monotonic(), self._engine.presence.takeover_s
        return [
            rollout_id
            for rollout_id, held, silent_s in self._engine.record.to_lead(DRIVEN)
            if rollout_id not in self._led
            and self._not_before.get(rollout_id, 0.0) <= now
            and not (held and alive(held, silent_s, takeover_s))
        ][: LEADS - len(self._led)]

    def _lead(self, rollout_id: str) -> None:
        try:
            state = self._engine.lead(rollout_id, on_event=self._on_event, hold=True)
            self._say(f"{rollout_id}: {state}")
        except ClaimRefused:
            pass  # somebody was quicker, or took it over
        except Fault as fault:
            self._say(f"{rollout_id}: {fault}")
        except Exception as error:  # a bug met in one rollout must not hold the others
            self._say(f"{rollout_id}: unexpected {type(error).__name__}: {error}")
        self._not_before[rollout_id] = time.monotonic() + AGAIN_S
