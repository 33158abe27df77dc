"""What the record says of rollouts: plain values, no session behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
