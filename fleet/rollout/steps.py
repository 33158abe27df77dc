"""Carrying one phase of a wave to its hosts, many at a time. Decides nothing about the rollout.

Every host's progress is a row (``StepRow``), so a phase begun again after a crash goes on where each host was. A host
is touched only after its row says so, with the token that makes a repetition harmless. Silence is *unreachable*:
neither success nor failure; where it leaves the outcome of an apply unknown, the host is asked before repeating.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from btf.fault import Fault
from fleet.record import Record
from fleet.record.errors import RecordFault
from fleet.record.views import StepOutcome, StepView
from fleet.rollout.clock import Clock
from fleet.rollout.execute import AgentGarbled, AgentRefused, ExecutorFactory, Spec
from fleet.rollout.plan import Plan, load_plan
from fleet.rollout.watch import boot_of, kernel_of, observe
from inventory.connect.errors import Refused, Unreachable
from inventory.host import Host

# Refusals that say nothing about what stands: an earlier call (ours, perhaps) holds the lock, or it was interrupted.
UNSURE = ("COR-AGT-009", "COR-AGT-016")
ASKS = 4  # how often an unknown outcome is asked after before the host counts as unreachable
ASK_PAUSE_S = 2.0


class StepFailed(Fault):
    """A host did not get there; what it had begun was undone on the host."""

    code = "COR-ROL-010"
    remedy = "`corollout explain HOST PROGRAM` and the step's detail say why; `rollout retry` tries again."


class HostChanged(Fault):
    """The host is not what the plan was made for; it is skipped, never forced."""

    code = "COR-ROL-011"
    remedy = "Scan it and plan again: `corollout hosts scan`, `corollout plan`."


class HostGone(Fault):
    """The host left the inventory after the plan was made."""

    code = "COR-ROL-012"
    remedy = "Import it again, or plan again without it."


@dataclass(frozen=True, slots=True)
class Work:
    """Everything a phase needs. ``hosts`` and ``specs`` are of the plan; ``stop`` ends the work between hosts.

    ``hold``: a paused rollout is watched on until a person decides, instead of ending the leg.
    """

    record: Record
    rollout_id: str
    plan: Plan
    hosts: Mapping[str, Host]
    connect: ExecutorFactory
    clock: Clock
    controller: str
    stop: threading.Event
    hold: bool = False
    specs: Mapping[str, Spec] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)  # host → end of the window that was sampled last

    def host(self, name: str) -> Host:
        """Return how to reach a planned host, or raise HostGone."""
        try:
            return self.hosts[name]
        except KeyError:
            raise HostGone(f"{name} is no longer in the inventory") from None

    def watching(self) -> bool:
        """Whether a person's request waits: phases end early for it."""
        return bool(self.record.requests(self.rollout_id, waiting=True))


def probe(work: Work, step: StepView) -> StepOutcome:
    """Ask cheaply whether the host is still the one that was planned."""
    spec = work.specs[step.host]
    with work.connect(work.host(step.host)) as executor:
        status = executor.status(spec["program"])
    build_id, release = kernel_of(status)
    planned = spec["kernel"]
    for what, was, now in (("build", planned["build_id"], build_id), ("release", planned["release"], release)):
        if was and now and was != now:
            raise HostChanged(f"its kernel changed since the plan: {what} {was} → {now}")
    chosen = work.record.choices(spec["program"], host=step.host)
    if chosen and chosen[0].variant != step.variant:
        raise HostChanged(f"decided otherwise since the plan: {step.variant} → {chosen[0].variant or 'nothing fits'}")
    return StepOutcome(step.host, "probed", document={"boot_id": boot_of(status)})


def stage(work: Work, step: StepView) -> StepOutcome:
    """Bring what is missing to the host."""
    with work.connect(work.host(step.host)) as executor:
        sent = executor.stage(work.specs[step.host])
    return StepOutcome(step.host, "staged", f"{sent} bytes sent" if sent else None)


def check(work: Work, step: StepView) -> StepOutcome:
    """Load without attaching."""
    with work.connect(work.host(step.host)) as executor:
        return StepOutcome(step.host, "checked", document=executor.check(work.specs[step.host]))


def apply(work: Work, step: StepView) -> StepOutcome:
    """Attach, then see it run and confirm it over a new connection."""
    spec = work.specs[step.host]
    host = work.host(step.host)
    if step.state == "attached" and step.token is not None:
        token = step.token
    else:
        token = work.record.begin_step(work.rollout_id, step.host, controller=work.controller)
        answer = make_so(work, host, spec, token, known=step.token is None)
        work.record.finish_step(work.rollout_id, step.host, "attached", document=answer)
    return StepOutcome(step.host, "verified", document=verify(work, host, spec, token))


def revert(work: Work, step: StepView) -> StepOutcome:
    """Undo: bring back what ran before, or remove."""
    host = work.host(step.host)
    before = _spec_before(work, step)
    known = step.revert_token is None
    token = work.record.begin_step(work.rollout_id, step.host, controller=work.controller, revert=True)
    if before is None:
        with work.connect(host) as executor:
            return StepOutcome(step.host, "reverted", document=executor.remove(work.plan.program, token))
    with work.connect(host) as executor:
        executor.stage(before)
    make_so(work, host, before, token, known=known)
    return StepOutcome(step.host, "reverted", f"back to {before['build']}", verify(work, host, before, token))


