"""The words of a rollout and which of them may follow which. Values only; nothing here decides or acts.

PLANNED → RUNNING ⇄ BAKING → … → COMPLETED
RUNNING, BAKING → PAUSED(reason) | HALTED(reason); both have exits: resume, promote, retry, rollback, abort
anything that touched a host → ROLLING_BACK → ROLLED_BACK | ROLLBACK_INCOMPLETE(hosts) → rollback again
"""

from __future__ import annotations

from dataclasses import dataclass

from btf.fault import EXIT_INTERRUPTED, EXIT_ROLLOUT_FAILED, EXIT_WAITS

PLANNED = "PLANNED"
RUNNING = "RUNNING"
BAKING = "BAKING"
PAUSED = "PAUSED"
HALTED = "HALTED"
COMPLETED = "COMPLETED"
ABORTED = "ABORTED"
ROLLING_BACK = "ROLLING_BACK"
ROLLED_BACK = "ROLLED_BACK"
ROLLBACK_INCOMPLETE = "ROLLBACK_INCOMPLETE"

# What the command's exit code is when a rollout stops in this state. Stopped while active means interrupted.
STATES: dict[str, int] = {
    PLANNED: EXIT_INTERRUPTED,
    RUNNING: EXIT_INTERRUPTED,
    BAKING: EXIT_INTERRUPTED,
    PAUSED: EXIT_WAITS,
    HALTED: EXIT_ROLLOUT_FAILED,
    COMPLETED: 0,
    ABORTED: EXIT_ROLLOUT_FAILED,
    ROLLING_BACK: EXIT_INTERRUPTED,
    ROLLED_BACK: 0,
    ROLLBACK_INCOMPLETE: EXIT_ROLLOUT_FAILED,
}

PHASES = ("probe", "stage", "check", "apply", "bake", "gate")  # of one wave, in order


@dataclass(frozen=True, slots=True)
class Verb:
    """What a person may ask, and in which states; asked in another, it is answered and changes nothing."""

    name: str
    states: tuple[str, ...]


VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb("start", (PLANNED,)),
        Verb("pause", (RUNNING, BAKING, PAUSED)),  # PAUSED: one that waits for its window goes on by itself
        Verb("resume", (PAUSED, HALTED)),
        Verb("promote", (BAKING, PAUSED, HALTED)),
        Verb("halt", (PLANNED, RUNNING, BAKING, PAUSED)),
        Verb("retry", (PAUSED, HALTED, COMPLETED)),
        Verb("rollback", (RUNNING, BAKING, PAUSED, HALTED, COMPLETED, ABORTED, ROLLBACK_INCOMPLETE)),
        Verb("abort", (PLANNED, PAUSED, HALTED)),
    )
}

# Host steps. Those that may have left something on the host are the ones with a token (StepRow.token).
LIVE_STEPS = ("attached", "verified", "healthy")
RETRIED_STEPS = ("failed", "unreachable")
