"""From a child's raw records and map dumps to what consumers see, through the program's adapter.

The envelope is the same for every variant. What the adapter raises is counted and shown, and never ends the holder.
"""

import time
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from probes.agent.faults import Refusal, printable
from probes.agent.variant import Site, adapter

VERSION = 1


class Normaliser:
    """Holds one program's adapter. ``errors`` is ``{"count", "last"}``; ``counter_maps`` are dumped at each sample."""

    def __init__(self, site: Site) -> None:
        self._spec = site.spec
        self._module = adapter(site)
        self._normalise = getattr(self._module, "normalise", None)
        self.counter_maps: Sequence[str] = tuple(getattr(self._module, "COUNTER_MAPS", ()))
        self._dumps: Dict[str, List[Tuple[bytes, List[bytes]]]] = {}
        self.errors: Dict[str, Any] = {"count": 0, "last": None}
        self._clock: Dict[str, Any] = {"offset_ns": 0, "host": site.spec.host}
        self._clock_until = 0.0

    def _now(self) -> Mapping[str, Any]:
        monotonic = time.monotonic()
        if monotonic >= self._clock_until:
            self._clock["offset_ns"] = int(time.time() * 1e9) - int(monotonic * 1e9)
            self._clock_until = monotonic + 1.0
        return self._clock

    def record(self, raw: Dict[str, Any]) -> Optional[Dict[str, Any]]:
        """Return the consumer record of *raw*, without its number; None when the adapter drops it or fails on it."""
        clock = self._now()
        try:
            record = self._normalise(raw, dict(clock)) if self._normalise else dict(raw)
            if record is None:
                return None
            record = dict(record)
        except Exception as error:
            self._count(error)
            return None
        record.setdefault("v", VERSION)
        record.setdefault("program", self._spec.program)
        record.setdefault("host", self._spec.host)
        record.setdefault("mono_ns", int(time.monotonic() * 1e9))
        record.setdefault("ts_ns", int(record["mono_ns"]) + clock["offset_ns"])
        record.setdefault("fidelity", {"clock": "syscall", "missing": []})
        return record

    def counters(self, event: Mapping[str, Any]) -> Optional[List[Dict[str, Any]]]:
        """Take one ``map`` event; return the counter rows once every counter map was dumped."""
        try:
            rows = [(bytes.fromhex(k), [bytes.fromhex(v) for v in values]) for k, values in event["entries"]]
            self._dumps[str(event["map"])] = rows
            if any(name not in self._dumps for name in self.counter_maps):
                return None
            dumps, self._dumps = self._dumps, {}
            found = self._module.counters(dumps, self._spec.config)
            return [dict(row) for row in found]
        except Exception as error:
            self._count(error)
            return None

    def _count(self, error: Exception) -> None:
        self.errors["count"] += 1
        text = str(error) if isinstance(error, Refusal) else "%s: %s" % (type(error).__name__, error)
        self.errors["last"] = printable(text)
