"""Which way a rollout's hosts are reached, kept with the rollout so that whoever drives it next takes the same."""

from __future__ import annotations

from dataclasses import dataclass

from fleet.record.access import Access
from fleet.record.errors import NotInRecord
from fleet.record.rollout_tables import RolloutRow, WayRow
from fleet.record.store import add_audit


@dataclass(frozen=True, slots=True)
class Way:
    """``via`` is ``ssh`` or ``ansible``; ``inventory`` is the path of the user's own Ansible inventory, if any."""

    via: str = "ssh"
    inventory: str | None = None

    def __str__(self) -> str:
        return self.via + (f" with {self.inventory}" if self.inventory else "")


class WayStore(Access):
    """Reads and writes the way of a rollout."""

    def way(self, rollout_id: str) -> Way:
        """Return how the rollout's hosts are reached: over SSH unless something else was set."""
        with self.reading() as session:
            row = session.get(WayRow, rollout_id)
            return Way(row.via, row.inventory) if row else Way()

    def set_way(self, rollout_id: str, way: Way, actor: str) -> None:
        """Set how the rollout's hosts are reached from now on; the same way again changes nothing."""
        before = self.way(rollout_id)
        if before == way:
            return
        with self.writing() as session:
            if session.get(RolloutRow, rollout_id) is None:
                raise NotInRecord(f"no rollout is called {rollout_id!r}")
            session.merge(WayRow(rollout_id=rollout_id, via=way.via, inventory=way.inventory))
            add_audit(
                session, self.now(), actor, "way", rollout_id=rollout_id, before=before.via, after=way.via,
                detail=str(way),
            )  # fmt: skip
