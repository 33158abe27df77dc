"""The words of a rollout, of its waves' reasons to stop, and of its hosts. Values only; nothing here decides or acts.

PLANNED → (WAITING_APPROVAL →) RUNNING ⇄ BAKING → … → COMPLETED
RUNNING, BAKING → PAUSED(reason) | HALTED(reason) | FROZEN(reason); what leads out is in the tables
anything that touched a host → ROLLING_BACK → ROLLED_BACK | ROLLBACK_INCOMPLETE(hosts) → rollback again
"""

from __future__ import annotations

from dataclasses import dataclass

from btf.fault import EXIT_INTERRUPTED, EXIT_ROLLOUT_FAILED, EXIT_WAITS

PLANNED = "PLANNED"
WAITING_APPROVAL = "WAITING_APPROVAL"
RUNNING = "RUNNING"
BAKING = "BAKING"
PAUSED = "PAUSED"
HALTED = "HALTED"
FROZEN = "FROZEN"
COMPLETED = "COMPLETED"
ABORTED = "ABORTED"
ROLLING_BACK = "ROLLING_BACK"
ROLLED_BACK = "ROLLED_BACK"
ROLLBACK_INCOMPLETE = "ROLLBACK_INCOMPLETE"


@dataclass(frozen=True, slots=True)
class State:
    """One state of a rollout: the command's exit code when it stops there, and where a controller alone takes it.

    ``ends``: nothing is left to do, though a person may still ask. What persons lead it to are the rows of ``verbs``.
    """

    name: str
    exit: int
    meaning: str
    alone: tuple[str, ...] = ()
    ends: bool = False


STATE_ROWS: dict[str, State] = {
    row.name: row
    for row in (
        State(PLANNED, EXIT_INTERRUPTED, "made, nothing touched yet", (WAITING_APPROVAL, RUNNING)),
        State(WAITING_APPROVAL, EXIT_WAITS, "a person has to approve it, or its next wave, before that starts"),
        State(RUNNING, EXIT_INTERRUPTED, "a wave is being carried to its hosts",
              (BAKING, PAUSED, HALTED, FROZEN, ROLLING_BACK, COMPLETED, WAITING_APPROVAL)),
        State(BAKING, EXIT_INTERRUPTED, "a wave runs and is watched before the next one begins",
              (RUNNING, WAITING_APPROVAL, PAUSED, HALTED, FROZEN, ROLLING_BACK, COMPLETED)),
        State(PAUSED, EXIT_WAITS, "no new step; what runs is watched on"),
        State(HALTED, EXIT_ROLLOUT_FAILED, "something failed or a person stopped it; hosts stay as they are"),
        State(FROZEN, EXIT_WAITS, "hosts stay exactly as they are: no step, no undoing; watched, and leases renewed"),
        State(COMPLETED, 0, "every wave passed", ends=True),
        State(ABORTED, EXIT_ROLLOUT_FAILED, "given up; what was done was left as it was", ends=True),
        State(ROLLING_BACK, EXIT_INTERRUPTED, "being undone, widest wave first", (ROLLED_BACK, ROLLBACK_INCOMPLETE)),
        State(ROLLED_BACK, 0, "undone on every host it touched", ends=True),
        State(ROLLBACK_INCOMPLETE, EXIT_ROLLOUT_FAILED, "undone but on the hosts it names", (ROLLING_BACK,)),
    )
}  # fmt: skip

# What the command's exit code is when a rollout stops in this state. Stopped while active means interrupted.
STATES: dict[str, int] = {name: row.exit for name, row in STATE_ROWS.items()}
ACTIVE = (RUNNING, BAKING)
WAITING = (WAITING_APPROVAL, PAUSED, HALTED, FROZEN, ROLLBACK_INCOMPLETE)  # no controller leaves them by itself


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a rollout stands where it stands: a stable code, what it means, what gets it out (``{id}``: the rollout)."""

    code: str
    states: tuple[str, ...]
    meaning: str
    out: str


REASONS: dict[str, Reason] = {
    row.code: row
    for row in (
        Reason("approval", (WAITING_APPROVAL,), "the policy asks for a person's approval",
               "`rollout approve {id}` or `rollout deny {id}`"),
        Reason("denied", (ABORTED,), "a person did not approve it", "a new plan"),
        Reason("given-up", (ABORTED,), "a person gave it up", "`rollout rollback {id}` undoes it, or a new plan"),
        Reason("asked", (PAUSED, HALTED, FROZEN, ROLLING_BACK), "a person asked for it",
               "`rollout resume {id}` or `rollout rollback {id}`"),
        Reason("gate-failed", (HALTED, FROZEN, ROLLING_BACK), "a wave failed its gate",
               "`rollout retry {id}`, `rollout promote {id}` past it, or `rollout rollback {id}`"),
        Reason("gate-inconclusive", (PAUSED,), "a gate could not tell: too few samples, or hosts without signal",
               "`rollout resume {id}` looks anew, after `rollout retry {id}` for silent hosts, "
               "`rollout reconcile {id}` for those that rebooted; or `rollout promote {id}`"),
        Reason("gate-error", (PAUSED,), "a gate could not measure",
               "mend what its check names, then `rollout resume {id}`; or `rollout promote {id}`"),
        Reason("canary-tripped", (HALTED, FROZEN, ROLLING_BACK), "the watchdog of an earlier canary stopped it",
               "`rollout retry {id}`, `rollout promote {id}` or `rollout rollback {id}`"),
        Reason("progress-deadline", (PAUSED,), "no host of the wave got any further for too long",
               "`rollout resume {id}` goes on where each host is, `rollout rollback {id}` undoes"),
        Reason("window", (PAUSED,), "the policy's window is closed",
               "its opening, while somebody drives it: `rollout go {id}`"),
        Reason("in-part", (HALTED,), "later waves were rolled back",
               "`rollout resume {id}` does these waves anew, `rollout rollback {id}` undoes the others too"),
        Reason("held", (COMPLETED,), "kernel builds halted alone, the others are done",
               "`rollout retry {id} --kernel KERNEL` or `rollout rollback {id} --kernel KERNEL`"),
        Reason("pending-reverts", (ROLLBACK_INCOMPLETE, COMPLETED), "hosts that were away have something to undo",
               "`rollout go {id}` or `rollout reconcile {id}`, when they are back"),
    )
}  # fmt: skip


def because(code: str, detail: str) -> str:
    """Return a reason as it is kept: ``code: detail``; *code* is one of ``REASONS``."""
    return f"{REASONS[code].code}: {detail}"


def goes_on_by(rollout_id: str, state: str, reason: str | None) -> str:
    """Say what gets a rollout out of *state*, where *reason* holds it; empty when it needs no person."""
    row = REASONS.get((reason or "").partition(":")[0])
    if row is None or not (state in WAITING or STATE_ROWS[state].ends):
        return ""
    if state == FROZEN:  # whatever froze it, it has to be thawed first
        row = REASONS["asked"]
    return f"goes on by: {row.out.format(id=rollout_id)}"


def exit_of(state: str, reason: str | None = None) -> int:
    """Return the command's exit code for a rollout that stopped in *state*; an end with a reason waits for a person."""
    return STATES[state] or (EXIT_WAITS if reason else 0)


