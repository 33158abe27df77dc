"""Keeping to maintenance windows: no wave and no host is begun outside; the rollout waits, and goes on by itself.

What was begun is finished, baked and judged at any time: half done is worse than done late.
"""

from __future__ import annotations

from functools import lru_cache

from fleet.record import Record
from fleet.record.rollout_views import RolloutView
from fleet.rollout.hosts.bake import look
from fleet.rollout.hosts.work import Work
from fleet.rollout.planning.plan import Plan
from fleet.rollout.planning.windows import Windows, clock_text, parse_windows
from fleet.rollout.states import PAUSED, PHASES, RUNNING

WAIT = "wait"  # the phase of a rollout that is driven and waits for its window
BEGINS = PHASES[: PHASES.index("apply") + 1]  # phases that begin hosts
CODE = "window"  # of the reason
_LOOK_S = 60.0  # between looks at hosts that have it already
_SLICE_S = 1.0  # a person's request waits no longer than this

_parsed = lru_cache(64)(parse_windows)


def _windows(plan: Plan, wave: int) -> Windows:
    own = next((w.window for w in plan.waves if w.number == wave), "")
    return _parsed(own or plan.settings.window)


def closed(work: Work, wave: int, phase: str) -> bool:
    """Whether *phase* would begin hosts of *wave* outside their window."""
    return phase in BEGINS and not _windows(work.plan, wave).is_open(work.clock.now())


def keep(record: Record, work: Work) -> RolloutView:
    """Pause a rollout that would begin hosts outside their window, and take it up when that opens; returns it as it is.

    Inside a decision's transaction. One that a person paused stays paused.
    """
    view = record.rollout(work.rollout_id)
    if view.wave < 0 or view.state not in (RUNNING, PAUSED):
        return view
    shut = closed(work, view.wave, view.waves[view.wave].phase or "")
    if view.state == RUNNING and shut:
        opens = _windows(work.plan, view.wave).opens_at(work.clock.now())
        record.set_rollout_state(view.id, PAUSED, verb="pause", reason=f"{CODE}: opens {clock_text(opens)}")
    elif waits(view) and not shut:
        record.set_rollout_state(view.id, RUNNING, verb="resume")
    else:
        return view
    return record.rollout(view.id)


def waits(view: RolloutView) -> bool:
    """Whether a rollout waits for its window."""
    return view.state == PAUSED and (view.reason or "").startswith(f"{CODE}:")


def wait_for_window(work: Work, wave: int) -> dict[str, object]:
    """Wait until hosts of *wave* may be begun, a person asks, or the work is stopped; meanwhile hosts are watched."""
    windows, looked = _windows(work.plan, wave), 0.0
    while not work.stop.is_set() and not work.watching() and not windows.is_open(now := work.clock.now()):
        if now - looked >= _LOOK_S:
            looked = now
            for number in range(wave + 1):
                look(work, number)
        work.clock.wait(work.stop, _SLICE_S)
    return {"phase": WAIT, "hosts": 0, "cut": ""}
