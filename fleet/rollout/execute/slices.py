"""Gather the calls of many threads into slices that are carried out together. Knows neither hosts' ways nor Ansible.

A call joins the open slice. That one sets off when it is full; when nobody joined for a moment and no other slice is
under way; or, while others are under way (their calls come back and join), when its patience ends. So a slow host
holds the others up for seconds, and neither does one start for every host.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from inventory.connect import Completed
from inventory.connect.errors import Unreachable
from inventory.host import Host

SIZE = 50  # hosts; beyond that Ansible's events and forks cost more than another run
QUIET_S = 0.15
PATIENCE_S = 3.0


@dataclass(frozen=True, slots=True)
class Call:
    """One command for one host, and where its end is told. ``fresh`` asks for a connection of its own.

    *timeout* in seconds bounds the command, *limit* in bytes each of its streams.
    """

    host: Host
    command: str
    stdin: bytes
    timeout: float
    limit: int
    fresh: bool
    answer: Future[Completed] = field(default_factory=Future)


Carry = Callable[[Sequence[Call]], None]  # carries calls out, each host once, and sets each call's answer


@dataclass(eq=False, slots=True)
class _Slice:
    calls: dict[str, Call] = field(default_factory=dict)  # by host
    joined_at: float = 0.0
    opened_at: float = 0.0
    closed: bool = False


class Slices:
    """Where calls meet; any thread may call."""

    def __init__(
        self, carry: Carry, *, size: int = SIZE, quiet_s: float = QUIET_S, patience_s: float = PATIENCE_S
    ) -> None:
        self._carry = carry
        self._size = size
        self._quiet_s = quiet_s
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._open: _Slice | None = None
        self._under_way = 0

    def run(self, call: Call) -> Completed:
        """Carry *call* out with others and return its end, or raise what became of it."""
        with self._changed:
            now = time.monotonic()
            joined = self._open
            if joined is None or call.host.name in joined.calls:  # a host is in a slice once
                if joined is not None:
                    joined.closed = True
                joined = self._open = _Slice(opened_at=now)
            first = not joined.calls
            joined.calls[call.host.name] = call
            joined.joined_at = now
            joined.closed = joined.closed or len(joined.calls) >= self._size
            if joined.closed:
                self._open = None
            self._changed.notify_all()
            if first:
                self._gather(joined)
        if first:
            threading.Thread(target=self._set_off, args=(list(joined.calls.values()),), name="slice").start()
        return call.answer.result()

    def _gather(self, waiting: _Slice) -> None:
        """Wait until the slice may set off; it is closed then. Holds the lock, except while waiting."""
        while not waiting.closed:
            patience = self._patience_s if self._under_way else self._quiet_s
            since = waiting.opened_at if self._under_way else waiting.joined_at
            left = since + patience - time.monotonic()
            if left <= 0:
                waiting.closed = True
                self._open = None
            else:
                self._changed.wait(left)
        self._under_way += 1

    def _set_off(self, calls: Sequence[Call]) -> None:
        try:
            self._carry(calls)
        except BaseException as error:
            for call in calls:
                if not call.answer.done():
                    call.answer.set_exception(error)
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()
        for call in calls:
            if not call.answer.done():
                call.answer.set_exception(Unreachable(f"{call.host.name}: nothing was said of it"))
