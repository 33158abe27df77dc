"""What persons ask of a rollout, and what each request changes; one that does not fit is answered and changes nothing.

Runs inside the transaction of a decision, whoever drives: asked twice or at the same moment as a gate, it acts once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fleet.record import Record
from fleet.record.rollout_views import RequestView, RolloutView
from fleet.rollout.hosts import hours
from fleet.rollout.hosts.work import Work
from fleet.rollout.machine.alone import hold
from fleet.rollout.machine.part import retry_part, roll_back_part
from fleet.rollout.machine.phases import next_wave, pass_wave, start_bake, stop_at, wait_for_approval
from fleet.rollout.machine.verbs import VERBS, RequestWrong, check_request
from fleet.rollout.planning.plan import load_plan
from fleet.rollout.planning.settings import WaveSettings
from fleet.rollout.states import (
    ABORTED,
    ACTIVE,
    FROZEN,
    HALTED,
    PAUSED,
    ROLLING_BACK,
    RUNNING,
    WAITING_APPROVAL,
    because,
)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request as it is answered: what it says, the rollout as it stands, and the plan's policy."""

    record: Record
    view: RolloutView
    settings: WaveSettings
    actor: str
    given: dict[str, Any]

    @property
    def by(self) -> str:
        """Who asked, and why."""
        return f"by {self.actor}" + (f": {self.given['remark']}" if "remark" in self.given else "")

    def move(self, state: str, verb: str, code: str = "asked", **columns: Any) -> None:
        """Move the rollout to a state that holds it, for a reason of that *code*."""
        stop_at(self.record, self.view, state, actor=self.actor, verb=verb, reason=because(code, self.by), **columns)

    def note(self, verb: str, detail: str, **columns: Any) -> None:
        """Audit what was done without a change of state."""
        self.record.note_rollout(self.view.id, verb=verb, actor=self.actor, detail=detail, **columns)


def answer_requests(record: Record, work: Work, *, crossing: bool = False) -> None:
    """Take every waiting request in order; one that does not fit the state is answered and changes nothing.

    *crossing*: before the outcome of a phase is taken in; then only when one of them is to stop the rollout, which
    wins over whatever was decided while it was on its way.
    """
    waiting = record.requests(work.rollout_id, waiting=True)
    if crossing and not any(r.verb in VERBS and VERBS[r.verb].stops for r in waiting):
        return
    for request in waiting:
        record.answer_request(request.id, answer(record, request, work.plan.settings))


def answer(record: Record, request: RequestView, settings: WaveSettings) -> str:
    """Do what one request asks, and say what came of it."""
    view = record.rollout(request.rollout_id)
    try:
        given = check_request(request.verb, request.arguments)
    except RequestWrong as fault:
        return f"refused: {fault.message}"
    if view.state not in VERBS[request.verb].states:
        return f"nothing to do: the rollout is {view.state}"
    return ANSWERS[request.verb](Ask(record, view, settings, request.actor, given))


class _Rehearsed(Exception):
    pass


def rehearse(record: Record, rollout_id: str, verb: str, actor: str, arguments: Mapping[str, Any]) -> str:
    """Return what a request would be answered now; changes nothing, as everything it did is taken back."""
    settings = load_plan(record.plan(record.rollout(rollout_id).plan_id).document).settings
    outcome = ""
    with contextlib.suppress(_Rehearsed), record.writing() as session:
        request = RequestView(0, rollout_id, verb, arguments, actor, record.now(), None, None)
        outcome = answer(record.joined(session), request, settings)
        raise _Rehearsed
    return outcome


def _start(ask: Ask) -> str:
    ask.note("start", ask.by)
    return "starting"  # whoever takes the request enters the rollout, and that starts it


def _approve(ask: Ask) -> str:
    if ask.settings.second_person and ask.actor == ask.view.actor:
        return f"refused: {ask.actor} started it, and the policy wants a second person to approve"
    ask.note("approve", ask.by, approved_by=ask.view.approved_by or ask.actor)
    next_wave(ask.record, ask.view, approved=True)
    return "approved and started"


def _deny(ask: Ask) -> str:
    ask.move(ABORTED, "deny", "denied", ended_at=ask.record.now())
    return "denied; no host was touched"


def _pause(ask: Ask) -> str:
    if ask.view.state == PAUSED and not hours.waits(ask.view):
        return f"nothing to do: the rollout is {ask.view.state}"
    ask.move(PAUSED, "pause")
    return "paused"


def _freeze(ask: Ask) -> str:
    ask.move(FROZEN, "freeze")
    return "frozen: hosts stay as they are, watched"


def _halt(ask: Ask) -> str:
    record, view = ask.record, ask.view
    if "kernel" in ask.given:
        strata = [s for s in record.strata(view.id) if s[0] in ask.given["kernel"] and s not in view.held]
        if not strata:
            return "nothing to do: no host of this rollout that goes on has this kernel"
        count = hold(record, view, ask.settings, strata, ask.by, ask.actor)
        return f"halted alone: {', '.join(f'{v} on {k}' for k, v in strata)}; {count} hosts are held"
    wave = view.waves[view.wave] if view.wave >= 0 else None
    if wave is not None and wave.phase in ("bake", "gate") and wave.state == "baking":
        reason = f"failed by hand {ask.by}"
        gate = {"answer": "fail", "reason": reason, "checks": [], "failed_kernels": []}
        record.set_wave(view.id, wave.number, state="failed", gate=gate, detail=reason)
    ask.move(HALTED, "halt")
    return "halted"


