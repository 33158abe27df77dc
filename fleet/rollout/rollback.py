"""Rollback: a workflow of its own, without a gate, widest wave first; hosts that are away stay pending."""

from __future__ import annotations

from fleet.record import Record
from fleet.record.views import RolloutView
from fleet.rollout.answers import answer_requests
from fleet.rollout.journal import Document, Journal
from fleet.rollout.slices import merged
from fleet.rollout.states import ROLLBACK_INCOMPLETE, ROLLED_BACK, ROLLING_BACK
from fleet.rollout.work import Work


def roll_back(journal: Journal, work: Work) -> Document:
    """Undo on every host that was touched, widest wave first; hosts that are away stay pending."""
    order = journal.commit("order", lambda record: {"waves": widest_first(record.rollout(work.rollout_id))})
    for number in order["waves"]:
        if merged(journal.fan(work, "revert", number))["cut"]:
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
