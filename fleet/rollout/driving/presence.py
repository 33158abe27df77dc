"""A process among others: its heartbeat, the slices it holds, and noticing when another one fell silent."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from fleet.record import Record
from fleet.record.errors import RecordFault
from fleet.record.rollout_views import Claim
from fleet.rollout.driving.controller import BEAT_S, SILENT_S, alive

_log = logging.getLogger("dbos")  # whose file is this process's engine log


class Stop(threading.Event):
    """A stop that others stop, too."""

    def __init__(self, *others: threading.Event) -> None:
        super().__init__()
        self._others = others

    def is_set(self) -> bool:
        """Return whether this or any of the others is set."""
        return super().is_set() or any(other.is_set() for other in self._others)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, for *timeout* seconds at most."""
        until = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left = 0.25 if until is None else min(0.25, until - time.monotonic())
            if left <= 0 or super().wait(left):
                break
        return self.is_set()


class Presence:
    """This process as *worker*, listening to *zones*; others are dead to it after *takeover_s* of silence.

    *take_over* brings a dead worker's slices, whose epochs were raised already, back to their queues. ``lost`` is set
    when this process itself was taken for dead: nothing it holds is its own any more.
    """

    def __init__(
        self, record: Record, worker: str, zones: Sequence[str], take_over: Callable[[str], None], *,
        takeover_s: float = SILENT_S,
    ) -> None:  # fmt: skip
        self.worker = worker
        self.zones = tuple(zones)
        self.lost = threading.Event()
        self.takeover_s = takeover_s
        self._record = record
        self._take_over = take_over
        self._held: dict[Claim, threading.Event] = {}
        self._over = threading.Event()

    @contextlib.contextmanager
    def living(self) -> Iterator[None]:
        """Be there for the others to see."""
        self._record.join_workers(self.worker, self.zones)
        thread = threading.Thread(target=self._beat, name="presence", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
            with contextlib.suppress(RecordFault):
                self._record.leave_workers(self.worker)

    @contextlib.contextmanager
    def holding(self, claim: Claim, stop: threading.Event) -> Iterator[None]:
        """Hold a slice; *stop* is set when somebody took it."""
        self._held[claim] = stop
        try:
            yield
        finally:
            del self._held[claim]
            with contextlib.suppress(RecordFault):
                self._record.give_back(claim)

    def served(self) -> set[str]:
        """Return the zones that other live workers serve."""
        others = [w for w in self._record.workers() if w.id != self.worker and self._lives(w.id, w.silent_s)]
        return {zone for other in others for zone in other.zones}

    def _lives(self, worker: str, silent_s: float) -> bool:
        return alive(worker, silent_s, self.takeover_s)

    def _beat(self) -> None:
        self._look_around()  # what died before this began is not waited for
        while not self._over.wait(min(BEAT_S, self.takeover_s / 4)):
            with contextlib.suppress(RecordFault):  # busy or away for one beat: the next one says it
                if not self._record.beat_worker(self.worker):
                    self.lost.set()
                for claim, stop in list(self._held.items()):
                    if self.lost.is_set() or not self._record.holds(claim):
                        stop.set()
                if self.lost.is_set():
                    return
            self._look_around()

    def _look_around(self) -> None:
        """Take over from everybody who is dead: first their rights, then their work."""
        try:
            for other in self._record.workers():
                if other.id == self.worker or self._lives(other.id, other.silent_s):
                    continue
                if self._record.fence_worker(other.id, self.worker, alive=self._lives):
                    self._take_over(other.id)
                    self._record.bury_worker(other.id)
        except RecordFault:
            pass  # the next look finds it again
        except Exception:
            _log.exception("taking over failed; the next look tries again")
