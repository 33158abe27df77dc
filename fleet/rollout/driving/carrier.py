"""What legs and slices need of the process they run in, and the faults that end them there."""

from __future__ import annotations

from typing import Protocol

from btf.fault import EXIT_NO, Fault
from fleet.rollout.hosts.work import Work
from fleet.rollout.machine.journal import Document


class ProtocolDiffers(Fault):
    """A leg was interrupted under another version of this engine."""

    code = "COR-ROL-001"
    exit = EXIT_NO
    remedy = "Finish it with the Corollout that began it, or go on from the record alone with --adopt."


class Interrupted(Fault):
    """The engine ended before the leg did."""

    code = "COR-ROL-002"
    remedy = "Start it again: it goes on where it was. engine.log beside the record says more."


class Carrier(Protocol):
    """The process that legs and slices run in."""

    def leader(self, rollout_id: str) -> Work:
        """Return the work of a rollout that this process has claimed; raises Interrupted for any other."""
        ...

    def carry(self, slice_id: str, rollout_id: str, wave: int, phase: str, zone: str) -> Document:
        """Do a slice, whoever leads its rollout."""
        ...

    def alone(self, zone: str) -> bool:
        """Whether this process serves *zone* and nobody else does."""
        ...

    def unserved(self, zone: str) -> bool:
        """Whether nobody serves *zone* now."""
        ...

    def failed(self, rollout_id: str, error: BaseException) -> None:
        """Keep what ended a leg: what comes back through the journal is a copy without its class."""
        ...
