"""What every piece of a rollout's work is given: the record, the plan, the hosts and how to reach them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from btf.fault import Fault
from fleet.record import Record
from fleet.rollout.clock import Clock
from fleet.rollout.execute import ExecutorFactory, Spec
from fleet.rollout.plan import Plan
from inventory.host import Host


class HostGone(Fault):
    """The host left the inventory after the plan was made."""

    code = "COR-ROL-012"
    remedy = "Import it again, or plan again without it."


@dataclass(frozen=True, slots=True)
class Work:
    """Everything a phase needs. ``hosts`` and ``specs`` are of the plan; ``stop`` ends the work between hosts.

    ``hold``: a paused rollout is watched on until a person decides, instead of ending the leg.
    """

    record: Record
    rollout_id: str
    plan: Plan
    hosts: Mapping[str, Host]
    connect: ExecutorFactory
    clock: Clock
    controller: str
    stop: threading.Event
    hold: bool = False
    specs: Mapping[str, Spec] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)  # host → end of the window that was sampled last

    def host(self, name: str) -> Host:
        """Return how to reach a planned host, or raise HostGone."""
        try:
            return self.hosts[name]
        except KeyError:
            raise HostGone(f"{name} is no longer in the inventory") from None

    def watching(self) -> bool:
        """Whether a person's request waits: phases end early for it."""
        return bool(self.record.requests(self.rollout_id, waiting=True))
