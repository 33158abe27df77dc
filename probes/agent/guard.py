"""When a program that died is started again, and when it is given up. Pure: times are seconds since boot.

Restarts back off, at most ``limit`` of them within ``window_s``; a program that stayed up for ``healthy_s`` is forgiven
everything. Boots count like restarts, so that a program that brings its host down is not attached on every boot.
"""

from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple

DEFAULTS: Mapping[str, float] = {"limit": 5, "window_s": 600.0, "backoff_s": 1.0, "healthy_s": 300.0}
MAX_BACKOFF_S = 60.0
_MAX_KEPT = 64


class History(NamedTuple):
    """What happened since the last apply: restarts of this boot, boots not forgiven yet, all restarts, last error."""

    recent: Tuple[float, ...] = ()
    boots: int = 0
    total: int = 0
    last: Optional[str] = None

    def document(self, boot_id: str) -> Dict[str, Any]:
        """Return the ``restarts`` of ``state.json``."""
        kept = list(self.recent[-_MAX_KEPT:])
        return {"boot_id": boot_id, "recent": kept, "boots": self.boots, "total": self.total, "last": self.last}

    def tried(self, now: float) -> "History":
        """Return it with one more restart, at *now*."""
        return self._replace(recent=self.recent + (now,), total=self.total + 1)

    def forgiven(self) -> "History":
        """Return it after a healthy time: only the total stays."""
        return History(total=self.total)


def history(document: Optional[Mapping[str, Any]], boot_id: str) -> History:
    """Return the history in a ``restarts`` document; times of another boot mean nothing now."""
    if not document:
        return History()
    recent = tuple(document.get("recent") or ()) if document.get("boot_id") == boot_id else ()
    return History(recent, int(document.get("boots") or 0), int(document.get("total") or 0), document.get("last"))


def wait_s(past: History, policy: Mapping[str, float], now: float) -> Optional[float]:
    """Return how long to wait before the next restart, 0 for now; None when there must not be another."""
    within = [at for at in past.recent if at > now - policy["window_s"]]
    if len(within) >= policy["limit"] or past.boots > policy["limit"]:
        return None
    if not within:
        return 0.0
    pause_s = min(MAX_BACKOFF_S, policy["backoff_s"] * 2.0 ** (len(within) - 1))
    return float(max(0.0, within[-1] + pause_s - now))


def healthy(past: History, policy: Mapping[str, float], up_since: float, now: float) -> bool:
    """Tell whether there is something to forgive, and the program has been up long enough for it."""
    return bool(past.recent or past.boots) and now - up_since >= policy["healthy_s"]
