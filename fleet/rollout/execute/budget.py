"""How many connections one process holds at once through each jump host and into each zone.

An sshd takes ten unauthenticated connections and then drops some of the next (``MaxStartups 10:30:100``), and a jump
host carries those of all its hosts; a wide wave must not look like an attack on it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from fleet.rollout.execute import Executor, ExecutorFactory
from fleet.rollout.execute.kept import PER_JUMP, Kept, jumps_of
from inventory.host import Host, zone_of

PER_ZONE = 64


class Budget:
    """Room for so many connections; shared by everything that a process does at the same time."""

    def __init__(self, *, per_jump: int = PER_JUMP, per_zone: int = PER_ZONE) -> None:
        self._per_jump = per_jump
        self._per_zone = per_zone
        self._rooms: dict[str, threading.BoundedSemaphore] = {}
        self._lock = threading.Lock()
        self.kept = Kept(per_jump=per_jump)  # those that nobody uses count, too

    @contextmanager
    def room(self, host: Host, hosts: Mapping[str, Host]) -> Iterator[None]:
        """Wait for room on every jump host of the way to *host* and in its zone, and hold it."""
        with ExitStack() as held:
            for name, size in self._asked(host, hosts):
                with self._lock:
                    room = self._rooms.setdefault(name, threading.BoundedSemaphore(size))
                held.enter_context(room)
            yield

    def _asked(self, host: Host, hosts: Mapping[str, Host]) -> list[tuple[str, int]]:
        """What is asked for, in one order for everybody: two that wait for each other would wait for ever."""
        jumps = jumps_of(host, hosts)
        return [*((f"jump {name}", self._per_jump) for name in jumps), (f"zone {zone_of(host)}", self._per_zone)]

    def within(self, connect: ExecutorFactory, hosts: Mapping[str, Host]) -> ExecutorFactory:
        """Return *connect* as it stays within this budget; *hosts* holds the jump hosts."""

        @contextmanager
        def opened(host: Host, *, fresh: bool = False) -> Iterator[Executor]:
            with self.room(host, hosts), connect(host, fresh=fresh) as executor:
                yield executor

        return opened
