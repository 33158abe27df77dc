"""Whether a program costs more than its budget. Pure: samples in, a standing out; it stops nothing by itself.

One breach warns, ``strikes`` breaches in a row or three of the last five trip, and a hard limit trips at once. A
warning goes away only when every measure is below ``CALM`` of its budget: in between nothing is forgiven.
"""

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

CALM = 0.7
_WINDOW = 5
_OF_WINDOW = 3


class Breach(NamedTuple):
    """One measure over its budget: the budget's name, its limit and what was seen, in the budget's unit."""

    budget: str
    limit: float
    seen: float

    def document(self) -> Dict[str, Any]:
        """Return ``{"budget", "limit", "seen"}``."""
        return {"budget": self.budget, "limit": self.limit, "seen": round(self.seen, 4)}


class Standing(NamedTuple):
    """Where a program stands: ``ok``, ``warn`` or ``trip``; strikes in a row; the last breach, kept."""

    state: str = "ok"
    strikes: int = 0
    recent: Tuple[bool, ...] = ()
    last: Optional[Breach] = None

    def document(self) -> Dict[str, Any]:
        """Return the status document's ``watchdog``."""
        return {"state": self.state, "strikes": self.strikes, "last": self.last.document() if self.last else None}


class Row(NamedTuple):
    """A budget, the sample's measure, the budget's unit in units of the measure, and whether one breach trips."""

    budget: str
    measure: str
    unit: float
    hard: bool


ROWS = (
    Row("memory_mib", "memory_bytes", 1024.0 * 1024.0, hard=True),
    Row("cpu_percent", "cpu_percent", 1.0, hard=False),
    Row("ns_per_event", "ns_per_event", 1.0, hard=False),
    Row("loss_percent", "loss_percent", 1.0, hard=False),
)


def breaches(sample: Mapping[str, Any], budget: Mapping[str, Any]) -> List[Tuple[Row, Breach]]:
    """Return what in *sample* is over *budget*, in the order of ROWS; a measure that could not be read is not."""
    found = []
    for row in ROWS:
        seen = sample.get(row.measure)
        if seen is not None and seen / row.unit > budget[row.budget]:
            found.append((row, Breach(row.budget, float(budget[row.budget]), seen / row.unit)))
    return found


def calm(sample: Mapping[str, Any], budget: Mapping[str, Any]) -> bool:
    """Tell whether every measure is below CALM of its budget; memory need only be within it, since it is kept."""
    for row in ROWS:
        seen = sample.get(row.measure)
        if seen is not None and not row.hard and seen / row.unit > CALM * budget[row.budget]:
            return False
    return True


def judge(standing: Standing, sample: Mapping[str, Any], budget: Mapping[str, Any]) -> Standing:
    """Return the standing after one more sample; ``trip`` is final."""
    if standing.state == "trip":
        return standing
    found = breaches(sample, budget)
    recent = (standing.recent + (bool(found),))[-_WINDOW:]
    if not found:
        over = standing.state == "ok" or calm(sample, budget)
        return Standing("ok" if over else "warn", 0 if over else standing.strikes, recent, standing.last)
    strikes = standing.strikes + 1
    row, breach = found[0]
    tripped = row.hard or strikes >= budget["strikes"] or sum(recent) >= max(_OF_WINDOW, budget["strikes"])
    return Standing("trip" if tripped else "warn", strikes, recent, breach)
