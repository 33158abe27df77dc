"""What makes a rollout's workflow durable, as one small interface; ``engine`` implements it with DBOS."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from fleet.record import Record

if TYPE_CHECKING:
    from fleet.rollout.hosts.work import Work

Document = dict[str, Any]  # JSON: it goes through the engine's journal


class Journal(Protocol):
    """What makes a leg durable: what was done once is not done again when the leg is resumed."""

    def commit(self, name: str, change: Callable[[Record], Document]) -> Document:
        """Run *change* in one transaction together with the note that it was done; exactly once."""
        ...

    def perform(self, name: str, effect: Callable[[], Document]) -> Document:
        """Run *effect* and note its result; it may be run again when a crash comes between the two."""
        ...

    def fan(self, work: Work, phase: str, wave: int) -> list[Document]:
        """Do *phase* on the hosts of *wave*, in one slice for each zone, each where that zone is served.

        Returns each slice's outcome once all are there; a slice that nobody got to in time says that it was cut.
        """
        ...