def _spec_before(work: Work, step: StepView) -> Spec | None:
    """The spec that ran before this rollout, when this record made it run."""
    if step.previous is None or step.previous == work.rollout_id:
        return None
    return load_plan(work.record.plan(work.record.rollout(step.previous).plan_id).document).spec(step.host)


def make_so(work: Work, host: Host, spec: Spec, token: int, *, known: bool) -> Mapping[str, Any]:
    """Apply and find out what came of it. *known*: this token was never sent, so there is nothing to ask first."""
    last: Fault = Unreachable(f"{host.name}: no answer")
    for attempt in range(ASKS):
        if attempt:
            work.clock.wait(work.stop, ASK_PAUSE_S * attempt)
        try:
            if not known:
                with work.connect(host) as executor:
                    seen = observe(executor.status(spec["program"]), spec["program"])
                if seen.token == token and seen.ended:
                    raise StepFailed(seen.reason or f"the host says {seen.state}")
                if seen.runs(spec["build"], token):
                    return seen.entry
                if seen.token == token and seen.state == "applying":
                    last = Unreachable(f"{host.name}: still applying")
                    continue
            known = False
            with work.connect(host) as executor:
                return executor.apply(spec, token)
        except (Unreachable, AgentGarbled) as fault:  # it may or may not have happened: ask, over a new connection
            last = fault
        except AgentRefused as fault:
            if fault.agent_code not in UNSURE:
                raise
            last = Unreachable(f"{host.name}: {fault.message}")
    raise last if isinstance(last, Unreachable) else Unreachable(last.message)


def verify(work: Work, host: Host, spec: Spec, token: int) -> Mapping[str, Any]:
    """See, over a new connection, that the program runs; where a revert timer waits, cancel it over that connection."""
    with work.connect(host) as executor:
        status = executor.status(spec["program"])
        seen = observe(status, spec["program"])
        if not seen.runs(spec["build"], token):
            raise StepFailed(f"applied, and then {seen.state}: {seen.reason or 'it does not run'}")
        if spec["revert_s"]:
            executor.confirm(spec["program"], token)
    return {**seen.entry, "boot_id": boot_of(status)}


Act = Callable[[Work, StepView], StepOutcome]

# phase → which steps it takes up, what is done to each, what silence makes of it, what a fault makes of it
ACTS: dict[str, tuple[tuple[str, ...], Act, str, str]] = {
    "probe": (("pending",), probe, "unreachable", "failed"),
    "stage": (("probed",), stage, "unreachable", "failed"),
    "check": (("staged",), check, "unreachable", "failed"),
    "apply": (("checked", "applying", "attached"), apply, "unreachable", "failed"),
    "revert": (("attached", "verified", "healthy", "applying", "failed", "unreachable", "reverting", "revert-pending",
                "revert-failed"), revert, "revert-pending", "revert-failed"),
}  # fmt: skip


def carry(work: Work, wave: int, phase: str) -> dict[str, Any]:
    """Do *phase* on every host of *wave* that waits for it; returns counts, and whether it was cut short.

    No new host is begun once more hosts failed than the plan tolerates, when a person asked for something, or on stop.
    """
    states, act, silent, faulty = ACTS[phase]
    settings = work.plan.settings
    view = work.record.rollout(work.rollout_id).waves[wave]
    waiting = work.record.steps(work.rollout_id, wave=wave, states=states)
    if phase == "revert":
        waiting = [s for s in waiting if s.attempts]  # the others were never touched
    tolerated = (
        0 if wave == 0 else min(int(sum(view.steps.values()) * settings.failed_percent / 100), settings.failed_cap)
    )
    failed = view.steps.get("failed", 0)
    left, flying = iter(waiting), set[Future[StepOutcome]]()

    def why() -> str:
        """Why no further host is begun now; empty when it is."""
        if phase == "apply" and failed > tolerated:
            return "failures"
        return "stopped" if work.stop.is_set() else ""

    cut = why()
    with ThreadPoolExecutor(settings.parallel, thread_name_prefix="step") as pool:
        while not cut or flying:
            begun = [] if cut else list(itertools.islice(left, settings.parallel - len(flying)))
            flying |= {pool.submit(_one, work, step, act, silent, faulty) for step in begun}
            if not flying:
                break
            done, flying = wait(flying, return_when=FIRST_COMPLETED)
            outcomes = [future.result() for future in done]
            work.record.finish_steps(work.rollout_id, outcomes)
            failed += sum(outcome.state == faulty for outcome in outcomes)
            cut = why() or ("asked" if phase != "revert" and work.watching() else "")
    return {"phase": phase, "hosts": len(waiting), "cut": cut if cut == "failures" or next(left, None) else ""}


def _one(work: Work, step: StepView, act: Act, silent: str, faulty: str) -> StepOutcome:
    """Do one host, and return where it got to."""
    try:
        return act(work, step)
    except RecordFault:
        raise  # not the host's fault: the work stops here and goes on when the record is well again
    except HostChanged as fault:
        return StepOutcome(step.host, "skipped", str(fault))
    except (Unreachable, Refused) as fault:
        return StepOutcome(step.host, silent, str(fault))
    except AgentRefused as fault:
        return StepOutcome(step.host, faulty, str(fault), dict(fault.document), forget_token=True)
    except Fault as fault:
        return StepOutcome(step.host, faulty, str(fault), forget_token=isinstance(fault, StepFailed))
    except Exception as error:  # a bug met on one host must not hold the others
        return StepOutcome(step.host, faulty, f"COR-ROL-099: unexpected {type(error).__name__}: {error}")
