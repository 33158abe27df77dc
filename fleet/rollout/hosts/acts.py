"""What is done to one host in each phase, and what silence or a fault makes of it. Decides nothing about the rollout.

A host is touched only after its row says so, with the token that makes a repetition harmless. Where silence leaves the
outcome of an apply unknown, the host is asked before repeating.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from btf.fault import Fault
from fleet.record.rollout_views import StepOutcome, StepView
from fleet.record.views import AssignmentView
from fleet.rollout.execute import AgentGarbled, AgentRefused, Spec
from fleet.rollout.hosts.join import specs_of
from fleet.rollout.hosts.watch import boot_of, kernel_of, observe
from fleet.rollout.hosts.work import Work
from fleet.rollout.states import LEFT_STEPS, LIVE_STEPS, UNDONE_STEPS
from inventory.connect.errors import Unreachable
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


def probe(work: Work, step: StepView) -> StepOutcome:
    """Ask cheaply whether the host is still the one that was planned."""
    spec = work.specs[step.host]
    with work.connect(work.host(step.host)) as executor:
        status = executor.status(spec["program"])
    same_kernel(spec, status)
    decided = work.record.decided(step.host, spec["program"])
    pin = decided.pin
    if pin is not None and pin.variant != step.variant:
        raise HostChanged(f"pinned {'to ' + pin.variant if pin.variant else 'as it is'} since the plan by {pin.actor}")
    if pin is None and decided.known and decided.variant != step.variant:
        raise HostChanged(f"decided otherwise since the plan: {step.variant} → {decided.variant or 'nothing fits'}")
    return StepOutcome(step.host, "probed", document={"boot_id": boot_of(status)})


def same_kernel(spec: Spec, status: Mapping[str, Any]) -> None:
    """Raise HostChanged when a host runs another kernel than it was planned for."""
    build_id, release = kernel_of(status)
    planned = spec["kernel"]
    for what, was, now in (("build", planned["build_id"], build_id), ("release", planned["release"], release)):
        if was and now and was != now:
            raise HostChanged(f"its kernel changed since the plan: {what} {was} → {now}")


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
        token = work.begin(step.host, among=("checked", "applying"))
        answer = make_so(work, host, spec, token, known=step.token is None)
        work.finish([StepOutcome(step.host, "attached", document=answer)])
    return StepOutcome(step.host, "verified", document=verify(work, host, spec, token))


def revert(work: Work, step: StepView) -> StepOutcome:
    """Undo: bring back what ran before, or remove; where a later rollout took its place there is nothing to undo."""
    owner = _owner(work, step)
    if owner is not None and owner.rollout_id not in (work.rollout_id, step.previous):
        return StepOutcome(step.host, "reverted", f"nothing of it is left: {owner.rollout_id} took its place")
    host = work.host(step.host)
    before = _spec_before(work, step)
    known = step.revert_token is None
    token = work.begin(step.host, revert=True)
    if before is None:
        with work.connect(host) as executor:
            return StepOutcome(step.host, "reverted", document=executor.remove(work.plan.program, token))
    with work.connect(host) as executor:
        executor.stage(before)
    make_so(work, host, before, token, known=known)
    return StepOutcome(step.host, "reverted", f"back to {before['build']}", verify(work, host, before, token))


def mend(work: Work, step: StepView) -> StepOutcome:
    """See that a host runs what it should, and make it so again where it was lost; what cost too much stays ended."""
    owner = _owner(work, step)
    if owner is None or owner.rollout_id != work.rollout_id:
        return StepOutcome(step.host, step.state, step.detail)  # a later rollout took its place
    if step.state == "applying":  # interrupted: its order goes to its end
        return apply(work, step)
    spec, host = work.specs[step.host], work.host(step.host)
    good = "healthy" if step.state == "drifted" else step.state
    with work.connect(host) as executor:
        status = executor.status(spec["program"])
        same_kernel(spec, status)
        seen = observe(status, spec["program"])
        if seen.runs(spec["build"], owner.token):
            if (step.document or {}).get("boot_id") not in (
                None,
                boot_of(status),
            ):  # what bakes next is held against this
                work.finish([StepOutcome(step.host, "drifted", "it rebooted, and runs again")])
            return StepOutcome(step.host, good, document={**seen.entry, "boot_id": boot_of(status)})
        if seen.state == "tripped":
            return StepOutcome(step.host, "failed", f"tripped: {seen.reason or ''}", forget_token=True)
        if seen.token is not None and seen.token > owner.token:
            return StepOutcome(step.host, "drifted", "somebody else gave this host a later order")
        executor.stage(spec)
    lost = f"it was {seen.state}: {seen.reason or 'it does not run'}"
    work.finish([StepOutcome(step.host, "drifted", lost, forget_token=True)])  # the host has ended that order
    token = work.begin(step.host, among=("drifted",))
    answer = make_so(work, host, spec, token, known=True)
    work.finish([StepOutcome(step.host, "attached", document=answer)])
    return StepOutcome(step.host, good, "applied again", verify(work, host, spec, token))


def _owner(work: Work, step: StepView) -> AssignmentView | None:
    """What the record wants on this host of this program."""
    return next(iter(work.record.assignments(host=step.host, program=work.plan.program)), None)


def _spec_before(work: Work, step: StepView) -> Spec | None:
    """The spec that ran before this rollout, when this record made it run."""
    if step.previous is None or step.previous == work.rollout_id:
        return None
    return specs_of(work.record, step.previous)[step.host]


def make_so(work: Work, host: Host, spec: Spec, token: int, *, known: bool) -> Mapping[str, Any]:
    """Apply and find out what came of it. *known*: this token was never sent, so there is nothing to ask first."""
    last: Fault = Unreachable(f"{host.name}: no answer")
    for attempt in range(ASKS):
        if attempt:
            work.clock.wait(work.stop, ASK_PAUSE_S * attempt)
        try:
            if not known:
                with work.connect(host, fresh=True) as executor:
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
    with work.connect(host, fresh=True) as executor:
        status = executor.status(spec["program"])
        seen = observe(status, spec["program"])
        if not seen.runs(spec["build"], token):
            raise StepFailed(f"applied, and then {seen.state}: {seen.reason or 'it does not run'}")
        if spec["revert_s"]:
            executor.confirm(spec["program"], token)
    return {**seen.entry, "boot_id": boot_of(status)}


Act = Callable[[Work, StepView], StepOutcome]

# phase → which steps it takes up, what is done to each, what silence makes of it (empty: nothing), what a fault does
ACTS: dict[str, tuple[tuple[str, ...], Act, str, str]] = {
    "probe": (("pending",), probe, "unreachable", "failed"),
    "stage": (("probed",), stage, "unreachable", "failed"),
    "check": (("staged",), check, "unreachable", "failed"),
    "apply": (("checked", "applying", "attached"), apply, "unreachable", "failed"),
    "revert": (UNDONE_STEPS, revert, "revert-pending", "revert-failed"),
    "undo": (LEFT_STEPS, revert, "revert-pending", "revert-failed"),
    "mend": ((*LIVE_STEPS, "drifted", "applying"), mend, "", "drifted"),
}
