"""The rollout's state machine: which phase comes next, what a person's request changes, when it stops.

Every decision is one transaction (state, audit and the engine's journal commit together) made from the record alone;
every effect on hosts is a phase of ``steps`` or ``bake``. How both are made durable is the engine's business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from fleet.record import Record
from fleet.record.views import RequestView, RolloutView
from fleet.rollout import bake
from fleet.rollout.states import (
    ABORTED,
    BAKING,
    COMPLETED,
    HALTED,
    PAUSED,
    PHASES,
    PLANNED,
    RETRIED_STEPS,
    ROLLBACK_INCOMPLETE,
    ROLLED_BACK,
    ROLLING_BACK,
    RUNNING,
    VERBS,
)
from fleet.rollout.steps import Work, carry

Document = dict[str, Any]  # JSON: it goes through the engine's journal


class Journal(Protocol):
    """What makes a leg durable: what was done once is not done again when the leg is resumed."""

    def commit(self, name: str, change: Callable[[Record], Document]) -> Document:
        """Run *change* in one transaction together with the note that it was done; exactly once."""
        ...

    def perform(self, name: str, effect: Callable[[], Document]) -> Document:
        """Run *effect* and note its result; it may be run again when a crash comes between the two."""
        ...


def drive(journal: Journal, work: Work) -> Document:
    """Carry a rollout on until it ends, waits for a person, or is stopped; returns ``{"state"}``."""
    at = journal.commit("enter", lambda record: enter(record, work))
    while phase := at["phase"]:
        number = at["wave"]
        outcome = journal.perform(phase, lambda: perform(work, phase, number))  # noqa: B023 - called before it changes
        at = journal.commit("advance", lambda record: advance(record, work, number, phase, outcome))  # noqa: B023  as above
    return at


def perform(work: Work, phase: str, wave: int) -> Document:
    """Do what *phase* means for the hosts of *wave*."""
    if phase in ("bake", "hold"):
        return bake.watch_over(work, wave, hold=phase == "hold")
    return bake.judge(work, wave) if phase == "gate" else carry(work, wave, phase)


def enter(record: Record, work: Work) -> Document:
    """Begin a leg: take what was asked for meanwhile, and find where to go on."""
    answer_requests(record, work)
    view = record.rollout(work.rollout_id)
    if view.state == PLANNED:
        record.set_rollout_state(view.id, RUNNING, verb="start", actor=view.actor)
        _next_wave(record, view)
    return _where(record, work)


def advance(record: Record, work: Work, number: int, phase: str, outcome: Document) -> Document:
    """Take in what *phase* gave, then what persons asked for, and say what comes next."""
    view = record.rollout(work.rollout_id)
    if phase in _AFTER and view.state in (RUNNING, BAKING) and not _cut(outcome):
        _AFTER[phase](record, view, work, number, outcome)
    answer_requests(record, work)
    return _where(record, work)


def _cut(outcome: Document) -> bool:
    """Whether a phase left hosts undone that it is to come back to; failures are for the gate to judge."""
    return outcome.get("cut", "") in ("stopped", "asked")


def _where(record: Record, work: Work) -> Document:
    view = record.rollout(work.rollout_id)
    phase: str | None = None
    if work.stop.is_set():
        phase = None
    elif view.state in (RUNNING, BAKING):
        phase = view.waves[view.wave].phase
    elif view.state == PAUSED and work.hold:
        phase = "hold"
    return {"state": view.state, "wave": view.wave, "phase": phase}


# What follows each phase


def _to_next_phase(record: Record, view: RolloutView, work: Work, number: int, outcome: Document) -> None:  # noqa: ARG001
    phase = view.waves[number].phase or PHASES[0]
    record.set_wave(view.id, number, phase=PHASES[PHASES.index(phase) + 1])


def _to_bake(record: Record, view: RolloutView, work: Work, number: int, outcome: Document) -> None:
    if outcome.get("cut") == "failures":
        record.set_wave(view.id, number, phase="gate", baking_since=work.clock.now())
        return
    _start_bake(record, view, work.clock.now(), number)


def _start_bake(record: Record, view: RolloutView, now: float, number: int) -> None:
    record.set_wave(view.id, number, phase="bake", state="baking", baking_since=now)
    record.set_rollout_state(view.id, BAKING, reason=None)


def _bake_on(record: Record, view: RolloutView, work: Work, number: int, outcome: Document) -> None:  # noqa: ARG001
    if outcome["canaries"]:
        reason = f"canary-tripped: {', '.join(outcome['canaries'])}"
        record.set_rollout_state(view.id, HALTED, verb="halt", reason=reason)
    elif outcome["over"]:
        record.set_wave(view.id, number, phase="gate")


def _through_gate(record: Record, view: RolloutView, work: Work, number: int, outcome: Document) -> None:
    answer = outcome["answer"]
    wave_state = {"pass": "passed", "fail": "failed"}.get(answer, answer)
    now = work.clock.now()
    record.set_wave(view.id, number, state=wave_state, gate=outcome, ended_at=now, detail=outcome["reason"])
    if answer == "pass":
        record.move_steps(view.id, ("verified",), "healthy", wave=number)
        _next_wave(record, view)
    elif answer == "fail":
        record.set_rollout_state(
            view.id, HALTED, verb="halt", reason=f"gate-failed: wave {number}: {outcome['reason']}"
        )
    else:
        reason = f"gate-{answer}: wave {number}: {outcome['reason']}"
        record.set_rollout_state(view.id, PAUSED, verb="pause", reason=reason)


_AFTER: dict[str, Callable[[Record, RolloutView, Work, int, Document], None]] = {
    "probe": _to_next_phase,
    "stage": _to_next_phase,
    "check": _to_next_phase,
    "apply": _to_bake,
    "bake": _bake_on,
    "gate": _through_gate,
}


def _next_wave(record: Record, view: RolloutView) -> None:
    """Begin the first wave that has not passed; where all have, the rollout is complete."""
    wave = next((w for w in record.rollout(view.id).waves if w.state != "passed"), None)
    if wave is None:
        record.set_rollout_state(view.id, COMPLETED, ended_at=record.now())
        return
    record.set_wave(view.id, wave.number, state="running", phase=PHASES[0], started_at=record.now())
    record.set_rollout_state(view.id, RUNNING, wave=wave.number, ended_at=None)


# What persons ask for


def answer_requests(record: Record, work: Work) -> None:
    """Take every waiting request in order; one that does not fit the state is answered and changes nothing."""
    for request in record.requests(work.rollout_id, waiting=True):
        view = record.rollout(work.rollout_id)
        verb = VERBS.get(request.verb)
        if verb is None:
            outcome = "refused: no such verb"
        elif view.state not in verb.states:
            outcome = f"nothing to do: the rollout is {view.state}"
        else:
            outcome = _ANSWERS[verb.name](record, view, request)
        record.answer_request(request.id, outcome)


def _pause(record: Record, view: RolloutView, request: RequestView) -> str:
    record.set_rollout_state(view.id, PAUSED, actor=request.actor, verb="pause", reason=f"asked: by {request.actor}")
    return "paused"


def _resume(record: Record, view: RolloutView, request: RequestView) -> str:
    if view.wave < 0:  # halted before it began
        _next_wave(record, view)
        return "started"
    wave = view.waves[view.wave]
    if view.state == HALTED and wave.state == "failed":
        return "refused: a gate failed; retry its hosts, promote past it, or roll back"
    state = RUNNING
    if wave.phase in ("bake", "gate"):  # what was interrupted or inconclusive is looked at anew
        record.set_wave(view.id, wave.number, phase="bake", state="baking", baking_since=record.now())
        state = BAKING
    record.set_rollout_state(view.id, state, actor=request.actor, verb="resume")
    return "resumed"


def _promote(record: Record, view: RolloutView, request: RequestView) -> str:
    """Go on past the gate, and without the kernels that failed it: they are quarantined for this rollout."""
    wave = view.waves[view.wave] if view.wave >= 0 else None
    if wave is None or wave.phase not in ("bake", "gate"):
        return "refused: no wave is attached and waits"
    for kernel_id, variant in (wave.gate or {}).get("failed_kernels", ()):
        detail = f"COR-ROL-013: quarantined, {variant} failed on this kernel in wave {wave.number}"
        record.move_steps(view.id, ("pending",), "skipped", kernel=(kernel_id, variant), detail=detail)
    record.audit(request.actor, "promote", rollout_id=view.id, detail=f"wave {wave.number} past its gate")
    record.set_wave(view.id, wave.number, state="passed", ended_at=record.now(), detail=f"promoted by {request.actor}")
    record.move_steps(view.id, ("verified",), "healthy", wave=wave.number)
    _next_wave(record, view)
    return "promoted"


def _halt(record: Record, view: RolloutView, request: RequestView) -> str:
    record.set_rollout_state(view.id, HALTED, actor=request.actor, verb="halt", reason=f"asked: by {request.actor}")
    return "halted"


def _abort(record: Record, view: RolloutView, request: RequestView) -> str:
    record.set_rollout_state(
        view.id, ABORTED, actor=request.actor, verb="abort", reason=f"asked: by {request.actor}", ended_at=record.now()
    )
    return "aborted; hosts stay as they are"


def _retry(record: Record, view: RolloutView, request: RequestView) -> str:
    moved = 0
    for wave in view.waves:
        if any(wave.steps.get(s) for s in RETRIED_STEPS):
            moved += record.move_steps(view.id, RETRIED_STEPS, "pending", wave=wave.number)
            record.set_wave(view.id, wave.number, state="pending", detail="retry")
    if not moved:
        return "nothing to do: no host failed or was unreachable"
    record.audit(request.actor, "retry", rollout_id=view.id, detail=f"{moved} hosts")
    _next_wave(record, view)
    return f"retrying {moved} hosts"


def _roll_back(record: Record, view: RolloutView, request: RequestView) -> str:
    record.set_rollout_state(
        view.id, ROLLING_BACK, actor=request.actor, verb="rollback", reason=f"asked: by {request.actor}"
    )
    return "rolling back"


_ANSWERS: dict[str, Callable[[Record, RolloutView, RequestView], str]] = {
    "pause": _pause,
    "resume": _resume,
    "promote": _promote,
    "halt": _halt,
    "abort": _abort,
    "retry": _retry,
    "rollback": _roll_back,
}


# Rollback: a workflow of its own, without a gate


def roll_back(journal: Journal, work: Work) -> Document:
    """Undo on every host that was touched, widest wave first; hosts that are away stay pending."""
    order = journal.commit("order", lambda record: {"waves": widest_first(record.rollout(work.rollout_id))})
    for number in order["waves"]:
        outcome = journal.perform("revert", lambda: carry(work, number, "revert"))  # noqa: B023 - called before it changes
        if outcome["cut"]:
            return {"state": ROLLING_BACK}
    return journal.commit("end", lambda record: end_rollback(record, work))


def widest_first(view: RolloutView) -> list[int]:
    """Return wave numbers, those with most hosts first, later ones first among equals."""
    return [w.number for w in sorted(view.waves, key=lambda w: (-sum(w.steps.values()), -w.number))]


def end_rollback(record: Record, work: Work) -> Document:
    """Say how the rollback ended, naming the hosts where it did not."""
    left = record.steps(work.rollout_id, states=("revert-pending", "revert-failed", "reverting"))
    answer_requests(record, work)
    state = ROLLBACK_INCOMPLETE if left else ROLLED_BACK
    names = ", ".join(s.host for s in left[:20]) + (f" and {len(left) - 20} more" if len(left) > 20 else "")
    reason = f"pending-reverts: {names}" if left else None
    record.set_rollout_state(work.rollout_id, state, verb="rollback-end", reason=reason, ended_at=work.clock.now())
    return {"state": state}
