"""A wave's phase in pieces, one for each zone: doing one, and what several of them amount to. Knows no engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from fleet.record.errors import RecordFault
from fleet.rollout.hosts import bake
from fleet.rollout.hosts.ask import baseline
from fleet.rollout.hosts.hours import WAIT, wait_for_window
from fleet.rollout.hosts.steps import carry
from fleet.rollout.hosts.work import Work
from fleet.rollout.machine.journal import Document

T = TypeVar("T")

# What cut a piece short, what counts most first: hosts that were left undone are come back to.
_CUTS = ("stopped", "asked", "window", "deadline", "failures")
TRIES = 6  # of a piece, while the record is busy or away
_PAUSE_S = 1.0


def perform(work: Work, phase: str, wave: int) -> Document:
    """Do what *phase* means for the hosts of *wave* that *work* is for."""
    if phase in ("bake", "hold"):
        return bake.watch_over(work, wave, hold=phase == "hold")
    if phase == WAIT:
        return wait_for_window(work, wave)
    if phase == "apply" and (cut := baseline(work, wave)):
        return {"phase": phase, "hosts": 0, "cut": cut}
    return bake.judge(work, wave) if phase == "gate" else carry(work, wave, phase)


def merged(outcomes: Sequence[Document]) -> Document:
    """Return what the outcomes of all zones amount to; that of one zone is itself."""
    if len(outcomes) == 1:
        return outcomes[0]
    cuts = {str(outcome.get("cut") or "") for outcome in outcomes} - {""}
    cut = next((word for word in _CUTS if word in cuts), "".join(sorted(cuts)[:1]))
    whole: Document = {"hosts": sum(outcome.get("hosts", 0) for outcome in outcomes), "cut": cut}
    if any("over" in outcome for outcome in outcomes):
        canaries = sorted(host for outcome in outcomes for host in outcome.get("canaries", ()))
        over = all(outcome.get("over", False) for outcome in outcomes)
        # A canary that tripped is told whatever became of the other zones: it will not trip again.
        whole |= {"over": over, "canaries": canaries, "cut": "" if canaries else cut}
    return whole


def patiently(work: Work, attempt: Callable[[], T]) -> T:
    """Return what *attempt* gives, trying again while the record is only busy or away; its last fault is raised.

    An attempt begins from the record each time, so that what the lost one had done is found and not done again.
    """
    for number in range(1, TRIES):
        try:
            return attempt()
        except RecordFault as fault:
            if not fault.transient or work.stop.is_set():
                raise
        work.clock.wait(work.stop, _PAUSE_S * number)
    return attempt()
