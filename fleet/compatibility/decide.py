"""Assess one variant of one program on one host: every requirement answered, then one verdict.

The strongest evidence wins; among equals the more cautious answer. Denied and could-not-tell never become "no".
This module reads facts and BTF, never a host.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from fleet.compatibility.features import FEATURES, alternatives, noun
from fleet.compatibility.loaded import Loaded, Outcome, spared
from fleet.compatibility.outcome import boot_policy
from fleet.compatibility.sources import Finding, Known, holds
from fleet.compatibility.unlock import unlock_for
from fleet.compatibility.verdict import Assessment, Evidence, Reason, Requirement, Unlock, Verdict
from inventory.facts import Answer, Facts
from probes.catalogue import Program


@dataclass(frozen=True, slots=True)
class Learned:
    """What really happened to a build on a kernel build: proven in the lab or observed in the fleet.

    ``policy`` is the boot policy it happened under (``outcome.boot_policy``); empty holds for every host of the build.
    """

    build: str
    kernel_id: str
    evidence: Evidence
    detail: str = ""
    policy: str = ""
    refused: bool = False

    def speaks_for(self, build: str, facts: Facts) -> bool:
        """Whether this says something about *build* on a host with these facts."""
        return (
            bool(build)
            and (self.build, self.kernel_id) == (build, facts.kernel_id)
            and (not self.policy or self.policy == boot_policy(facts))
        )


_CAUTION = {Answer.NO: 0, Answer.BLOCKED: 1, Answer.YES: 2}  # among equal evidence the first wins
_PREFERENCE = {Answer.YES: 0, Answer.BLOCKED: 1, Answer.UNKNOWN: 2, Answer.NO: 3}  # among alternatives the first wins
_CODE_ENDS = {Answer.YES: "ok", Answer.NO: "absent", Answer.BLOCKED: "denied", Answer.UNKNOWN: "unknown"}
_HOOKS = frozenset({"attach", "tracepoint", "raw_tracepoint", "program_type", "function"})

RUNS_BPF = Requirement("fact", "bpf.syscall", "corollout")
RUNS_AGENT = Requirement("fact", "python.path", "corollout")
# What a variant needs of a host whatever its build says.
STRUCTURAL = {
    "core": (RUNS_AGENT, RUNS_BPF),
    "core-btf": (RUNS_AGENT, RUNS_BPF, Requirement("btf", "archive", "corollout")),
    "bcc": (
        RUNS_AGENT,
        RUNS_BPF,
        Requirement("fact", "bcc.usable", "corollout"),
        Requirement("fact", "headers.path|headers.kheaders", "corollout"),
    ),
    "fallback": (RUNS_AGENT,),
}
# Where a host has no Python the runner alone can hold a tracing program's core builds, and gives no more than that.
ALONE = ("core", "core-btf")
NOT_ALONE = "readable records (held by the runner alone: no Python here)"


def weigh(findings: Iterable[Finding]) -> Finding:
    """Return the finding that counts: the strongest conclusive one, or an unknown one when none is conclusive."""
    best: Finding | None = None
    unclear: Finding | None = None
    for found in findings:
        if found.answer is Answer.UNKNOWN:
            unclear = unclear or found
        elif best is None or _rank(found) < _rank(best):
            best = found
    return best or unclear or Finding(Answer.UNKNOWN, Evidence.CLAIMED, "nothing known")


def _rank(found: Finding) -> tuple[int, int]:
    return -found.evidence.strength, _CAUTION[found.answer]


def answer(need: Requirement, known: Known, *, learned: Learned | None = None) -> Reason:
    """Answer one requirement. A subject ``a|b`` is met by either; *learned* speaks for this build on this kernel."""
    row = FEATURES.get(need.kind)
    if row is None:
        detail = f"{noun(need)}: a kind of requirement this version does not know"
        return Reason(need, Answer.UNKNOWN, Evidence.CLAIMED, "requirement-unknown", detail)
    found = min(
        (weigh(f for s in row.sources if (f := s(way, known))) for way in alternatives(need)),
        key=lambda f: _PREFERENCE[f.answer],
    )
    if _permission_unknown(need, found, known):
        words = f"{found.detail}, but whether it is permitted here is not known"
        found = Finding(Answer.UNKNOWN, found.evidence, words, found.source)
    if learned and row.per_kernel and found.answer is not Answer.BLOCKED and _yields(found, learned):
        found = Finding(Answer.YES, learned.evidence, learned.detail or "this build ran on this kernel build", "record")
    unlock = unlock_for(need, found, known)
    said = Answer.BLOCKED if unlock and found.answer is Answer.NO else found.answer
    code = f"{row.code}-{_CODE_ENDS[found.answer]}"
    if need.kind == "btf" and found.answer is not Answer.YES:
        code = "btf-not-imported" if found.source == "archive" else "btf-hidden" if unlock else code
    detail = f"{noun(need)}: {found.detail}"
    return Reason(need, said, found.evidence, code, detail, found.source, found.errno, unlock)


# What policy may deny though the kernel has it.
_PERMITTED = frozenset({"program_type", "map_type", "helper", "attach", "link", "tracepoint"})


def _permission_unknown(need: Requirement, found: Finding, known: Known) -> bool:
    """Whether a yes was derived from the kernel alone on a host whose policy may deny it: BTF knows no permissions."""
    if known.off_host or found.answer is not Answer.YES or found.evidence.strength >= Evidence.PROBED.strength:
        return False
    facts = known.facts
    denies = holds(facts, "sys_admin") is False or facts.value("lockdown.mode") == "confidentiality"
    return need.kind in _PERMITTED and (denies or facts.value("seccomp.mode") == 2)


def _yields(found: Finding, learned: Learned) -> bool:
    """Whether what happened outweighs a finding; a live probe that says no is never overruled by another host."""
    return found.evidence.strength < learned.evidence.strength and not (
        found.answer is Answer.NO and found.evidence is Evidence.PROBED
    )


def _no_python(known: Known) -> bool:
    """Whether a host was looked at and has no Python; what is merely not known stays a question."""
    return not known.off_host and known.facts.answer("python.path") is Answer.NO


def relocation_reasons(
    outcomes: Sequence[Outcome] | None, *, wanted: bool, learned: Learned | None = None, optional: Iterable[str] = ()
) -> tuple[Reason, ...]:
    """Turn relocation outcomes into reasons: one per access that breaks, one for all that resolve.

    *wanted* says that the object has relocations; then missing *outcomes* (no BTF to resolve against) are unknown.
    """
    absent = frozenset(optional)
    if outcomes is None:
        if not wanted:
            return ()
        need = Requirement("relocation", "CO-RE relocations")
        if learned:
            return (Reason(need, Answer.YES, learned.evidence, "relocation-ok", "they resolved on this kernel build"),)
        import_it = Unlock("import-btf", "import BTF for this kernel build")
        detail = "CO-RE relocations: no BTF of this kernel build at hand to resolve them against"
        return (Reason(need, Answer.UNKNOWN, Evidence.DERIVED, "relocation-unknown", detail, "", None, import_it),)
    reasons: dict[tuple[str, str, str], Reason] = {}
    for out in outcomes:
        if out.outcome == "value" or (out.outcome == "poisoned" and out.guarded):
            continue
        need = Requirement("relocation", out.local, optional=out.program in absent, program=out.program)
        sure = out.outcome != "poisoned" or out.guarded is False  # all else makes libbpf refuse the object
        said = Answer.NO if sure else Answer.UNKNOWN
        detail = f"{out.local}: {out.detail}" if out.detail else out.local
        key = (out.program, out.local, out.outcome)
        reasons.setdefault(key, Reason(need, said, Evidence.DERIVED, f"relocation-{out.outcome}", detail, "btf"))
    resolved = len(outcomes) - sum(o.outcome != "value" for o in outcomes)
    if resolved:
        need = Requirement("relocation", "CO-RE relocations")
        detail = f"{resolved} of {len(outcomes)} CO-RE relocations resolve against this kernel's BTF"
        return (Reason(need, Answer.YES, Evidence.DERIVED, "relocation-ok", detail, "btf"), *reasons.values())
    return tuple(reasons.values())


def conclude(reasons: Sequence[Reason]) -> tuple[Verdict, Evidence, tuple[str, ...]]:
    """Return the verdict of all *reasons*, how it is known, and the optional BPF programs or hooks that are lost.

    A verdict is as strong as the weakest answer it stands on, a refusal as strong as its strongest "no".
    """
    must = [r for r in reasons if not r.requirement.optional]
    for stop, verdict, pick in (
        (Answer.NO, Verdict.REFUSED, max),
        (Answer.BLOCKED, Verdict.BLOCKED, max),
        (Answer.UNKNOWN, Verdict.UNKNOWN, max),
    ):
        if found := [r.evidence for r in must if r.answer is stop]:
            return verdict, pick(found, key=lambda e: e.strength), ()
    lost = dict.fromkeys(
        r.requirement.program or noun(r.requirement)
        for r in reasons
        if r.requirement.optional
        and r.answer is not Answer.YES
        and (r.requirement.kind in _HOOKS or r.requirement.program)
    )
    if lost and not must and all(r.answer is not Answer.YES for r in reasons):
        return Verdict.REFUSED, Evidence.DERIVED, tuple(lost)
    weakest = min((r.evidence for r in must), key=lambda e: e.strength, default=Evidence.CLAIMED)
    return Verdict.DEGRADED if lost else Verdict.FITS, weakest, tuple(lost)


_SPARE = "_perf"  # NAME and NAME_perf: one program over a ring buffer or over a perf buffer; the runner loads one
_ORDER = (Verdict.FITS, Verdict.DEGRADED, Verdict.UNKNOWN, Verdict.BLOCKED, Verdict.REFUSED)


def _twins(programs: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs (NAME, NAME_perf) among *programs*."""
    names = dict.fromkeys(programs)
    return [(p.removesuffix(_SPARE), p) for p in names if p.endswith(_SPARE) and p.removesuffix(_SPARE) in names]


