"""A way to end any wait from outside: what is due is stopped, and one thread looks after all of a process.

A thread for each wait was a fifth of what a command costs this side.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator

_Stop = tuple[float, Callable[[], None]]  # when, by the monotonic clock, and what


class _Stops:
    """What is to be stopped when, and the thread that does it while there is something."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin with nothing; in a forked process, whose thread was left behind, perhaps with the lock."""
        self._waiting: set[_Stop] = set()
        self._sooner = threading.Condition()
        self._wakes = 0.0
        self._thread: threading.Thread | None = None

    def add(self, stop: _Stop) -> None:
        with self._sooner:
            self._waiting.add(stop)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="stops", daemon=True)
                self._thread.start()
            elif stop[0] < self._wakes:
                self._sooner.notify()

    def drop(self, stop: _Stop) -> None:
        with self._sooner:
            self._waiting.discard(stop)

    def _run(self) -> None:
        with self._sooner:
            while self._waiting:
                now = time.monotonic()
                for stop in [stop for stop in self._waiting if stop[0] <= now]:
                    self._waiting.discard(stop)
                    threading.Thread(target=stop[1], daemon=True).start()  # one that hangs holds up no other
                if self._waiting:
                    self._wakes = min(when for when, _ in self._waiting)
                    self._sooner.wait(self._wakes - now)
            self._thread = None


_STOPS = _Stops()
os.register_at_fork(after_in_child=_STOPS.reset)


@contextlib.contextmanager
def hard_stop(seconds: float, stop: Callable[[], None]) -> Iterator[None]:
    """Call *stop* after *seconds* unless the block ended before."""
    due = (time.monotonic() + seconds, stop)
    _STOPS.add(due)
    try:
        yield
    finally:
        _STOPS.drop(due)
