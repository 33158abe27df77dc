"""What every piece of a rollout's work is given: the record, the plan, the hosts and how to reach them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from btf.fault import Fault
from fleet.record import Record
from fleet.record.rollout_views import Claim, StepOutcome, StepView
from fleet.rollout.execute import ExecutorFactory, Spec
from fleet.rollout.hosts.clock import Clock
from fleet.rollout.planning.plan import Plan
from inventory.host import Host, zone_of


class HostGone(Fault):
    """The host left the inventory after the plan was made."""

    code = "COR-ROL-012"
    remedy = "Import it again, or plan again without it."


@dataclass(frozen=True, slots=True)
class Work:
    """Everything a phase needs. ``hosts`` and ``specs`` are of the plan; ``stop`` ends the work between hosts.

    ``hold``: a paused rollout is watched on until a person decides, instead of ending the leg. ``zone`` and ``claim``:
    only this zone's hosts are worked on, and only while the claim on the slice stands.
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

    zone: str | None = None
    claim: Claim | None = None

    def host(self, name: str) -> Host:
        """Return how to reach a planned host, or raise HostGone."""
        found = self.hosts.get(name) or self.record.definition(name)  # one that joined came after the hosts were read
        if found is None:
            raise HostGone(f"{name} is no longer in the inventory")
        return found

    def serves(self, name: str) -> bool:
        """Whether a host is of the zone that is worked on."""
        if self.zone is None:
            return True
        found = self.hosts.get(name) or self.record.definition(name)
        return found is not None and zone_of(found) == self.zone

    def steps(self, wave: int, states: Iterable[str]) -> list[StepView]:
        """Return the steps of *wave* that are in *states*, of the zone that is worked on."""
        return self.record.steps(self.rollout_id, wave=wave, states=states, zone=self.zone)

    def failed(self, wave: int) -> int:
        """Return how many hosts of *wave* failed, in whatever zone."""
        if held := self.record.rollout(self.rollout_id).held:  # kernels that halted alone are not of it
            failed = self.record.steps(self.rollout_id, wave=wave, states=("failed",))
            return sum((s.kernel_id, s.variant) not in held for s in failed)
        return self.record.steps_in(self.rollout_id, wave, "failed")

    def begin(self, host: str, *, revert: bool = False, among: tuple[str, ...] | None = None) -> int:
        """Write that *host* is about to be touched, if its step is *among* these; returns its fencing token."""
        return self.record.begin_step(
            self.rollout_id, host, controller=self._leader, claim=self.claim, revert=revert, among=among
        )

    def finish(self, outcomes: Iterable[StepOutcome]) -> None:
        """Write where hosts got to."""
        self.record.finish_steps(self.rollout_id, outcomes, controller=self._leader, claim=self.claim)

    @property
    def _leader(self) -> str | None:
        return self.controller if self.claim is None else None

    def watching(self) -> bool:
        """Whether a person's request waits: phases end early for it."""
        return bool(self.record.requests(self.rollout_id, waiting=True))
