"""What really came of builds on kernels: the kernel's own words, ours beside them, and what contradicts a prediction.

Pure. A trial was made in the lab (a proof) or by a rollout on a host (a rejection); both keep what the kernel said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from btf.fault import printable
from fleet.compatibility.outcome import CONTRADICTIONS, Agreement, Proof, Real
from fleet.compatibility.verdict import Assessment, Choice, Evidence, Verdict
from fleet.compatibility.verifier import Explanation, explain
from fleet.record.rollout_views import Rejection
from probes.manifest import LADDER

_LINES = 12  # of a log, the last: the verifier complains at its end


@dataclass(frozen=True, slots=True)
class Trial:
    """A build tried on a kernel build, with one outcome at one or several places.

    ``predicted`` and ``agreement`` are None where a rollout tried it. ``said`` are the kernel's own last words,
    printable and bounded; ``explained`` says the same in ours. ``earlier``: that kernel's hosts are decided by another
    build now.
    """

    program: str
    variant: str
    build: str
    kernel_id: str
    release: str
    places: tuple[str, ...]
    evidence: Evidence
    real: Real
    predicted: Verdict | None = None
    agreement: Agreement | None = None
    stage: str = ""
    errno: str = ""
    said: tuple[str, ...] = ()
    explained: Explanation | None = None
    earlier: bool = False

    @property
    def contradicts(self) -> bool:
        """Whether it is not what was predicted."""
        return self.agreement in CONTRADICTIONS

    @property
    def complaint(self) -> str:
        """The one line of the kernel's words that counts; empty where it said nothing."""
        return self.explained.complaint if self.explained else self.said[-1] if self.said else ""


def trials(
    proofs: Iterable[Proof], rejections: Iterable[Rejection], releases: Mapping[str, str], choices: Iterable[Choice]
) -> tuple[Trial, ...]:
    """Return every trial, equal ones as one: by program, what contradicts first, then refusals, then down the ladder.

    *releases* names the kernels by id; *choices* tell which builds decide now.
    """
    decided: dict[tuple[str, str, str], set[str]] = {}
    for choice in choices:
        for a in choice.assessments:
            decided.setdefault((choice.kernel_id, choice.program, a.variant), set()).add(a.build)
    places: dict[Trial, dict[str, None]] = {}
    for trial in (*map(_proven, proofs), *(_rejected(r, releases.get(r.kernel_id, "")) for r in rejections)):
        builds = decided.get((trial.kernel_id, trial.program, trial.variant), {trial.build})
        key = replace(trial, places=(), earlier=trial.build not in builds)
        places.setdefault(key, {}).update(dict.fromkeys(trial.places))
    return tuple(sorted((replace(t, places=tuple(p)) for t, p in places.items()), key=_order))


def _order(trial: Trial) -> tuple[Any, ...]:
    step = LADDER.index(trial.variant) if trial.variant in LADDER else len(LADDER)
    return trial.program, not trial.contradicts, trial.real is not Real.REFUSED, trial.earlier, step, trial.release


def _proven(proof: Proof) -> Trial:
    return Trial(
        proof.program, proof.variant, proof.build, proof.kernel_id, proof.release, (proof.policy,), proof.evidence,
        proof.real, proof.predicted, proof.agreement, **_words(proof.document),
    )  # fmt: skip


def _rejected(rejection: Rejection, release: str) -> Trial:
    return Trial(
        rejection.program, rejection.variant, rejection.build, rejection.kernel_id, release,
        (f"{rejection.host}, rollout {rejection.rollout_id}",), Evidence.OBSERVED, Real.REFUSED,
        **_words(rejection.document),
    )  # fmt: skip


def _words(document: Mapping[str, Any]) -> dict[str, Any]:
    """Read what a runner or an agent kept of the kernel's words; it is a guest's or a host's, so text it stays."""
    stage, errno, message, log = (str(document.get(n) or "") for n in ("stage", "errno", "message", "log"))
    lines = [line for line in log.splitlines() if line.strip()][-_LINES:] or [line for line in (message,) if line]
    said = tuple(printable(line, 400) for line in lines)
    return {"stage": printable(stage, 40), "errno": printable(errno, 40), "said": said, "explained": explain(log)}


@dataclass(frozen=True, slots=True)
class Level:
    """How the verdict of one variant is known on *hosts* hosts; ``tried``: the build was also tried on such a host."""

    variant: str
    verdict: Verdict
    evidence: Evidence
    tried: Evidence | None
    hosts: int


def levels(choices: Sequence[Choice]) -> tuple[Level, ...]:
    """Return the evidence levels of all variants that were looked at, down the ladder, most hosts first."""
    found: dict[tuple[str, Verdict, Evidence, Evidence | None], int] = {}
    for choice in choices:
        for a in choice.assessments:
            key = a.variant, a.verdict, a.evidence, tried(a)
            found[key] = found.get(key, 0) + 1
    rows = [Level(*key, hosts) for key, hosts in found.items()]
    return tuple(sorted(rows, key=lambda r: (LADDER.index(r.variant), -r.hosts, r.verdict, r.evidence)))


def tried(assessment: Assessment) -> Evidence | None:
    """Return ``proven`` or ``observed`` where a part of the verdict rests on what really happened, else None.

    A verdict is as strong as the weakest answer that it stands on: that its build ran elsewhere may not show in it.
    """
    strongest = max((r.evidence for r in assessment.reasons), key=lambda e: e.strength, default=Evidence.CLAIMED)
    return strongest if strongest.strength >= Evidence.PROVEN.strength else None
