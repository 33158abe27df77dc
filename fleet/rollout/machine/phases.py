"""What follows each phase of a wave: the next one, the bake, what the gate makes of the rollout, the next wave.

Decisions only, each inside the transaction of ``workflow.advance``; the phases themselves are ``steps`` and ``bake``.
"""

from __future__ import annotations

from collections.abc import Callable

from fleet.record import Record
from fleet.record.rollout_views import RolloutView, WaveView
from fleet.rollout.hosts.join import take_in
from fleet.rollout.hosts.work import Work
from fleet.rollout.machine.alone import hold_alone, standing
from fleet.rollout.machine.journal import Document
from fleet.rollout.planning.settings import WaveSettings
from fleet.rollout.states import (
    BAKING,
    COMPLETED,
    FROZEN,
    HALTED,
    PAUSED,
    PHASES,
    ROLLBACK_INCOMPLETE,
    ROLLED_BACK,
    ROLLING_BACK,
    RUNNING,
    WAITING_APPROVAL,
    WAITING_STEPS,
    because,
)

# policy.on_fail → where a failure leads, and the verb that the audit has for it
ON_FAIL = {"halt": (HALTED, "halt"), "rollback": (ROLLING_BACK, "rollback"), "freeze": (FROZEN, "freeze")}


def _to_next_phase(record: Record, view: RolloutView, work: Work, number: int, outcome: Document) -> None:
    if _stands_still(record, view, work, number, outcome):
        return
    phase = view.waves[number].phase or PHASES[0]
    record.set_wave(view.id, number, phase=PHASES[PHASES.index(phase) + 1])


def _to_bake(record: Record, view: RolloutView, work: Work, number: int, outcome: Document) -> None:
    if _stands_still(record, view, work, number, outcome):
        return
    now = work.clock.now()
    if outcome.get("cut") == "failures":
        record.set_wave(view.id, number, phase="gate", baking_since=now)
    elif view.pace in ("all", f"wave:{number}"):
        pass_wave(record, view, number, "its bake was skipped, as asked")
    else:
        start_bake(record, view, now, number)


def _stands_still(record: Record, view: RolloutView, work: Work, number: int, outcome: Document) -> bool:
    """Pause a wave whose hosts get no further; whether that was so."""
    if outcome.get("cut") != "deadline":
        return False
    detail = f"wave {number}: no host got further for {work.plan.settings.progress_s:g} s"
    stop_at(record, view, PAUSED, verb="pause", reason=because("progress-deadline", detail))
    return True


def start_bake(record: Record, view: RolloutView, now: float, number: int) -> None:
    """Begin to watch a wave; whatever was seen before *now* does not count."""
    record.set_wave(view.id, number, phase="bake", state="baking", baking_since=now)
    record.set_rollout_state(view.id, BAKING, reason=None)


def _bake_on(record: Record, view: RolloutView, work: Work, number: int, outcome: Document) -> None:
    if outcome["canaries"]:
        tripped = record.steps(view.id, hosts=outcome["canaries"])
        strata = sorted({(s.kernel_id, s.variant) for s in tripped})
        reason = because("canary-tripped", ", ".join(outcome["canaries"]))
        if not hold_alone(record, view, work.plan.settings, strata, reason):
            fail(record, view, work.plan.settings, reason)
    elif outcome["over"]:
        record.set_wave(view.id, number, phase="gate")


def _through_gate(record: Record, view: RolloutView, work: Work, number: int, outcome: Document) -> None:
    answer = outcome["answer"]
    if answer == "pass":
        pass_wave(record, view, number, outcome["reason"], gate=outcome)
        return
    settings, reason = work.plan.settings, f"wave {number}: {outcome['reason']}"
    if answer == "fail":
        strata = [(kernel_id, variant) for kernel_id, variant in outcome["failed_kernels"]]
        if hold_alone(record, view, settings, strata, reason):
            _go_on_without(record, view, work, number, outcome)
            return
    wave_state = {"fail": "failed"}.get(answer, answer)
    record.set_wave(
        view.id, number, state=wave_state, gate=outcome, ended_at=work.clock.now(), detail=outcome["reason"]
    )
    if answer == "fail":
        fail(record, view, settings, because("gate-failed", reason))
    else:
        stop_at(record, view, PAUSED, verb="pause", reason=because(f"gate-{answer}", reason))


