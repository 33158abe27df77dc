"""The time a rollout lives by, so that tests own it."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Wall-clock seconds since the epoch, and waiting that a stop ends early."""

    def now(self) -> float:
        """Return the time now."""
        ...

    def elapsed(self) -> float:
        """Return seconds since some moment, by a clock that nobody sets: what durations are measured with."""
        ...

    def wait(self, stop: threading.Event, seconds: float) -> None:
        """Wait *seconds*, or until *stop* is set."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Return the time now."""
        return time.time()

    def elapsed(self) -> float:
        """Return seconds since some moment."""
        return time.monotonic()

    def wait(self, stop: threading.Event, seconds: float) -> None:
        """Wait *seconds*, or until *stop* is set."""
        stop.wait(seconds)
