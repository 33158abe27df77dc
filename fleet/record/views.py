"""What the record hands out: plain frozen values. No row and no session leaves the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inventory.host import Host


@dataclass(frozen=True, slots=True)
class HostFilter:
    """Which hosts a window shows; empty shows all. ``text`` is found in name, release, zone and OS, ignoring case."""

    text: str = ""
    reach: str | None = None
    kernel_id: str | None = None
    zone: str | None = None
    program: str | None = None  # with ``verdict``: the decision for this program
    verdict: str | None = None
    trouble: bool = False  # only hosts that were asked and did not answer well


@dataclass(frozen=True, slots=True)
class HostView:
    """A host as lists show it. Times in seconds since the epoch."""

    name: str
    zone: str
    source: str
    reach: str
    reach_code: str | None
    reach_detail: str | None
    scanned_at: float | None
    seen_at: float | None
    kernel_id: str | None
    release: str
    arch: str
    os_name: str
    boot_id: str | None
    btf: str | None  # does the kernel show its BTF: yes|no|blocked|unknown, None before the first good scan
    facts_digest: str | None
    host: Host
    verdicts: Mapping[str, str] = field(default_factory=dict)  # program → verdict
    variants: Mapping[str, str] = field(default_factory=dict)  # program → variant


@dataclass(frozen=True, slots=True)
class HostBrief:
    """As much of a host as a selector mostly asks for."""

    host: Host
    release: str
    arch: str
    btf: str | None
    facts_digest: str | None


@dataclass(frozen=True, slots=True)
class KernelView:
    """One kernel build and how many hosts run it."""

    id: str
    release: str
    version: str
    arch: str
    os_name: str
    btf_sha256: str | None
    first_seen: float
    hosts: int


@dataclass(frozen=True, slots=True)
class MatrixCell:
    """One program on one kernel build: how many hosts got which verdict and which variant."""

    kernel_id: str
    release: str
    arch: str
    os_name: str
    program: str
    verdicts: Mapping[str, int]
    variants: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PlanView:
    """A saved plan; ``document`` is ``corollout.plan/1``."""

    id: str
    program: str
    digest: str
    created_at: float
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PinView:
    """A host that a person holds to what it runs (``variant`` None), or to one variant."""

    host: str
    program: str
    variant: str | None
    reason: str
    actor: str
    at: float


@dataclass(frozen=True, slots=True)
class WaveView:
    """One wave; ``steps`` counts its hosts by step state; ``gate`` is the gate's answer with its evidence;
    ``approval``: a person says when it begins."""

    number: int
    name: str
    state: str
    phase: str | None
    bake_s: float
    baking_since: float | None
    started_at: float | None
    ended_at: float | None
    gate: Mapping[str, Any] | None
    steps: Mapping[str, int]
    approval: bool = False


@dataclass(frozen=True, slots=True)
class RolloutView:
    """One rollout. ``controller`` has claimed it and was last heard of at ``beat_at``; it may have died since:
    ``driving.controller.driver`` tells. ``held``: (kernel id, variant) that halted alone; ``duty``: what is
    due beside its waves; ``pace``: ``all`` or ``wave:N`` when a person had it go on without baking.
    """

    id: str
    plan_id: str
    program: str
    state: str
    reason: str | None
    wave: int
    leg: int
    epoch: int
    actor: str
    created_at: float
    ended_at: float | None
    controller: str | None
    waves: tuple[WaveView, ...] = ()
    beat_at: float | None = None
    approved_by: str | None = None
    pace: str = ""
    duty: str | None = None
    held: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class StepView:
    """One host of one wave; ``document`` is the agent's last answer."""

    rollout_id: str
    host: str
    wave: int
    variant: str
    build: str
    kernel_id: str
    state: str
    attempts: int
    token: int | None
    revert_token: int | None
    previous: str | None
    detail: str | None
    document: Mapping[str, Any] | None
    started_at: float | None
    ended_at: float | None
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A build that a host's verifier rejected in a rollout; ``document`` is the agent's answer, the log in it."""

    program: str
    variant: str
    build: str
    kernel_id: str
    host: str
    rollout_id: str
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """Where a step got to. ``forget_token``: the host said that nothing of its order stands; a retry is a new one."""

    host: str
    state: str
    detail: str | None = None
    document: Mapping[str, Any] | None = None
    forget_token: bool = False


@dataclass(frozen=True, slots=True)
class SampleView:
    """One look at one program on one host; see ``SampleRow`` for units."""

    host: str
    program: str
    rollout_id: str | None
    wave: int | None
    at: float
    outcome: str = "ok"
    window_s: float = 0.0
    cpu_percent: float | None = None
    ns_per_event: float | None = None
    events: int | None = None
    memory_bytes: int | None = None
    lost: int | None = None
    loss_percent: float | None = None
    tripped: bool = False
    document: Mapping[str, Any] = field(default_factory=dict)
    id: int = 0

    @property
    def calibrated(self) -> bool:
        """Whether no attach cost in it is a default: the host's own were used, or none were needed."""
        cost = self.document.get("sample")
        return not isinstance(cost, Mapping) or cost.get("calibrated") is not False


@dataclass(frozen=True, slots=True)
class ServiceView:
    """One round of asking a service on one host; see ``ServiceSampleRow`` for units and words."""

    rollout_id: str
    wave: int
    host: str
    role: str
    moment: str
    round: float
    at: float
    outcome: str = "ok"
    asked: int = 0
    errors: int = 0
    median_us: float | None = None
    tail_us: float | None = None
    document: Mapping[str, Any] = field(default_factory=dict)
    id: int = 0


@dataclass(frozen=True, slots=True)
class RequestView:
    """What a person asked of a rollout; ``taken_at`` is when the workflow acted on it."""

    id: int
    rollout_id: str
    verb: str
    arguments: Mapping[str, Any]
    actor: str
    at: float
    taken_at: float | None
    outcome: str | None


@dataclass(frozen=True, slots=True)
class EventView:
    """One row of the audit."""

    id: int
    at: float
    actor: str
    verb: str
    rollout_id: str | None
    host: str | None
    program: str | None
    before: str | None
    after: str | None
    token: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class Pulse:
    """The newest of everything a live screen shows: ids of audit row and sample, time of scan."""

    event: int
    sample: int
    scan: float


@dataclass(frozen=True, slots=True)
class AssignmentView:
    """What a host should be running."""

    host: str
    program: str
    variant: str
    build: str
    token: int
    rollout_id: str
    since: float


@dataclass(frozen=True, slots=True)
class Desired:
    """What one host should run. ``answer`` is the agent's, read back from the kernel when it was attached."""

    host: str
    program: str
    variant: str
    build: str
    token: int
    rollout_id: str
    kernel_id: str
    answer: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which a host is not as it should be. ``program`` is empty for what concerns the whole host."""

    host: str
    program: str
    kind: str
    wanted: str
    seen: str
    detail: str


@dataclass(frozen=True, slots=True)
class DriftView:
    """A difference as the record keeps it; times in seconds since the epoch."""

    difference: Difference
    first_seen: float
    last_seen: float


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did, by host name, each sorted."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A process that carries slices, and how long ago it was heard of, in seconds."""

    id: str
    zones: tuple[str, ...]
    started_at: float
    beat_at: float
    silent_s: float


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to write about one slice's hosts; worth nothing once the slice's epoch rose."""

    slice_id: str
    worker: str
    epoch: int
