"""The holder: keeps one child running, and stops it by itself when it costs too much, its lease ends, or it is told.

It needs no controller. It starts as a candidate that writes nothing and undoes itself when the apply that started it
dies; once promoted it alone writes ``status.json`` and the records. It never starts a child a second time.
"""

import os
import selectors
import signal
import socket
import time
from types import FrameType
from typing import Any, Callable, Dict, List, Optional

from probes.agent import cost, watchdog
from probes.agent.calibrate import stored_calibration
from probes.agent.child import Child
from probes.agent.faults import CHILD_ENDED, EXPIRED, TRIPPED, Refusal, StateUnwritable, printable
from probes.agent.normalise import Normaliser
from probes.agent.process import identity
from probes.agent.records import RecordLog
from probes.agent.scope import boot_id
from probes.agent.state import Watched, boot_seconds, note, read_json, write_json
from probes.agent.variant import VARIANTS, Site
from probes.agent.verify import undo
from probes.agent.wire import Wire

CHECK_S = 1.0  # how often lease and ownership are looked at, at least
STOP_S = 10.0
_UNANSWERED = 3

Event = Dict[str, Any]


class Holder:
    """One program's holder, from start to end."""

    def __init__(self, site: Site, control: socket.socket) -> None:
        self.site = site
        self.place, self.spec = site.place, site.spec
        self.row = VARIANTS[site.spec.variant]
        self.control: Optional[Wire] = Wire(control)
        self.state = "starting"
        self.was = "starting"
        self.reason: Optional[str] = None
        self.me = identity(os.getpid())
        self.ready: Event = {}
        self.counters: List[Event] = []
        self.sample: Optional[Event] = None
        self.standing = watchdog.Standing()
        self.stays = self.spec.static  # what it did outlives it
        self.lost = self.seen = 0
        self.trouble: Event = {}
        self.records: Optional[RecordLog] = None
        self.meter: Optional[cost.Meter] = None
        self._lease, self._state = Watched(self.place.lease), Watched(self.place.state)
        self.check_s: float = min(CHECK_S, self.spec.budget["interval_s"])
        self._wake, self._waker = os.pipe()
        self.normaliser = Normaliser(site)
        self.child = Child(self.row.hold(site), self.place.log, self.row.memory_mib)
        self._started = self._checked = time.monotonic()

    def run(self) -> int:
        """Hold until something ends it; return an exit status."""
        os.set_blocking(self._waker, False)
        signal.set_wakeup_fd(self._waker)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with selectors.DefaultSelector() as selector:
            selector.register(self.child.out, selectors.EVENT_READ, self._on_output)
            selector.register(self.child.err, selectors.EVENT_READ, self._on_errors)
            selector.register(self._wake, selectors.EVENT_READ, self._on_wake)
            if self.control:
                selector.register(self.control.fileno(), selectors.EVENT_READ, self._on_control)
            self._selector = selector
            while self.state in ("starting", "candidate", "running"):
                for key, _ in selector.select(self._patience()):
                    key.data()
                self._tick(time.monotonic())
        return self._finish()

    # what wakes it

    def _on_term(self, _number: int, _frame: Optional[FrameType]) -> None:
        self._end("stopped", None)

    def _on_wake(self) -> None:
        os.read(self._wake, 512)

    def _on_output(self) -> None:
        for event in self.child.events():
            handle = _EVENTS.get(str(event.get("event")))
            if handle:
                handle(self, event)
        if self.child.ended:
            self._selector.unregister(self.child.out)
            text = str(self.trouble.get("message") or "it ended without a word")
            self._end("failed", "%s: the %s child ended: %s" % (CHILD_ENDED, self.spec.variant, printable(text)))

    def _on_errors(self) -> None:
        if not self.child.drain_errors():
            self._selector.unregister(self.child.err)

    def _on_control(self) -> None:
        assert self.control
        for message in self.control.messages():
            if message.get("order") == "promote" and self.state == "candidate":
                self._promote()
        if self.control.closed:
            self._selector.unregister(self.control.fileno())
            self.control = None
            if self.state in ("starting", "candidate"):
                self._end("stopped", None)  # the apply died before it committed to us

    # the child's events

    def _ready(self, event: Event) -> None:
        if self.state == "starting":
            self.ready = event
            self.state = "candidate"
            self._tell(event)

    def _record(self, event: Event) -> None:
        if self.records is None or not isinstance(event.get("data"), dict):
            return
        record = self.normaliser.record(event["data"])
        if record is not None:
            self.records.add(record)
            self.seen += 1

    def _lost(self, event: Event) -> None:
        count = event.get("count")
        self.lost += count if isinstance(count, int) and count > 0 else 0

    def _counters(self, event: Event) -> None:
        rows = event.get("rows")
        self.counters = rows if isinstance(rows, list) else []

    def _sampled(self, event: Event) -> None:
        if self.meter:
            self.meter.heard(event)

    def _dumped(self, event: Event) -> None:
        rows = self.normaliser.counters(event)
        if rows is not None:
            self.counters = rows

    def _error(self, event: Event) -> None:
        self.trouble = event
        if self.meter and event.get("stage") == "stats":
            self.meter.uncounted()

    # time

    def _patience(self) -> float:
        now = time.monotonic()
        until = self._checked + self.check_s
        if self.meter:
            until = min(until, self.meter.due() if self.meter.due() > now else now + 0.02)
        return max(0.0, until - now)

    def _tick(self, now: float) -> None:
        if self.state == "starting" and now > self._started + self.row.ready_s:
            self._end("failed", "%s: not ready after %g s" % (CHILD_ENDED, self.row.ready_s))
        if self.state != "running":
            self._checked = now  # else its patience is over for good, and it would spin while its child compiles
            return
        assert self.records and self.meter
        self._drop(self.records.flush())
        for line in self.meter.orders(now):
            self.child.order(line)
        sample = self.meter.sample(now, time.time(), self.lost, self.seen)
        if sample is not None:
            self._judge(sample)
        if now >= self._checked + self.check_s:
            self._checked = now
            self._check_lease()
            self._check_owner()

    def _drop(self, count: int) -> None:
        self.lost += count
        self.seen -= count

    def _judge(self, sample: Event) -> None:
        self.sample, self.lost, self.seen = sample, 0, 0
        self.standing = watchdog.judge(self.standing, sample, self.spec.budget)
        if self.meter and self.meter.unanswered >= _UNANSWERED:
            breach = watchdog.Breach("answers", 0, self.meter.unanswered)
            self.standing = watchdog.Standing("trip", self.standing.strikes, self.standing.recent, breach)
        if self.standing.state == "trip" and self.standing.last:
            last = self.standing.last
            text = "%s: over budget: %s %.4g, limit %.4g" % (TRIPPED, last.budget, last.seen, last.limit)
            self.stays = self.spec.static and self.spec.budget["action"] == "static"
            self._end("tripped", text + self._what_stays())
            return
        self._write_status()

    def _check_lease(self) -> None:
        lease = self._lease.read()
        if lease and lease.get("boot_id") == boot_id() and boot_seconds() >= float(lease.get("expires_boot", 0)):
            self._end("expired", "%s: nobody renewed the lease%s" % (EXPIRED, self._what_stays()))

    def _check_owner(self) -> None:
        state = self._state.read()
        if state is not None and state.get("holder") != self.me:
            self._end("stopped", None)

    def _what_stays(self) -> str:
        return "; the last policy stays in force" if self.stays else ""

    # changes of state

    def _promote(self) -> None:
        self.state = "running"
        self.records = RecordLog(self.place.records)
        assert self.me
        self.meter = cost.Meter(
            [self.me["pid"], self.child.pid],
            cost.hook_kinds(self.ready.get("programs", [])),
            stored_calibration(self.place.root),
            float(self.spec.budget["interval_s"]),
            metered=self.row.metered,
            dumps=self.normaliser.counter_maps,
            now=time.monotonic(),
        )
        self.lost = self.seen = 0
        self._write_status()
        self._tell({"event": "promoted"})

    def _end(self, state: str, reason: Optional[str]) -> None:
        if self.state in ("starting", "candidate", "running"):
            self.was, self.state, self.reason = self.state, state, reason

    def _finish(self) -> int:
        self.child.drain_errors()
        said = self.child.stop(STOP_S)
        for event in said or []:
            handle = _EVENTS.get(str(event.get("event")))
            if handle:
                handle(self, event)
        undone = not self.spec.static and any(e.get("event") == "bye" for e in said or [])
        left: List[str] = [] if self.stays or undone else self._undo()
        if self.was != "running":
            self._tell({"event": "error", "message": self.reason or "stopped", "left": left, "error": self.trouble})
            return 1
        if left:
            self.reason = "%s; left: %s" % (self.reason or "stopped", "; ".join(left))
        if self.records:
            self.records.flush()
            self.records.close()
        note(self.place, self.state, reason=self.reason, generation=self.spec.generation)
        self._insist()
        return 0

    def _undo(self) -> List[str]:
        try:
            return undo(self.site)
        except Refusal as refusal:
            return [str(refusal)]

    def _insist(self) -> None:
        """Write the last status; when the disk is full, stay until it can be written: why it ended must not be lost."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        state = read_json(self.place.state)
        while state is not None and state.get("holder") == self.me:
            if self._write_status() or self.state == "stopped":
                return
            time.sleep(self.check_s)
            state = read_json(self.place.state)

    def _tell(self, message: Event) -> None:
        if self.control:
            self.control.send(dict(message, holder=self.me, child=self.child.known))

    def _write_status(self) -> bool:
        document = {
            "at": time.time(),
            "holder": self.me,
            "child": self.child.known,
            "generation": self.spec.generation,
            "state": self.state,
            "reason": self.reason,
            "ready": {k: v for k, v in self.ready.items() if k in ("programs", "maps", "hooks", "rules")},
            "sample": self.sample,
            "watchdog": self.standing.document(),
            "counters": self.counters,
            "errors": self.normaliser.errors,
        }
        try:
            write_json(self.place.status, document, durable=self.state != "running")
        except StateUnwritable:
            return False
        return True


_EVENTS: Dict[str, Callable[[Holder, Event], None]] = {
    "ready": Holder._ready,
    "record": Holder._record,
    "lost": Holder._lost,
    "counters": Holder._counters,
    "sample": Holder._sampled,
    "map": Holder._dumped,
    "error": Holder._error,
}
