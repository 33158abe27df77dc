"""The words of a decision, as values: verdict, evidence, requirement, reason, unlock, assessment, choice.

Everything in this room is pure: bytes and facts in, values out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from inventory.facts import Answer


class Verdict(StrEnum):
    """What would happen to one build on one host."""

    FITS = "fits"
    DEGRADED = "degraded"  # runs, but an optional part is missing and named
    BLOCKED = "blocked"  # the kernel could, something denies it; an unlock exists or is named as unknown
    REFUSED = "refused"  # this kernel or host cannot
    UNKNOWN = "unknown"  # evidence missing: only a canary may try


class Evidence(StrEnum):
    """How a thing is known, weakest first; ``strength`` orders them."""

    CLAIMED = "claimed"
    DERIVED = "derived"
    PROBED = "probed"
    PROVEN = "proven"
    OBSERVED = "observed"

    @property
    def strength(self) -> int:
        """Return 0 for the weakest, 4 for the strongest."""
        return _STRENGTH[self]


_STRENGTH = {evidence: number for number, evidence in enumerate(Evidence)}


@dataclass(frozen=True, slots=True)
class Requirement:
    """One thing a build needs.

    ``kind`` names a row of ``features.FEATURES`` (``program_type``, ``map_type``, ``helper``, ``attach``, ``btf``,
    ``relocation``, ``fact``, ``instructions`` …), ``subject`` what of it (``tracepoint``, ``lpm_trie``,
    ``sock:inet_sock_set_state``, ``task_struct.state``). ``origin`` is ``object`` when inferred from the build itself
    and ``manifest`` when declared. ``program`` is the BPF program that needs it, empty when all do.
    """

    kind: str
    subject: str
    origin: str = "object"
    optional: bool = False
    program: str = ""
    context: str = ""  # the program type for a helper, the map for a flag: what the answer depends on besides subject


@dataclass(frozen=True, slots=True)
class Unlock:
    """The smallest change that would turn an answer: stable ``code``, and the change ``action`` in words."""

    code: str
    action: str


@dataclass(frozen=True, slots=True)
class Reason:
    """One requirement answered."""

    requirement: Requirement
    answer: Answer
    evidence: Evidence
    code: str  # stable: "relocation-poisoned", "probe-denied", "fact-absent" …
    detail: str  # one line for a person
    source: str = ""  # the fact's name or the BTF it was derived from
    errno: str | None = None
    unlock: Unlock | None = None


@dataclass(frozen=True, slots=True)
class Assessment:
    """One variant's build against one host."""

    program: str
    variant: str
    build: str  # digest of the build, "sha256:…"
    verdict: Verdict
    evidence: Evidence
    reasons: tuple[Reason, ...] = ()
    # What a degraded or fallback variant does not give: declared gaps, absent optional hooks.
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """What a host gets for a program: the first variant of the ladder that fits, or none and why."""

    host: str
    program: str
    kernel_id: str
    facts_digest: str
    variant: str | None
    verdict: Verdict
    summary: str  # one line for a person
    assessments: tuple[Assessment, ...] = ()
    unlocks: tuple[Unlock, ...] = ()
