"""Hosts that came after a plan was made and joined its rollout."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import insert, select

from fleet.record.access import Access
from fleet.record.rollout_tables import JoinedRow, RolloutRow, StepRow
from fleet.record.store import SOMEBODY, add_audit
from fleet.record.worker_store import zones_of


class JoinStore(Access):
    """Reads and writes about hosts that joined."""

    def join_hosts(self, rollout_id: str, wave: int, hosts: Sequence[tuple[str, str, str, str, str]]) -> None:
        """Add hosts to *wave*, each with its audit row; one of (host, variant, build, kernel id, what is planned)."""
        at = self.now()
        with self.writing() as session:
            program = session.get_one(RolloutRow, rollout_id).program
            zones = zones_of(session) if hosts else {}
            for host, variant, build, kernel_id, document in hosts:
                session.execute(
                    insert(StepRow).values(
                        rollout_id=rollout_id, host=host, wave=wave, variant=variant, build=build, kernel_id=kernel_id,
                        zone=zones.get(host, ""), state="pending", attempts=0,
                    )
                )  # fmt: skip
                session.execute(insert(JoinedRow).values(rollout_id=rollout_id, host=host, document=document, at=at))
                add_audit(
                    session, at, SOMEBODY, "join", rollout_id=rollout_id, host=host, program=program, after="pending",
                    detail=f"came after the plan; wave {wave}",
                )  # fmt: skip

    def joined_host(self, rollout_id: str, host: str) -> str | None:
        """Return what is planned for a host that joined, as JSON, or None when it did not."""
        with self.reading() as session:
            found: str | None = session.execute(
                select(JoinedRow.document).where(JoinedRow.rollout_id == rollout_id, JoinedRow.host == host)
            ).scalar_one_or_none()
            return found
