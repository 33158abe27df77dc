"""Read from the record what the report is made of."""

from __future__ import annotations

import time
from collections.abc import Mapping

from fleet.record import Record
from fleet.record.views import HostView
from fleet.report.model import ProgramInfo, Survey, representatives
from probes.catalogue import Program

_WINDOW = 1000


def gather(record: Record, catalogue: Mapping[str, Program], *, now: float | None = None) -> Survey:
    """Return the survey of the whole fleet as the record has it now."""
    hosts: list[HostView] = []
    while window := record.hosts(offset=len(hosts), limit=_WINDOW):
        hosts += window
    known = {h.name for h in hosts}
    choices = [c for c in record.choices() if c.program in catalogue and c.host in known]
    facts = {name: found for name in sorted(representatives(choices)) if (found := record.facts(name)) is not None}
    programs = [ProgramInfo(p.name, p.manifest.kind, p.manifest.summary) for _, p in sorted(catalogue.items())]
    return Survey(
        time.time() if now is None else now, hosts, record.kernels(), programs, choices, facts,
        record.proofs(), record.rejections(),
    )  # fmt: skip
