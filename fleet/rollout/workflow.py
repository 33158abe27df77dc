"""The rollout's loop: enter a leg, do the phase that is due, take in what it gave and what persons asked, go on.

Every decision is one transaction (state, audit and the engine's journal commit together) made from the record alone
(``phases``, ``answers``); every effect on hosts is a phase of ``steps`` or ``bake``, in ``slices``. Undoing is
``rollback``. How all of it is made durable is ``legs``' business.
"""

from __future__ import annotations

from fleet.record import Record
from fleet.rollout import hours
from fleet.rollout.answers import answer_requests
from fleet.rollout.journal import Document, Journal
from fleet.rollout.phases import AFTER, next_wave
from fleet.rollout.slices import merged, perform
from fleet.rollout.states import BAKING, PAUSED, PLANNED, RUNNING
from fleet.rollout.work import Work


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
    if phase == "gate":
        return journal.perform(phase, lambda: perform(work, phase, wave))
    return merged(journal.fan(work, phase, wave))


def enter(record: Record, work: Work) -> Document:
    """Begin a leg: take what was asked for meanwhile, and find where to go on."""
    answer_requests(record, work)
    view = record.rollout(work.rollout_id)
    if view.state == PLANNED:
        record.set_rollout_state(view.id, RUNNING, verb="start", actor=view.actor)
        next_wave(record, view)
    return _where(record, work)


def advance(record: Record, work: Work, number: int, phase: str, outcome: Document) -> Document:
    """Take in what *phase* gave, then what persons asked for, and say what comes next."""
    view = record.rollout(work.rollout_id)
    if phase in AFTER and view.state in (RUNNING, BAKING) and not _cut(outcome):
        AFTER[phase](record, view, work, number, outcome)
    answer_requests(record, work)
    return _where(record, work)


def _cut(outcome: Document) -> bool:
    """Whether a phase left hosts undone that it is to come back to; failures are for the gate to judge."""
    return outcome.get("cut", "") in ("stopped", "asked", "window")


def _where(record: Record, work: Work) -> Document:
    view = hours.keep(record, work)
    phase: str | None = None
    if work.stop.is_set():
        phase = None
    elif view.state in (RUNNING, BAKING):
        phase = view.waves[view.wave].phase
    elif hours.waits(view):
        phase = hours.WAIT
    elif view.state == PAUSED and work.hold:
        phase = "hold"
    return {"state": view.state, "wave": view.wave, "phase": phase}
