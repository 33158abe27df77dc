"""What the filter line means: the selector of the command line. Reads the record; raises the selector's own faults."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.record import Record
from fleet.record.views import HostFilter


def select_hosts(record: Record, text: str, sort: Sequence[str]) -> list[str]:
    """Return the names of the hosts that *text* selects, in order."""
    return record.host_names(HostFilter(text=text), sort)
