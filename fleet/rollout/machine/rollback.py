"""Undoing, without a gate, widest wave first; hosts that are away stay pending until they are seen again.

Of the whole rollout it is a workflow of its own; of a part, and of what was left pending, a duty beside the waves.
"""

from __future__ import annotations

from fleet.record import Record
from fleet.record.rollout_views import RolloutView
from fleet.rollout.hosts.work import Work
from fleet.rollout.machine.answers import answer_requests
from fleet.rollout.machine.journal import Document, Journal
from fleet.rollout.machine.phases import end_undoing
from fleet.rollout.machine.slices import merged
from fleet.rollout.states import ROLLING_BACK

# What is done to hosts of every wave, one after the other: to undo what is marked so; to see each host again.
_DUTIES = {"undo": ("undo",), "reconcile": ("undo", "mend")}


def roll_back(journal: Journal, work: Work) -> Document:
    """Undo on every host that was touched, widest wave first; hosts that are away stay pending."""
    if _everywhere(journal, work, "revert")["cut"]:
        return {"state": ROLLING_BACK}
    return journal.commit("end", lambda record: end_rollback(record, work))


def do_duty(journal: Journal, work: Work, duty: str) -> Document:
    """Do *duty* on hosts of every wave; says how many each part of it looked at."""
    counts = []
    for phase in _DUTIES[duty]:
        outcome = _everywhere(journal, work, phase)
        if outcome["cut"]:
            return outcome
        counts.append(f"{phase}: {outcome['hosts']} hosts")
    return {"cut": "", "detail": ", ".join(counts)}


def _everywhere(journal: Journal, work: Work, phase: str) -> Document:
    order = journal.commit("order", lambda record: {"waves": widest_first(record.rollout(work.rollout_id))})
    hosts = 0
    for number in order["waves"]:
        outcome = merged(journal.fan(work, phase, number))
        hosts += outcome["hosts"]
        if outcome["cut"]:
            return outcome
    return {"cut": "", "hosts": hosts}


def widest_first(view: RolloutView) -> list[int]:
    """Return wave numbers, those with most hosts first, later ones first among equals."""
    return [w.number for w in sorted(view.waves, key=lambda w: (-sum(w.steps.values()), -w.number))]


def end_rollback(record: Record, work: Work) -> Document:
    """Say how the rollback ended, naming the hosts where it did not."""
    answer_requests(record, work)
    return {"state": end_undoing(record, work.rollout_id)}
