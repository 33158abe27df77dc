"""Hosts that came after the plan was made join the last wave of the rollout that is under way; never an earlier one.

A host joins when it is what the plan was made for: it matches the plan's selector, is decided, has a variant the plan
has, and runs a kernel build whose canary is healthy. Whatever else came waits for the next plan. A networking program's
tables name each other's hosts, so there nobody joins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from fleet.record import Record
from fleet.record.rollout_views import RolloutView, WaveView
from fleet.rollout.planning.plan import Plan, read_plan
from fleet.rollout.planning.waves import PlannedHost
from fleet.selection import matching

# Left out when the plan was made, for want of what may be known by now.
_LATE = frozenset({"no-answer", "no-decision", "decision-stale"})
_CAN = frozenset({"fits", "degraded"})


class RolloutSpecs(Mapping[str, dict[str, Any]]):
    """The spec of every host of a rollout, by host: those of its plan, and those that joined."""

    def __init__(self, record: Record, rollout_id: str, plan: Plan) -> None:
        self._record, self._rollout_id, self._plan = record, rollout_id, plan

    def __getitem__(self, host: str) -> dict[str, Any]:
        planned = self._plan.by_name.get(host) or self._joined(host)
        return self._plan.spec_of(planned)

    def _joined(self, host: str) -> PlannedHost:
        text = self._record.joined_host(self._rollout_id, host)
        if text is None:
            raise KeyError(host)
        return msgspec.json.decode(text, type=PlannedHost)

    def __iter__(self) -> Iterator[str]:
        """Go through those of the plan."""
        return iter(self._plan.by_name)

    def __len__(self) -> int:
        return len(self._plan.by_name)


def specs_of(record: Record, rollout_id: str) -> RolloutSpecs:
    """Return the specs of a rollout that may be over."""
    return RolloutSpecs(record, rollout_id, read_plan(record.plan_text(record.rollout(rollout_id).plan_id)))


def take_in(record: Record, view: RolloutView, wave: WaveView) -> None:
    """Let hosts join *wave* when it is the last and not the first; inside the decision that begins it."""
    if wave.number == 0 or wave.number != view.waves[-1].number:
        return
    plan = read_plan(record.plan_text(view.plan_id))
    if plan.settings.join and all(shared["kind"] == "tracing" for shared in plan.shared.values()):
        found = list(_late(record, view, plan))
        rows = [(h.host, h.variant, h.build, h.kernel_id, msgspec.json.encode(h).decode()) for h in found]
        record.join_hosts(view.id, wave.number, rows)


def _late(record: Record, view: RolloutView, plan: Plan) -> Iterator[PlannedHost]:
    """Yield the hosts that may join, by name."""
    where = str(plan.wishes.get("where", ""))
    chosen = matching(record, [text for text in dict.fromkeys((where, plan.settings.exclude)) if text])
    excluded = chosen.get(plan.settings.exclude, frozenset())
    known = {s.host for s in plan.skipped if s.code not in _LATE} | {s.host for s in record.steps(view.id)}
    pinned = {pin.host for pin in record.pins(plan.program)}
    healthy = {(s.kernel_id, s.variant) for s in record.steps(view.id, wave=0, states=("healthy",))}
    runs = {host: (variant, build) for host, variant, build, _plan in record.running(plan.program)}
    builds = {variant: str(shared["build"]) for variant, shared in plan.shared.items()}
    for host, kernel_id, variant, verdict, _summary, digest, fresh, away in record.candidates(plan.program):
        if host in known or host in pinned or host in excluded or (where and host not in chosen[where]):
            continue
        if away or not fresh or verdict not in _CAN or (kernel_id, variant) not in healthy:
            continue
        if runs.get(host) != (variant, builds[variant]):
            yield PlannedHost(host, kernel_id, variant, builds[variant], digest)