PHASES = ("probe", "stage", "check", "apply", "bake", "gate")  # of one wave, in order
# Done to a host one after the other while it is reached; only attaching waits for all hosts of the wave.
AT_ONCE = ("probe", "stage", "check")
DUTIES = ("undo", "reconcile")  # what is done apart from waves: pending reverts; and looking at every host again


@dataclass(frozen=True, slots=True)
class StepState:
    """One state of a host's step and which ones follow it."""

    name: str
    meaning: str
    then: tuple[str, ...]


_TOUCHED = ("reverting", "revert-pending")
STEP_ROWS: dict[str, StepState] = {
    row.name: row
    for row in (
        StepState("pending", "its turn is to come", ("probed", "skipped", "unreachable", "failed", "held", *_TOUCHED)),
        StepState("probed", "still the host that was planned",
                  ("staged", "unreachable", "failed", "held", "pending", "skipped", *_TOUCHED)),
        StepState("staged", "the artefacts are there",
                  ("checked", "unreachable", "failed", "held", "pending", "skipped", *_TOUCHED)),
        StepState("checked", "loaded without attaching",
                  ("applying", "unreachable", "failed", "held", "pending", "skipped", *_TOUCHED)),
        StepState("applying", "its token is out; the outcome is not known yet",
                  ("attached", "unreachable", "failed", *_TOUCHED)),
        StepState("attached", "the host says that it runs",
                  ("verified", "healthy", "failed", "unreachable", "drifted", *_TOUCHED)),
        StepState("verified", "seen running over a new connection", ("healthy", "failed", "drifted", *_TOUCHED)),
        StepState("healthy", "its wave passed", ("failed", "drifted", *_TOUCHED)),
        StepState("drifted", "runs something else, or nothing, since; or was away",
                  ("attached", "verified", "healthy", "failed", "pending", *_TOUCHED)),
        StepState("held", "its kernel build was halted alone", ("pending", "skipped", *_TOUCHED)),
        StepState("skipped", "left out", ("pending", *_TOUCHED)),
        StepState("unreachable", "silent: neither done nor failed", ("pending", *_TOUCHED)),
        StepState("failed", "did not get there, or ended", ("pending", *_TOUCHED)),
        StepState("reverting", "being undone; the outcome is not known yet",
                  ("reverted", "revert-pending", "revert-failed")),
        StepState("reverted", "undone", ("pending",)),
        StepState("revert-pending", "to be undone when the host is seen", ("reverting",)),
        StepState("revert-failed", "could not be undone", ("reverting", "revert-pending")),
    )
}  # fmt: skip

# Host steps. Those that may have left something on the host are the ones with a token (StepRow.token).
LIVE_STEPS = ("attached", "verified", "healthy")
RETRIED_STEPS = ("failed", "unreachable")
WAITING_STEPS = ("pending", "probed", "staged", "checked")  # to be attached; by an earlier try it may be already
NAMED_STEPS = (*RETRIED_STEPS, "held", "reverted", "drifted", "skipped")  # tried again where a person names them
LEFT_STEPS = ("revert-pending", "reverting", "revert-failed")  # of an undoing that is not through
# May have something to undo, where the host was touched: also what waits for another try, or was left out at one.
UNDONE_STEPS = (
    *LIVE_STEPS, "applying", "failed", "unreachable", "drifted", *LEFT_STEPS, *WAITING_STEPS, "held", "skipped",
)  # fmt: skip
OUT_STEPS = ("skipped", "held", "reverted", *LEFT_STEPS)  # no longer of their wave: a gate does not count them
