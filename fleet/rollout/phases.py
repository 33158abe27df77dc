"""What follows each phase of a wave: the next one, the bake, what the gate makes of the rollout, the next wave.

Decisions only, each inside the transaction of ``workflow.advance``; the phases themselves are ``steps`` and ``bake``.
"""

from __future__ import annotations

from collections.abc import Callable

from fleet.record import Record
from fleet.record.views import RolloutView
from fleet.rollout.join import take_in
from fleet.rollout.journal import Document
from fleet.rollout.states import BAKING, COMPLETED, HALTED, PAUSED, PHASES, RUNNING
from fleet.rollout.work import Work


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
        next_wave(record, view)
    elif answer == "fail":
        record.set_rollout_state(
            view.id, HALTED, verb="halt", reason=f"gate-failed: wave {number}: {outcome['reason']}"
        )
    else:
        reason = f"gate-{answer}: wave {number}: {outcome['reason']}"
        record.set_rollout_state(view.id, PAUSED, verb="pause", reason=reason)


AFTER: dict[str, Callable[[Record, RolloutView, Work, int, Document], None]] = {
    "probe": _to_next_phase,
    "stage": _to_next_phase,
    "check": _to_next_phase,
    "apply": _to_bake,
    "bake": _bake_on,
    "gate": _through_gate,
}


def next_wave(record: Record, view: RolloutView) -> None:
    """Begin the first wave that has not passed; where all have, the rollout is complete."""
    view = record.rollout(view.id)
    wave = next((w for w in view.waves if w.state != "passed"), None)
    if wave is None:
        record.set_rollout_state(view.id, COMPLETED, ended_at=record.now())
        return
    take_in(record, view, wave)
    record.set_wave(view.id, wave.number, state="running", phase=PHASES[0], started_at=record.now())
    record.set_rollout_state(view.id, RUNNING, wave=wave.number, ended_at=None)
