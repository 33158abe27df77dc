"""Verbs that name a part of a rollout: which steps and waves they move, of which hosts, kernels or waves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleet.record import Record
from fleet.record.rollout_views import RolloutView
from fleet.rollout.machine.alone import undo
from fleet.rollout.machine.phases import stop_at
from fleet.rollout.states import (
    ABORTED,
    ACTIVE,
    FROZEN,
    HALTED,
    NAMED_STEPS,
    PHASES,
    RETRIED_STEPS,
    ROLLBACK_INCOMPLETE,
    RUNNING,
    WAITING_STEPS,
    because,
)


def _which(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``move_steps`` is narrowed by."""
    names = {"host": "hosts", "kernel": "kernels", "wave": "since"}
    return {names[key]: value for key, value in given.items() if key in names}


def retry_part(record: Record, view: RolloutView, given: Mapping[str, Any], actor: str) -> int:
    """Have hosts tried again: those that failed or were silent; where a person names them, those left out as well.

    Waves they are of begin anew, the one under way at its first phase; returns how many hosts.
    """
    which = _which(given)
    states = NAMED_STEPS if which else RETRIED_STEPS
    chosen = [s for s in record.steps(view.id, states=states, hosts=which.get("hosts"))
              if s.kernel_id in which.get("kernels", (s.kernel_id,))]  # fmt: skip
    if not which:
        chosen = [s for s in chosen if (s.kernel_id, s.variant) not in view.held]
    if not chosen:
        return 0
    if released := {(s.kernel_id, s.variant) for s in chosen} & set(view.held):
        record.note_rollout(view.id, verb="release", actor=actor, held=set(view.held) - released)
    hosts = [s.host for s in chosen]
    undone = [s.host for s in chosen if s.state == "reverted"]  # theirs is a new order
    record.move_steps(view.id, ("reverted",), "pending", hosts=undone, forget=True, actor=actor)
    record.move_steps(view.id, states, "pending", hosts=hosts, actor=actor)
    for number in sorted({s.wave for s in chosen}):
        if number == view.wave and view.state in ACTIVE:
            record.set_wave(view.id, number, state="running", phase=PHASES[0], detail="retry")
            record.set_rollout_state(view.id, RUNNING)
        else:
            record.set_wave(view.id, number, state="pending", detail="retry")
    return len(hosts)


def roll_back_part(record: Record, view: RolloutView, given: Mapping[str, Any], actor: str, by: str) -> str:
    """Have a part undone beside the waves: from a wave on, some hosts, or a kernel build; the rest stays.

    From a wave on, the rollout halts before that wave; hosts and kernels are left out, and it goes on without them.
    """
    which = _which(given)
    if view.state in (FROZEN, ROLLBACK_INCOMPLETE):
        return f"refused: the rollout is {view.state}; the whole of it can be rolled back, or resumed first"
    detail = f"rolled back {by}"
    count = undo(record, view, **which, detail=detail, actor=actor)
    if "wave" in given:
        since = given["wave"]
        if not any(w.number >= since and w.state not in ("pending", "reverted") for w in view.waves):
            return f"nothing to do: wave {since} has not begun"
        record.move_steps(view.id, ("probed", "staged", "checked"), "pending", since=since, actor=actor)
        for wave in view.waves[since:]:
            if wave.state != "pending":
                record.set_wave(view.id, wave.number, state="reverted", phase=None, detail=detail)
        if view.state != ABORTED:
            reason = because("in-part", f"wave {since} and later, {by}")
            stop_at(record, view, HALTED, actor=actor, verb="rollback", reason=reason, ended_at=None)
    else:
        left = record.move_steps(view.id, (*WAITING_STEPS, "held"), "skipped", **which, detail=detail, actor=actor)
        if not count and not left:
            return "nothing to do: nothing of it is on these hosts"
        kernels = set(which.get("kernels", ()))
        record.note_rollout(view.id, verb="release", actor=actor, held=[s for s in view.held if s[0] not in kernels])
    record.note_rollout(view.id, verb="rollback", actor=actor, detail=f"{count} hosts, {by}", duty="undo")
    return f"rolling back {count} hosts"