def _abort(ask: Ask) -> str:
    ask.move(ABORTED, "abort", "given-up", ended_at=ask.record.now())
    return "aborted; hosts stay as they are"


def _resume(ask: Ask) -> str:
    record, view = ask.record, ask.view
    if view.wave < 0:  # stopped before it began
        if ask.settings.approval and view.approved_by is None:
            wait_for_approval(record, view)
            return "waits for approval"
        ask.note("resume", ask.by)
        next_wave(record, view)
        return "started"
    redone = [w.number for w in view.waves if w.state == "reverted"]
    if redone:
        moved = record.move_steps(
            view.id, ("reverted",), "pending", since=min(redone), outside=view.held, forget=True, actor=ask.actor
        )
        ask.note("resume", f"waves {min(redone)} and later anew, {moved} hosts")
        next_wave(record, view)
        return f"resumed: wave {min(redone)} and later anew"
    wave = view.waves[view.wave]
    by_hand = (wave.gate or {}).get("checks") == []
    if wave.state == "failed" and not by_hand:
        if view.state == HALTED:
            return "refused: a gate failed; retry its hosts, promote past it, or roll back"
        gate = wave.gate or {}
        reason = because("gate-failed", f"wave {wave.number}: {gate.get('reason', '')}")
        record.set_rollout_state(view.id, HALTED, actor=ask.actor, verb="resume", reason=reason)
        return "no longer frozen; its gate had failed: retry its hosts, promote past it, or roll back"
    ask.note("resume", ask.by)
    if wave.phase in ("bake", "gate"):  # what was interrupted or inconclusive is looked at anew
        start_bake(record, view, record.now(), wave.number)
    else:
        record.set_rollout_state(view.id, RUNNING, actor=ask.actor, verb="resume")
    return "resumed"


def _promote(ask: Ask) -> str:
    """Go on past the gate, and without the kernels that failed it: they are quarantined for this rollout."""
    record, view, given = ask.record, ask.view, ask.given
    wave = view.waves[view.wave] if view.wave >= 0 else None
    if wave is None:
        return "refused: it has not begun; resume starts it"
    attached = wave.phase in ("bake", "gate") and wave.state != "reverted"
    if given.get("skip_bake") and attached:
        return "refused: this wave bakes already; promote it"
    if not attached and not given:
        return "refused: no wave is attached and waits; --skip-bake goes on as soon as this one is, --all through all"
    if not attached or given.get("all"):
        pace = "all" if given.get("all") else f"wave:{wave.number}"
        ask.note("promote", f"{'straight through' if pace == 'all' else 'without its bake'}, {ask.by}", pace=pace)
    if attached:
        for kernel_id, variant in (wave.gate or {}).get("failed_kernels", ()):
            detail = f"COR-ROL-013: quarantined, {variant} failed on this kernel in wave {wave.number}"
            record.move_steps(view.id, ("pending",), "skipped", strata=[(kernel_id, variant)], detail=detail)
        ask.note("promote", f"wave {wave.number} past its gate, {ask.by}")
        pass_wave(record, view, wave.number, f"promoted {ask.by}")
        return "promoted"
    if view.state not in ACTIVE:
        record.set_rollout_state(view.id, RUNNING, actor=ask.actor, verb="promote")
    return "promoted: straight through" if given.get("all") else "promoted: its bake will be skipped"


def _retry(ask: Ask) -> str:
    moved = retry_part(ask.record, ask.view, ask.given, ask.actor)
    if not moved:
        return "nothing to do: no host failed or was unreachable"
    ask.note("retry", f"{moved} hosts, {ask.by}")
    if ask.view.state not in ACTIVE:
        next_wave(ask.record, ask.view)
    return f"retrying {moved} hosts"


def _roll_back(ask: Ask) -> str:
    if {"wave", "host", "kernel"} & set(ask.given):
        return roll_back_part(ask.record, ask.view, ask.given, ask.actor, ask.by)
    if ask.view.wave < 0 and ask.view.state == WAITING_APPROVAL:
        return "refused: nothing of it has begun; deny ends it"
    ask.move(ROLLING_BACK, "rollback", duty=None)
    return "rolling back"


def _reconcile(ask: Ask) -> str:
    ask.note("reconcile", ask.by, duty="reconcile")
    return "looking at every host again"


ANSWERS: dict[str, Callable[[Ask], str]] = {
    "start": _start,
    "approve": _approve,
    "deny": _deny,
    "pause": _pause,
    "resume": _resume,
    "promote": _promote,
    "freeze": _freeze,
    "halt": _halt,
    "abort": _abort,
    "retry": _retry,
    "rollback": _roll_back,
    "reconcile": _reconcile,
}
