"""Carrying one phase of a wave to its hosts, many at a time. Decides nothing about the rollout.

Every host's progress is a row (``StepRow``), so a phase begun again after a crash goes on where each host was. What is
done to one host is ``acts``; what needs no other host is done back to back, over one connection. Silence is
*unreachable*: neither success nor failure. It is tried again a few times; and a host that hangs is given up after its
deadline, so that no phase lasts for ever.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any

from btf.fault import Fault
from fleet.record.errors import RecordFault
from fleet.record.rollout_views import StepOutcome, StepView
from fleet.rollout.execute import AgentRefused
from fleet.rollout.hosts.acts import ACTS, HostChanged, StepFailed
from fleet.rollout.hosts.hours import closed
from fleet.rollout.hosts.work import Work
from fleet.rollout.states import AT_ONCE, PHASES
from inventory.connect.errors import Refused, Unreachable

TICK_S = 1.0  # how often hanging hosts are looked for
TRY_PAUSE_S = 2.0  # before silent hosts are tried again


class HostHangs(Fault):
    """A host was given up: what was begun there did not end in time, and its outcome is unknown."""

    code = "COR-ROL-031"
    remedy = "`rollout retry` asks the host what came of it; the policy's deadline_s is how long one may take."


# What came of one host, phase by phase, and whether it is silence.
_End = tuple[list[StepOutcome], bool]


@dataclass
class _Run:
    """One phase of one wave, under way. ``silent``: hosts that did not answer yet and are to be tried again."""

    work: Work
    wave: int
    phase: str
    tolerated: int = 0
    failed: int = 0
    moved_at: float = 0.0  # when a host got further, last; by the clock that nobody sets
    cut: str = ""
    silent: list[StepOutcome] = field(default_factory=list)

    def why(self) -> str:
        """Why no further host is begun now; empty when it is."""
        if self.phase == "apply" and self.failed > self.tolerated:
            return "failures"
        if self.work.stop.is_set():
            return "stopped"
        if closed(self.work, self.wave, self.phase):
            return "window"
        if self.phase in PHASES and self.work.clock.elapsed() - self.moved_at > self.work.plan.settings.progress_s:
            return "deadline"
        return ""

    def take(self, ends: Sequence[_End]) -> None:
        """Note what came of some hosts; silence only when it is no longer tried."""
        heard = [outcome for outcomes, silent in ends for outcome in outcomes if not silent]
        self.silent += [outcome for outcomes, silent in ends for outcome in outcomes if silent]
        self.work.finish(heard)
        if self.phase == "apply":
            self.failed = self.work.failed(self.wave)  # of other zones, too
        if heard:
            self.moved_at = self.work.clock.elapsed()
        self.cut = self.why() or ("asked" if self.phase != "revert" and self.work.watching() else "")


def carry(work: Work, wave: int, phase: str) -> dict[str, Any]:
    """Do *phase* on every host of *wave* that waits for it; returns counts, and whether it was cut short.

    No new host is begun once more hosts failed than the plan tolerates, when nobody gets any further, when a person
    asked for something, or on stop.
    """
    run = _Run(work, wave, phase, *_tolerance(work, wave), moved_at=work.clock.elapsed())
    waiting = due(work, wave, phase)
    hosts, left = len(waiting), False
    for attempt in range(work.plan.settings.tries):
        if attempt:
            work.clock.wait(work.stop, TRY_PAUSE_S * attempt)
            names = {outcome.host for outcome in run.silent}
            waiting = [step for step in due(work, wave, phase) if step.host in names]
        run.silent = []
        rest = iter(waiting)
        _pass(run, rest)
        left = next(rest, None) is not None
        if run.cut or not run.silent:
            break
    if run.cut in ("", "failures"):
        work.finish(run.silent)
    else:
        left = left or bool(run.silent)
    return {"phase": phase, "hosts": hosts, "cut": run.cut if run.cut == "failures" or left else ""}


def due(work: Work, wave: int, phase: str) -> list[StepView]:
    """Return the steps of *wave* that *phase* takes up."""
    waiting = work.steps(wave, ACTS[phase][0])
    if phase == "revert":
        waiting = [s for s in waiting if s.attempts]  # the others were never touched
    return waiting


def _tolerance(work: Work, wave: int) -> tuple[int, int]:
    """How many hosts of *wave* may fail, and how many have, in whatever zone."""
    settings, view = work.plan.settings, work.record.rollout(work.rollout_id)
    hosts = sum(view.waves[wave].steps.values())
    may_fail = 0 if wave == 0 else min(int(hosts * settings.failed_percent / 100), settings.failed_cap)
    return may_fail, work.failed(wave)


def _pass(run: _Run, left: Iterator[StepView]) -> None:
    """Go over hosts once, as many at a time as the plan says; a host that hangs no longer counts among them."""
    settings, clock = run.work.plan.settings, run.work.clock
    flying: dict[Future[_End], tuple[StepView, float]] = {}
    pool = ThreadPoolExecutor(settings.parallel, thread_name_prefix="step")
    hang = False
    run.cut = run.why()
    try:
        while not run.cut or flying:
            begun = [] if run.cut else list(itertools.islice(left, settings.parallel - len(flying)))
            now = clock.elapsed()
            flying |= {pool.submit(_one, run.work, step, run.phase): (step, now) for step in begun}
            if not flying:
                break
            done, _ = wait(flying, TICK_S, FIRST_COMPLETED)
            now = clock.elapsed()
            late = [f for f, (_, since) in flying.items() if f not in done and now - since > settings.deadline_s]
            outcomes = [future.result() for future in done]
            for future in late:
                step, _ = flying[future]
                run.work.finish([_given_up(run, step)])
            if late:  # their threads are lost to this pool
                hang = True
                pool.shutdown(wait=False)
                pool = ThreadPoolExecutor(settings.parallel, thread_name_prefix="step")
            for future in (*done, *late):
                del flying[future]
            run.take(outcomes)
    finally:
        pool.shutdown(wait=not hang, cancel_futures=True)


def _given_up(run: _Run, step: StepView) -> StepOutcome:
    fault = HostHangs(f"no end within {run.work.plan.settings.deadline_s:g} s")
    return _silence(run.work, step, run.phase, fault)


def _silence(work: Work, step: StepView, phase: str, fault: Fault) -> StepOutcome:
    """What silence makes of a step; where a phase makes nothing of it, it stays as far as it is by now."""
    state = ACTS[phase][2] or work.record.step(work.rollout_id, step.host).state
    return StepOutcome(step.host, state, str(fault))


def _one(work: Work, step: StepView, phase: str) -> _End:
    """Do one host, and go on with what needs no other one; silence on the way is for the next phase to deal with."""
    outcome, silent = _do(work, step, phase)
    outcomes = [outcome]
    while not silent and (phase := _follows(phase, outcome)) and not work.stop.is_set():
        outcome, quiet = _do(work, replace(step, state=outcome.state, document=outcome.document), phase)
        if quiet:
            break
        outcomes.append(outcome)
    return outcomes, silent


def _follows(phase: str, outcome: StepOutcome) -> str:
    """Return the phase that takes a host up where *phase* left it, without waiting for others; empty: none."""
    after = AT_ONCE[AT_ONCE.index(phase) + 1 :][:1] if phase in AT_ONCE else ()
    return next((following for following in after if outcome.state in ACTS[following][0]), "")


def _do(work: Work, step: StepView, phase: str) -> tuple[StepOutcome, bool]:
    """Do one host; return where it got to, and whether that is silence."""
    _, act, _, faulty = ACTS[phase]
    try:
        return act(work, step), False
    except RecordFault:
        raise  # not the host's fault: the work stops here and goes on when the record is well again
    except HostChanged as fault:
        return StepOutcome(step.host, "skipped" if phase in PHASES else faulty, str(fault)), False
    except (Unreachable, Refused) as fault:
        return _silence(work, step, phase, fault), True
    except AgentRefused as fault:
        return StepOutcome(step.host, faulty, str(fault), dict(fault.document), forget_token=True), False
    except Fault as fault:
        return StepOutcome(step.host, faulty, str(fault), forget_token=isinstance(fault, StepFailed)), False
    except Exception as error:  # a bug met on one host must not hold the others
        return StepOutcome(step.host, faulty, f"COR-ROL-099: unexpected {type(error).__name__}: {error}"), False
