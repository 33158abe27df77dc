"""The rollout's loop: enter a leg, do the phase that is due, take in what it gave and what persons asked, go on.

Every decision is one transaction (state, audit and the engine's journal commit together) made from the record alone
(``phases``, ``answers``); every effect on hosts is a phase of ``steps`` or ``bake``, in ``slices``. Undoing is
``rollback``. How all of it is made durable is ``legs``' business.
"""

from __future__ import annotations

from fleet.record import Record
from fleet.record.rollout_views import RolloutView
from fleet.rollout.hosts import hours
from fleet.rollout.hosts.work import Work
from fleet.rollout.machine.answers import answer_requests
from fleet.rollout.machine.journal import Document, Journal
from fleet.rollout.machine.phases import AFTER, end_duty, next_wave, wait_for_approval
from fleet.rollout.machine.rollback import do_duty
from fleet.rollout.machine.slices import merged, perform
from fleet.rollout.states import (
    ACTIVE,
    DUTIES,
    FROZEN,
    PAUSED,
    PLANNED,
    ROLLBACK_INCOMPLETE,
    ROLLING_BACK,
    RUNNING,
    WAITING_APPROVAL,
)


def drive(journal: Journal, work: Work) -> Document:
    """Carry a rollout on until it ends, waits for a person, or is stopped; returns ``{"state"}``."""
    at = journal.commit("enter", lambda record: enter(record, work))
    while phase := at["phase"]:
        number = at["wave"]
        outcome = _do(journal, work, phase, number)
        at = journal.commit("advance", lambda record: advance(record, work, number, phase, outcome))  # noqa: B023  as above
    return at


def _do(journal: Journal, work: Work, phase: str, wave: int) -> Document:
    """Do *phase*: what is done to hosts zone by zone, wherever each is served; what is judged, once and here."""
    if phase in DUTIES:
        return do_duty(journal, work, phase)
    if phase == "gate":
        return journal.perform(phase, lambda: perform(work, phase, wave))
    return merged(journal.fan(work, phase, wave))


def enter(record: Record, work: Work) -> Document:
    """Begin a leg: take what was asked for meanwhile, and find where to go on."""
    view = record.rollout(work.rollout_id)
    settings = work.plan.settings
    if view.state == PLANNED and settings.approval and view.approved_by is None:
        wait_for_approval(record, view)
    asked = record.requests(view.id, waiting=True)
    answer_requests(record, work)
    view = record.rollout(view.id)
    if view.state == PLANNED:
        record.set_rollout_state(view.id, RUNNING, verb="start", actor=view.actor)
        next_wave(record, view)
    elif not asked and view.duty is None and record.pending_reverts(view.id):
        _take_up(record, view)
    return _where(record, work)


def _take_up(record: Record, view: RolloutView) -> None:
    """Undo what waits for hosts that may be back, as nothing else was asked for."""
    if view.state == ROLLBACK_INCOMPLETE:
        record.set_rollout_state(view.id, ROLLING_BACK, verb="rollback", reason=view.reason)
    elif view.state not in (FROZEN, ROLLING_BACK):
        record.note_rollout(view.id, verb="undo", detail="hosts that were away", duty="undo")


def advance(record: Record, work: Work, number: int, phase: str, outcome: Document) -> Document:
    """Take in what *phase* gave, and what persons asked for, and say what comes next."""
    answer_requests(record, work, crossing=True)
    view = record.rollout(work.rollout_id)
    if not _cut(outcome):
        if phase in DUTIES and view.duty == phase:
            end_duty(record, view, outcome)
        elif phase in AFTER and view.state in ACTIVE and (view.wave, view.waves[number].phase) == (number, phase):
            AFTER[phase](record, view, work, number, outcome)
    answer_requests(record, work)
    return _where(record, work)


def _cut(outcome: Document) -> bool:
    """Whether a phase left hosts undone that it is to come back to; failures are for the gate to judge."""
    return outcome.get("cut", "") in ("stopped", "asked", "window")


def _where(record: Record, work: Work) -> Document:
    view = hours.keep(record, work)
    phase: str | None = None
    if work.stop.is_set() or view.state == ROLLING_BACK:
        phase = None
    elif view.duty and view.state != FROZEN:
        phase = view.duty
    elif view.state in ACTIVE:
        phase = view.waves[view.wave].phase
    elif hours.waits(view):
        phase = hours.WAIT
    elif work.hold and (view.state in (PAUSED, FROZEN) or (view.state == WAITING_APPROVAL and view.wave >= 0)):
        phase = "hold"
    return {"state": view.state, "wave": view.wave, "phase": phase}
