"""Connections that stay open from one use of a host to the next: one for each host, so many at most, and not for long.

An SSH login costs both ends more than a command does. A connection under which anything failed is closed, never lent
again; one that turns out to be gone *before* a command was sent is replaced, for then nothing has happened. Whoever
has to know that the host is reached anew asks for a fresh one.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from inventory.connect import Completed, Connection
from inventory.connect.errors import NotBegun
from inventory.host import Host

KEPT = 128  # open connections of one process; with paramiko each is a thread
PER_JUMP = 8
IDLE_S = 60.0


@dataclass(frozen=True, slots=True)
class _Idle:
    host: Host
    connection: Connection
    rooms: tuple[str, ...]
    since: float


class _Lent:
    """A connection in somebody's hands; see ``Connection``."""

    def __init__(self, connection: Connection, opened: Callable[[], Connection], *, reused: bool) -> None:
        self.connection = connection
        self._opened = opened
        self._reused = reused

    def run(
        self, command: str, *, stdin: bytes = b"", timeout: float = 60.0, limit: int = 8 * 1024 * 1024
    ) -> Completed:
        """Run *command*; where a kept connection is gone and nothing was sent yet, over another one."""
        try:
            return self.connection.run(command, stdin=stdin, timeout=timeout, limit=limit)
        except NotBegun:
            if not self._reused:
                raise
        self._reused = False
        self.connection.close()
        self.connection = self._opened()
        return self.connection.run(command, stdin=stdin, timeout=timeout, limit=limit)

    def close(self) -> None:
        """Close it for good; idempotent."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Kept:
    """The connections of one process that nobody uses at the moment, and how many are open in all. For any thread."""

    def __init__(
        self, *, most: int = KEPT, per_jump: int = PER_JUMP, idle_s: float = IDLE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._most = most
        self._per_jump = per_jump
        self._idle_s = idle_s
        self._clock = clock
        self._idle: OrderedDict[str, _Idle] = OrderedDict()  # by host, used longest ago first
        self._open: Counter[str] = Counter()  # room → open connections, lent ones too
        self._lock = threading.Lock()
        self._sweeper: threading.Timer | None = None

    @contextmanager
    def lend(
        self, host: Host, hosts: Mapping[str, Host], opened: Callable[[], Connection], *, fresh: bool = False
    ) -> Iterator[Connection]:
        """Yield the connection to *host* that was kept, or what *opened* gives; *fresh*: always the latter.

        *hosts* holds the jump hosts.
        """
        rooms = ("", *(f"jump {name}" for name in jumps_of(host, hosts)))
        kept = self._take(host, rooms, fresh=fresh)
        try:
            lent = _Lent(kept or opened(), opened, reused=kept is not None)
        except BaseException:
            self._forget(rooms)
            raise
        try:
            yield lent
        except BaseException:
            self._forget(rooms)
            lent.close()
            raise
        self._put(host, lent.connection, rooms)

    def close(self) -> None:
        """Close every connection that nobody uses; those in use are kept afterwards as before."""
        self._close_idle(lambda _: True)

    def _take(self, host: Host, rooms: Sequence[str], *, fresh: bool) -> Connection | None:
        """Return the connection to *host* that is kept, or None, with room for a new one made."""
        with self._lock:
            mine = self._idle.pop(host.name, None)
            if mine is not None and not fresh and mine.host == host and self._clock() - mine.since < self._idle_s:
                return mine.connection
            closing = [] if mine is None else [self._uncount(mine)]
            closing += [self._uncount(self._idle.pop(name)) for name in self._surplus(rooms)]
            self._open.update(rooms)
        for connection in closing:
            connection.close()
        return None

    def _surplus(self, rooms: Sequence[str]) -> list[str]:
        """Return whose connections, used longest ago, are in the way of one more in each of *rooms*."""
        found: dict[str, None] = {}
        for room in rooms:
            over = self._open[room] + 1 - (self._per_jump if room else self._most)
            over -= sum(room in self._idle[name].rooms for name in found)
            inside = [name for name, idle in self._idle.items() if room in idle.rooms and name not in found]
            found |= dict.fromkeys(inside[: max(0, over)])
        return list(found)

    def _put(self, host: Host, connection: Connection, rooms: tuple[str, ...]) -> None:
        with self._lock:
            full = any(self._open[room] > (self._per_jump if room else self._most) for room in rooms)
            keep = not full and host.name not in self._idle
            if keep:
                self._idle[host.name] = _Idle(host, connection, rooms, self._clock())
                self._sweep_later()
        if not keep:
            self._forget(rooms)
            connection.close()

    def _forget(self, rooms: Sequence[str]) -> None:
        with self._lock:
            self._open.subtract(rooms)

    def _uncount(self, idle: _Idle) -> Connection:
        self._open.subtract(idle.rooms)
        return idle.connection

    def _sweep_later(self) -> None:
        if self._sweeper is None:
            self._sweeper = threading.Timer(self._idle_s, self._sweep)
            self._sweeper.daemon = True
            self._sweeper.name = "kept"
            self._sweeper.start()

    def _sweep(self) -> None:
        """Close what nobody used for so long; comes again while something is kept."""
        self._close_idle(lambda idle: self._clock() - idle.since >= self._idle_s)
        with self._lock:
            self._sweeper = None
            if self._idle:
                self._sweep_later()

    def _close_idle(self, which: Callable[[_Idle], bool]) -> None:
        with self._lock:
            names = [name for name, idle in self._idle.items() if which(idle)]
            closing = [self._uncount(self._idle.pop(name)) for name in names]
        for connection in closing:
            connection.close()


def jumps_of(host: Host, hosts: Mapping[str, Host]) -> list[str]:
    """Return the names of the jump hosts on the way to *host*, sorted; a way that goes in a circle ends there."""
    names: set[str] = set()
    jump = host.jump
    while jump is not None and jump not in names:
        names.add(jump)
        jump = hosts[jump].jump if jump in hosts else None
    return sorted(names)
