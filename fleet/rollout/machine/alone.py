"""A kernel build that fails halts alone: its hosts are held, the others go on, and the rollout's end names it.

A canary says everything about its own kernel build and variant and nothing about another, so the same rule holds for
canaries and later waves. When more than half of a rollout's builds would be held, it is no longer about kernels: then
the whole rollout stops.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fleet.record import Record
from fleet.record.rollout_views import RolloutView
from fleet.record.step_store import Stratum
from fleet.record.store import SOMEBODY
from fleet.rollout.planning.settings import WaveSettings
from fleet.rollout.states import LEFT_STEPS, UNDONE_STEPS, WAITING_STEPS, because


def hold_alone(
    record: Record, view: RolloutView, settings: WaveSettings, strata: Sequence[Stratum], reason: str
) -> bool:
    """Hold *strata* because of *reason*, when policy allows it and the others are the greater part; whether it did."""
    everyone = {s for s, states in record.strata(view.id).items() if set(states) != {"skipped"}}
    held = {*view.held, *strata}
    if not settings.kernel_halts_alone or not strata or 2 * len(held & everyone) > len(everyone):
        return False
    hold(record, view, settings, strata, reason)
    return True


def hold(
    record: Record, view: RolloutView, settings: WaveSettings, strata: Sequence[Stratum], reason: str,
    actor: str = SOMEBODY,
) -> int:  # fmt: skip
    """Hold *strata*: what waits is not begun, what runs stays or is undone as ``on_fail`` says; returns how many."""
    for kernel_id, variant in strata:
        record.note_rollout(view.id, verb="hold", detail=f"{variant} on {kernel_id} halts alone: {reason}", actor=actor)
    record.note_rollout(view.id, verb="held", held={*record.rollout(view.id).held, *strata}, actor=actor)
    count = record.move_steps(view.id, WAITING_STEPS, "held", strata=strata, detail=reason, actor=actor)
    if settings.on_fail == "rollback" and undo(record, view, strata=strata, detail=reason, actor=actor):
        record.note_rollout(view.id, verb="undo", detail="of kernels that halted alone", duty="undo", actor=actor)
    return count


def undo(record: Record, view: RolloutView, **which: object) -> int:
    """Mark the hosts that were touched as to be undone; *which* narrows them as ``move_steps`` does."""
    return record.move_steps(view.id, UNDONE_STEPS, "revert-pending", touched=True, **which)  # type: ignore[arg-type]  # passed on as they are


def standing(record: Record, rollout_id: str, *, failed: bool = False) -> str | None:
    """Why a rollout that ended still wants a person: kernels held, hosts with something to undo; None when it does not.

    *failed*: only about what was not undone, those included that could not be.
    """
    left = record.steps(rollout_id, states=LEFT_STEPS if failed else ("revert-pending", "reverting"))
    if left:
        return because("pending-reverts", named(s.host for s in left))
    view, strata = record.rollout(rollout_id), record.strata(rollout_id)
    if failed or not view.held:
        return None
    parts = [f"{variant} on {kernel_id} ({sum(strata[kernel_id, variant].values())} hosts)"
             for kernel_id, variant in view.held if (kernel_id, variant) in strata]  # fmt: skip
    return because("held", named(parts, 5))


def named(hosts: Iterable[str], most: int = 20) -> str:
    """Return the first of many names, and how many more there are."""
    names = list(hosts)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
