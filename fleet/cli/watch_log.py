"""A rollout in a log: one line per change, and one now and then that says that nothing changed."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

from btf.fault import printable
from fleet.cli.watch_page import Watched, total_counts

if TYPE_CHECKING:  # the record loads SQLAlchemy, which a page of help needs not wait for
    from fleet.record.views import EventView

STILL_S = 30.0  # it says at least this often that nothing changed


class Log:
    """One line per change, and a heartbeat while nothing changes."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._said = 0.0

    def show(self, seen: Watched, fresh: Sequence[EventView]) -> None:
        """Write the fresh events; when there was nothing for STILL_S, say so."""
        lines = [line for event in fresh if (line := log_event(event))]
        if not lines and seen.now - self._said >= STILL_S:
            lines = [log_still(seen)] if self._said else []
            self._said = seen.now
        self._write(lines, seen.now)

    def end(self, seen: Watched, code: int) -> None:
        """Write the last line."""
        self._write([log_end(seen, code)], seen.now)

    def _write(self, lines: Sequence[str], now: float) -> None:
        if lines:
            self._said = now
            text = "".join(line + "\n" for line in lines)
            encoding = getattr(self._stream, "encoding", None) or "utf-8"
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self._stream.flush()


def log_line(at: float, rollout_id: str, what: str, **fields: object) -> str:
    """Return ``TIME ROLLOUT WHAT key=value …``: one line, no control characters, keys in a stated order."""
    words = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)), printable(rollout_id, 60), printable(what, 40)]
    return " ".join([*words, *(f"{k}={_value(v)}" for k, v in fields.items() if v is not None and v != "")])


def _value(value: object) -> str:
    text = printable(str(value), 500)
    plain = text and not any(c in text for c in ' "=\\')
    return text if plain else json.dumps(text, ensure_ascii=False)


def log_event(event: EventView) -> str | None:
    """Return the line of one audit row; None for one that changed no state."""
    if event.before is not None and event.before == event.after:
        return None
    return log_line(
        event.at, event.rollout_id or "-", event.verb, host=event.host, **{"from": event.before}, to=event.after,
        token=event.token, by=None if event.actor in ("", "corollout") else event.actor, detail=event.detail,
    )  # fmt: skip


def log_still(seen: Watched) -> str:
    """Return the line that says that nothing changed: state, wave, time left and hosts by state."""
    view = seen.view
    wave = view.waves[view.wave] if 0 <= view.wave < len(view.waves) else None
    left = wave.baking_since + wave.bake_s - seen.now if wave and wave.state == "baking" and wave.baking_since else None
    counts = ",".join(f"{state}:{n}" for state, n in total_counts(view).items())
    return log_line(
        seen.now, view.id, "still", state=view.state, wave=view.wave if wave else None,
        phase=wave.phase if wave else None, left_s=None if left is None else max(0, round(left)), hosts=counts,
        cost=",".join(f"{c.name}:{c.worst:.3g}/{c.limit:g}" for c in seen.costs),
    )  # fmt: skip


def log_end(seen: Watched, code: int) -> str:
    """Return the last line: the state it stands in, why, what gets it out, and the exit code."""
    view = seen.view
    return log_line(seen.now, view.id, "end", state=view.state, exit=code, reason=view.reason, next=seen.waits)
