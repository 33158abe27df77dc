"""Baking: looking at a wave's hosts again and again, keeping what they cost, and asking the gate in the end.

The host's own watchdog stops what costs too much; here that is only noticed. Silence is a sample too.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import msgspec

from btf.fault import Fault
from fleet.record.rollout_views import SampleView, StepOutcome, StepView
from fleet.rollout.gate import judge_wave
from fleet.rollout.hosts.ask import ask_after, asked_enough, controls
from fleet.rollout.hosts.watch import lease_due, measured_at, missing_sample, sample_of
from fleet.rollout.hosts.work import Work
from fleet.rollout.states import LIVE_STEPS, OUT_STEPS
from inventory.connect.errors import Refused, Unreachable
from probes.manifest import Budget

_SLICE_S = 1.0  # a person's request waits no longer than this


def watch_over(work: Work, wave: int, *, hold: bool) -> dict[str, Any]:
    """Look at *wave* and the canaries until it is baked, a host tripped, a person asks, or the work is stopped.

    With *hold* the rollout is paused, and only a person or a stop ends it. Returns ``{"over"}``: go to the gate; and
    ``{"canaries"}``: those of an earlier wave that tripped now, which no gate would look at again.
    """
    policy = None if hold else work.plan.settings.service
    due, begun = work.clock.now(), _begun(work, wave)
    failed = work.failed(wave)
    while True:
        waves = range(wave + 1) if hold else sorted({0, wave})  # who holds, holds all that runs
        tripped = [sample for number in waves if number >= 0 for sample in look(work, number)]
        look_at_controls(work, wave)
        over = not hold and (bool(tripped) or work.failed(wave) > failed)  # in another zone
        if policy is not None and not over and not due - policy.every_s <= work.clock.now() < due:  # or it was set back
            due = ask_after(work, wave, policy)
        if not over:
            _rest(work, wave)
            over = not hold and _baked(work, wave, begun)
        if over or work.stop.is_set() or work.watching():
            return {"over": over, "canaries": [s.host for s in tripped if s.wave != wave]}


def look(work: Work, wave: int) -> list[SampleView]:
    """Look once at every live host of *wave* and keep the samples; returns those of hosts that stopped it."""
    live = work.steps(wave, LIVE_STEPS)
    with ThreadPoolExecutor(work.plan.settings.parallel, thread_name_prefix="look") as pool:
        samples = list(pool.map(lambda step: _sample(work, step), live))
    work.record.record_samples(samples)
    tripped = [s for s in samples if s.tripped]
    for sample in tripped:
        reason = str(sample.document.get("reason") or "the host's watchdog stopped it")
        work.finish([StepOutcome(sample.host, "failed", f"tripped: {reason}", forget_token=True)])
    judged = {s.host for s in _judged(work, live)}
    return [s for s in tripped if s.host in judged]


def _judged(work: Work, steps: Sequence[StepView]) -> Sequence[StepView]:
    """Return the steps that a gate still has to judge: not those of kernels that halted alone."""
    alone = set(work.record.rollout(work.rollout_id).held)
    return [s for s in steps if (s.kernel_id, s.variant) not in alone]


def look_at_controls(work: Work, wave: int) -> None:
    """Look once at the hosts that *wave* leaves without the program: what befalls them too is not of its making."""
    kept = controls(work, wave) if wave >= 0 else {}
    with ThreadPoolExecutor(work.plan.settings.parallel, thread_name_prefix="control") as pool:
        work.record.record_samples(pool.map(lambda host: _control_sample(work, host, wave), kept))


def _control_sample(work: Work, host: str, wave: int) -> SampleView:
    """What a control shows; an earlier build that runs there is measured, for comparison."""
    program, at = work.plan.program, work.clock.now()
    try:
        with work.connect(work.host(host)) as executor:
            status = executor.status(program)
    except (Unreachable, Refused) as fault:
        return missing_sample(host, program, work.rollout_id, wave, at, outcome="unreachable", detail=str(fault))
    except Fault as fault:
        return missing_sample(host, program, work.rollout_id, wave, at, outcome="error", detail=str(fault))
    seen = sample_of(status, host=host, program=program, rollout_id=work.rollout_id, wave=wave, at=at, token=None,
                     boot_id=None)  # fmt: skip
    return replace(seen, outcome="control", tripped=False)


def _rest(work: Work, wave: int) -> None:
    """Wait until the next look, or until a person asks or the work is stopped."""
    settings = work.plan.settings
    bake_s = next((w.bake_s for w in work.plan.waves if w.number == wave), 0.0)
    interval = min((shared["budget"]["interval_s"] for shared in work.plan.shared.values()), default=5.0)
    if settings.service is not None:
        interval = min(interval, settings.service.every_s)
    until = work.clock.elapsed() + max(0.2, min(interval, bake_s / (settings.samples + 1) or interval))
    while (left := until - work.clock.elapsed()) > 0 and not work.stop.is_set() and not work.watching():
        work.clock.wait(work.stop, min(left, _SLICE_S))


def _begun(work: Work, wave: int) -> float:
    """When the wave began to bake, by the clock that nobody sets; a bake lasts as long whatever is done to the other.

    Where that one was set back, samples from now on would lie before the bake: then it begins, for them, now.
    """
    since, now = work.record.rollout(work.rollout_id).waves[wave].baking_since, work.clock.now()
    if since is not None and since > now:
        work.record.set_wave(work.rollout_id, wave, baking_since=now)
    return work.clock.elapsed() - max(0.0, now - (since or 0.0))


def _baked(work: Work, wave: int, begun: float) -> bool:
    """Whether its time is over; where measurements are missing it goes on a while, as too few are inconclusive."""
    _begun(work, wave)
    view = work.record.rollout(work.rollout_id).waves[wave]
    baked = work.clock.elapsed() - begun
    if baked < view.bake_s:
        return False
    counts = work.record.sample_counts(work.rollout_id, wave, since=view.baking_since or 0.0)
    live = _judged(work, work.steps(wave, LIVE_STEPS))
    wanted = work.plan.settings.samples
    enough = all(counts.get(s.host, {}).get("ok", 0) >= wanted for s in live if not _in_vain(counts.get(s.host, {})))
    policy = work.plan.settings.service
    if policy is not None:
        enough = enough and asked_enough(work, wave, policy, view.baking_since or 0.0)
    return enough or baked >= view.bake_s + work.plan.settings.deadline_s


def _in_vain(outcomes: dict[str, int]) -> bool:
    """Whether waiting longer for a host shows nothing: it never answered, or rebooted, after which no bake passes."""
    return set(outcomes) == {"unreachable"} or "rebooted" in outcomes


def _sample(work: Work, step: StepView) -> SampleView:
    program, wave, at = work.plan.program, step.wave, work.clock.now()

    def nothing(outcome: str, fault: Fault) -> SampleView:
        return missing_sample(step.host, program, work.rollout_id, wave, at, outcome=outcome, detail=str(fault))

    try:
        with work.connect(work.host(step.host)) as executor:
            status = executor.status(program)
            _renew(work, step, executor, status)
    except (Unreachable, Refused) as fault:
        return nothing("unreachable", fault)
    except Fault as fault:
        return nothing("error", fault)
    boot_id = (step.document or {}).get("boot_id")  # under which it was attached
    sample = sample_of(
        status, host=step.host, program=program, rollout_id=work.rollout_id, wave=wave, at=at, token=step.token,
        boot_id=boot_id if isinstance(boot_id, str) else None, last=work.measured.get(step.host),
    )  # fmt: skip
    if (ended := measured_at(status, program)) is not None:
        work.measured[step.host] = ended
    return sample


def _renew(work: Work, step: StepView, executor: Any, status: Any) -> None:
    """Extend a lease that is past its half: a rollout that is watched is a rollout that is wanted."""
    lease_s = work.specs[step.host]["lease_s"]
    if lease_due(status, work.plan.program, lease_s):
        executor.renew(work.plan.program, lease_s)


def judge(work: Work, wave: int) -> dict[str, Any]:
    """Ask the gate about *wave*; returns its verdict as a document."""
    steps = [s for s in _judged(work, work.record.steps(work.rollout_id, wave=wave)) if s.state not in OUT_STEPS]
    since = work.record.rollout(work.rollout_id).waves[wave].baking_since
    samples = work.record.samples(work.rollout_id, wave=wave, since=since, limit=1_000_000)
    if not steps:
        return {"answer": "pass", "reason": "no host of the wave is left to judge", "checks": [], "failed_kernels": []}
    budget = next(iter(work.specs.values()))["budget"]
    service = [
        *work.record.service_samples(work.rollout_id, wave, moment="before"),
        *work.record.service_samples(work.rollout_id, wave, moment="after", since=since),
    ]
    verdict = judge_wave(
        steps, samples, msgspec.convert(budget, Budget), work.plan.settings, canary=wave == 0,
        controls=controls(work, wave), service=service,
    )  # fmt: skip
    return {
        "answer": verdict.answer,
        "reason": verdict.reason,
        "checks": [asdict(c) for c in verdict.checks],
        "failed_kernels": [list(k) for k in verdict.failed_kernels],
    }