def without_spares(reasons: Iterable[Reason]) -> list[Reason]:
    """Return *reasons* without those of the twin that is not loaded: of NAME and NAME_perf the better one stays."""
    kept = list(reasons)
    by_program: dict[str, list[Reason]] = {}
    for reason in kept:
        by_program.setdefault(reason.requirement.program, []).append(reason)
    for first, spare in _twins(by_program):
        ranks = {p: _ORDER.index(conclude(by_program[p])[0]) for p in (first, spare)}
        out = first if ranks[spare] < ranks[first] else spare
        kept = [r for r in kept if r.requirement.program != out]
    return kept


def assess(
    program: Program,
    variant: str,
    requirements: Sequence[Requirement],
    known: Known,
    loaded: Loaded | None = None,
    *,
    build: str = "",
    learned: Sequence[Learned] = (),
) -> Assessment:
    """Assess one *variant* on one host: structural needs, the build's own *requirements*, and the manifest's facts.

    ``known.btf`` is BTF of exactly the host's kernel build or None; *loaded* is the build held against it.
    Off the host only the kernel is asked: what the machine itself must have is left out.
    """
    row = program.variant(variant)
    optional = frozenset(row.optional_programs) if row else frozenset()
    optional |= {
        n.program for n in requirements if n.kind == "program_type" and n.optional
    }  # as the object says itself
    past = next((e for e in learned if e.speaks_for(build, known.facts)), None)
    refusal = past if past and past.refused else None
    past = None if refusal else past
    needs = [replace(n, optional=True) if n.program in optional else n for n in requirements]
    if not known.off_host:
        declared = (Requirement("fact", name, "manifest") for name in (row.requires if row else ()))
        needs = [*STRUCTURAL.get(variant, ()), *needs, *declared]
    alone = variant in ALONE and program.manifest.kind == "tracing" and _no_python(known)
    if alone:
        needs = [replace(n, optional=True) if n == RUNS_AGENT else n for n in needs]
    said_once = {(n.kind, n.subject, n.program, n.context): n for n in reversed(needs)}
    # That a build ran says nothing of a part it can do without, nor which of two twins was loaded.
    free = frozenset(p for pair in _twins(n.program for n in needs) for p in pair)
    reasons = [
        answer(need, known, learned=None if need.optional or need.program in free else past)
        for need in reversed(said_once.values())
    ]
    wanted = any(n.kind == "btf" and n.subject == "kernel" for n in requirements)
    if loaded:
        reasons = [spared(reason, loaded.dead) for reason in reasons]
    reasons += relocation_reasons(loaded.outcomes if loaded else None, wanted=wanted, learned=past, optional=optional)
    reasons = without_spares(reasons)
    if refusal:
        need = Requirement("load", variant, "corollout")
        detail = f"this kernel build refused it: {refusal.detail}"
        reasons.append(Reason(need, Answer.NO, refusal.evidence, "load-refused", detail, "record"))
    verdict, evidence, lost = conclude(reasons)
    lost = (*lost, *(row.gaps if row else ()), *((NOT_ALONE,) if alone else ()))
    if verdict is Verdict.FITS and lost:
        verdict = Verdict.DEGRADED
    return Assessment(program.name, variant, build, verdict, evidence, tuple(reasons), lost)
