"""What changed since a plan was made: hosts that are no longer what was planned for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from btf.fault import EXIT_NO, Fault, printable
from fleet.rollout.planning.plan import Plan


class PlanStale(Fault):
    """Hosts changed since the plan was made."""

    code = "COR-PLN-002"
    exit = EXIT_NO
    remedy = "Plan the same again for the hosts as they are now: `corollout rollout start PLAN --replan`."


@dataclass(frozen=True, slots=True)
class Stale:
    """A planned host that is no longer what it was."""

    host: str
    what: Literal["gone", "kernel-changed", "facts-changed"]
    planned: str
    now: str


def find_stale(plan: Plan, current: Mapping[str, tuple[str | None, str | None]]) -> tuple[Stale, ...]:
    """Return the planned hosts whose (kernel id, facts digest) in *current* differ from the plan's, in plan order."""
    found: list[Stale] = []
    for h in plan.hosts:
        kernel_id, digest = current.get(h.host, (None, None))
        if h.host not in current:
            found.append(Stale(h.host, "gone", h.kernel_id, ""))
        elif kernel_id != h.kernel_id:
            found.append(Stale(h.host, "kernel-changed", h.kernel_id, kernel_id or "unknown"))
        elif digest != h.facts_digest:
            found.append(Stale(h.host, "facts-changed", h.facts_digest, digest or "unknown"))
    return tuple(found)


def refuse_stale(plan: Plan, current: Mapping[str, tuple[str | None, str | None]]) -> None:
    """Raise PlanStale naming the first hosts that changed since *plan* was made; return when none did."""
    if stale := find_stale(plan, current):
        names = ", ".join(f"{s.host} ({s.what})" for s in stale[:5]) + (" …" if len(stale) > 5 else "")
        raise PlanStale(printable(f"{len(stale)} of {len(plan.hosts)} hosts changed since plan {plan.id}: {names}"))
