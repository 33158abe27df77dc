"""What persons ask of a rollout, and what each request changes; one that does not fit is answered and changes nothing.

Runs inside the transaction of a decision, whoever drives: asked twice or at the same moment as a gate, it acts once.
"""

from __future__ import annotations

from collections.abc import Callable

from fleet.record import Record
from fleet.record.views import RequestView, RolloutView
from fleet.rollout import hours
from fleet.rollout.phases import next_wave
from fleet.rollout.states import ABORTED, BAKING, HALTED, PAUSED, RETRIED_STEPS, ROLLING_BACK, RUNNING, VERBS
from fleet.rollout.work import Work


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
            outcome = ANSWERS[verb.name](record, view, request)
        record.answer_request(request.id, outcome)


def _start(record: Record, view: RolloutView, request: RequestView) -> str:  # noqa: ARG001 - like the others
    return "starting"  # whoever takes the request enters the rollout, and that starts it


def _pause(record: Record, view: RolloutView, request: RequestView) -> str:
    if view.state == PAUSED and not hours.waits(view):
        return f"nothing to do: the rollout is {view.state}"
    record.set_rollout_state(view.id, PAUSED, actor=request.actor, verb="pause", reason=f"asked: by {request.actor}")
    return "paused"


def _resume(record: Record, view: RolloutView, request: RequestView) -> str:
    if view.wave < 0:  # halted before it began
        next_wave(record, view)
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
    next_wave(record, view)
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
    next_wave(record, view)
    return f"retrying {moved} hosts"


def _roll_back(record: Record, view: RolloutView, request: RequestView) -> str:
    record.set_rollout_state(
        view.id, ROLLING_BACK, actor=request.actor, verb="rollback", reason=f"asked: by {request.actor}"
    )
    return "rolling back"


ANSWERS: dict[str, Callable[[Record, RolloutView, RequestView], str]] = {
    "start": _start,
    "pause": _pause,
    "resume": _resume,
    "promote": _promote,
    "halt": _halt,
    "abort": _abort,
    "retry": _retry,
    "rollback": _roll_back,
}