def _go_on_without(record: Record, view: RolloutView, work: Work, number: int, outcome: Document) -> None:
    """Have the rest of a wave judged without what was held; what the failures kept waiting goes on and bakes first."""
    record.set_wave(view.id, number, gate=outcome)
    if record.steps(view.id, wave=number, states=(*WAITING_STEPS, "applying", "attached")):
        record.set_wave(view.id, number, phase=PHASES[0], state="running")
        record.set_rollout_state(view.id, RUNNING)
    elif view.state == BAKING:
        record.set_wave(view.id, number, phase="gate")
    else:
        start_bake(record, view, work.clock.now(), number)


AFTER: dict[str, Callable[[Record, RolloutView, Work, int, Document], None]] = {
    "probe": _to_next_phase,
    "stage": _to_next_phase,
    "check": _to_next_phase,
    "apply": _to_bake,
    "bake": _bake_on,
    "gate": _through_gate,
}


def fail(record: Record, view: RolloutView, settings: WaveSettings, reason: str) -> None:
    """Take a failure where the policy wants it: halt, roll back, or freeze."""
    state, verb = ON_FAIL[settings.on_fail]
    stop_at(record, view, state, verb=verb, reason=reason)


def stop_at(record: Record, view: RolloutView, state: str, **fields: str | float | None) -> None:
    """Leave the way forward; whoever goes on later goes at the plan's pace again."""
    record.set_rollout_state(view.id, state, **fields, pace="")  # type: ignore[arg-type]  # columns are of many types


def pass_wave(record: Record, view: RolloutView, number: int, detail: str, *, gate: Document | None = None) -> None:
    """Take a wave as good, and begin the next one; kernels that halted alone stay as they are."""
    columns = {} if gate is None else {"gate": gate}
    record.set_wave(view.id, number, state="passed", ended_at=record.now(), detail=detail, **columns)
    record.move_steps(view.id, ("verified",), "healthy", wave=number, outside=view.held)
    next_wave(record, view)


def next_wave(record: Record, view: RolloutView, *, approved: bool = False) -> None:
    """Begin the first wave that has not passed; where all have, the rollout is complete.

    One that policy wants *approved* by a person waits for that, once: begun anew, it does not ask again.
    """
    view = record.rollout(view.id)
    wave = next((w for w in view.waves if w.state != "passed"), None)
    if wave is None:
        record.set_rollout_state(view.id, COMPLETED, ended_at=record.now(), reason=standing(record, view.id), pace="")
        return
    if wave.approval and wave.started_at is None and not approved:
        wait_for_approval(record, view, f"wave {wave.number} ({wave.name}): ")
        return
    take_in(record, view, wave)
    begin_wave(record, view, wave)


def begin_wave(record: Record, view: RolloutView, wave: WaveView) -> None:
    """Begin *wave*."""
    record.set_wave(view.id, wave.number, state="running", phase=PHASES[0], started_at=record.now())
    record.set_rollout_state(view.id, RUNNING, wave=wave.number, ended_at=None)


def wait_for_approval(record: Record, view: RolloutView, what: str = "") -> None:
    """Have a person approve it, or *what* comes next of it, first."""
    reason = because("approval", f"{what}the policy asks for it")
    record.set_rollout_state(view.id, WAITING_APPROVAL, verb="wait", reason=reason)


def end_duty(record: Record, view: RolloutView, outcome: Document) -> None:
    """Note what a duty did; a rollout that waited for nothing else is at its end now."""
    record.note_rollout(view.id, verb=f"{view.duty}-end", detail=str(outcome["detail"]), duty=None)
    if view.state == COMPLETED:
        record.set_rollout_state(view.id, COMPLETED, reason=standing(record, view.id))
    elif view.state == ROLLBACK_INCOMPLETE:
        end_undoing(record, view.id)


def end_undoing(record: Record, rollout_id: str) -> str:
    """Say how a rollback ended, naming the hosts where it did not; returns the state."""
    left = standing(record, rollout_id, failed=True)
    state = ROLLBACK_INCOMPLETE if left else ROLLED_BACK
    record.set_rollout_state(rollout_id, state, verb="rollback-end", reason=left, ended_at=record.now())
    return state
