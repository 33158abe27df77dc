"""The patrol: look at hosts again and again, keep the leases of what is wanted, note how each differs from that.

Changes nothing on a host but a lease's end; what drifted is mended by a rollout like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from btf.fault import Fault
from fleet.record import Record
from fleet.record.views import Desired, Difference
from fleet.rollout.drift.compare import compare
from fleet.rollout.execute import Executor, ExecutorFactory
from fleet.rollout.hosts.watch import lease_due
from inventory.host import Host

WINDOW = 500  # hosts whose findings commit together


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at one host found; with a fault nothing is known of it, and what was noted before stays."""

    host: str
    differences: tuple[Difference, ...] = ()
    fault: Fault | None = None


class Leases:
    """How long each assignment's lease is: a plan says it, and every plan is read once."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._known: dict[str, Mapping[str, Any]] = {}

    def seconds(self, wanted: Desired) -> float:
        """Return the lease of an assignment, 0.0 when it has none."""
        if wanted.rollout_id not in self._known:
            plan = self._record.plan(self._record.rollout(wanted.rollout_id).plan_id)
            self._known[wanted.rollout_id] = plan.document.get("shared", {})
        value = self._known[wanted.rollout_id].get(wanted.variant, {}).get("lease_s", 0.0)
        return float(value)


def patrol(
    record: Record,
    hosts: Sequence[str],
    definitions: Mapping[str, Host],
    connect: ExecutorFactory,
    *,
    parallel: int,
    on_look: Callable[[Look], None] = lambda _look: None,
) -> Iterator[Look]:
    """Look at each of *hosts* once, some hundred at a time; what is found is kept before the next ones are asked."""
    leases = Leases(record)
    for start in range(0, len(hosts), WINDOW):
        names = [name for name in hosts[start : start + WINDOW] if name in definitions]
        desired = record.desired(names)
        terms = {name: {d.program: leases.seconds(d) for d in desired[name]} for name in names}

        def one(name: str, desired: Any = desired, terms: Any = terms) -> Look:
            look = _look(definitions[name], desired[name], terms[name], connect)
            on_look(look)
            return look

        with ThreadPoolExecutor(parallel, thread_name_prefix="patrol") as pool:
            looks = list(pool.map(one, names))
        record.record_looks({look.host: look.differences for look in looks if look.fault is None})
        yield from looks


def _look(host: Host, desired: Sequence[Desired], terms: Mapping[str, float], connect: ExecutorFactory) -> Look:
    try:
        with connect(host) as executor:
            status = executor.status()
            _renew(executor, status, terms)
        return Look(host.name, compare(host.name, desired, status))
    except Fault as fault:
        return Look(host.name, fault=fault)


def _renew(executor: Executor, status: Mapping[str, Any], terms: Mapping[str, float]) -> None:
    for program, lease_s in terms.items():
        if lease_due(status, program, lease_s):
            executor.renew(program, lease_s)
