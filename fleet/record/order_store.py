"""Orders to one host outside of rollouts: each takes its fencing token here, with its audit row, before the host."""

from __future__ import annotations

from fleet.record.access import Access
from fleet.record.rollout_store import _count
from fleet.record.store import add_audit


class OrderStore(Access):
    """Writes about orders."""

    def order(
        self, host: str, program: str, verb: str, *, actor: str, above: int | None = None, detail: str = ""
    ) -> int:
        """Write that *host* is about to be told *verb*; return a token that is newer than any and than *above*."""
        at = self.now()
        with self.writing() as session:
            token = _count(session, "token", floor=max(int(at), (above or 0) + 1))
            add_audit(session, at, actor, verb, host=host, program=program, token=token, detail=detail)
            return token
