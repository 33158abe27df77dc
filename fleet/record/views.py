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
class DecidedView:
    """What holds for one program on one host: its pin, and the variant decided last, if one was."""

    pin: PinView | None
    known: bool  # whether anything was decided
    variant: str | None  # None: nothing fits


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
