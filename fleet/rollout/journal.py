"""What makes a rollout's workflow durable, as one small interface; ``engine`` implements it with DBOS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from fleet.record import Record

Document = dict[str, Any]  # JSON: it goes through the engine's journal


class Journal(Protocol):
    """What makes a leg durable: what was done once is not done again when the leg is resumed."""

    def commit(self, name: str, change: Callable[[Record], Document]) -> Document:
        """Run *change* in one transaction together with the note that it was done; exactly once."""
        ...

    def perform(self, name: str, effect: Callable[[], Document]) -> Document:
        """Run *effect* and note its result; it may be run again when a crash comes between the two."""
        ...
