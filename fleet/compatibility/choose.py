"""Walk the ladder for one host: the first variant that fits, or none and what would open one.

Fall back on absence, never on a verifier rejection: a quarantined build ends the walk, because a build that this kernel
refused is a finding for a person. Nothing is read here: hosts come as facts, builds as :class:`Material`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from btf.fault import printable
from fleet.compatibility.decide import Learned, assess
from fleet.compatibility.loaded import Loaded
from fleet.compatibility.sources import CachedTypes, KernelTypes, Known
from fleet.compatibility.unlock import openings
from fleet.compatibility.verdict import Assessment, Choice, Evidence, Reason, Requirement, Unlock, Verdict
from inventory.facts import Answer, Facts
from probes.catalogue import Program

Load = Callable[[Any, str], Loaded]  # a kernel's Btf and release → this build held against them

_RUNS = (Verdict.FITS, Verdict.DEGRADED)
_REJECTED = Unlock("mend-build", "mend the build for this kernel, then lift its quarantine")
_BUILD_IT = Unlock("build-artefact", "run `make build` on the controller")


@dataclass(frozen=True, slots=True)
class Material:
    """What is known of one variant's build before any host is looked at.

    ``build`` is its digest; ``load`` holds it against a kernel, None when it is no object; ``missing`` says why the
    build is not there.
    """

    build: str = ""
    requirements: tuple[Requirement, ...] = ()
    load: Load | None = None
    missing: str = ""


@dataclass(slots=True)
class Kernels:
    """The BTF of kernel builds with everything derived from it, so that many hosts of one build cost one look.

    ``btf_of`` returns the BTF of exactly the kernel build with this id, or None; ``near_of`` says in words what there
    is for nearly the build of these facts. Both are called once per build.
    """

    btf_of: Callable[[str], KernelTypes | None] = lambda _kernel_id: None
    near_of: Callable[[Facts], str] = lambda _facts: ""
    _near: dict[str, str] = field(default_factory=dict)
    _types: dict[str, CachedTypes | None] = field(default_factory=dict)
    _loaded: dict[tuple[str, str, str], Loaded] = field(default_factory=dict)

    def types(self, kernel_id: str) -> CachedTypes | None:
        """Return the BTF of a kernel build, or None."""
        if kernel_id not in self._types:
            found = self.btf_of(kernel_id)
            self._types[kernel_id] = None if found is None else CachedTypes(found)
        return self._types[kernel_id]

    def near(self, facts: Facts) -> str:
        """Return what there is instead of a build's BTF and is not it, in words; empty with its BTF, or without any."""
        if self.types(facts.kernel_id) is not None:
            return ""
        if facts.kernel_id not in self._near:
            self._near[facts.kernel_id] = self.near_of(facts)
        return self._near[facts.kernel_id]

    def loaded(self, facts: Facts, material: Material) -> Loaded | None:
        """Return the build held against the kernel of *facts*, or None when it is no object or there is no BTF."""
        types = self.types(facts.kernel_id)
        if types is None or material.load is None:
            return None
        release = str(facts.value("kernel.release", ""))
        key = (facts.kernel_id, release, material.build)
        if key not in self._loaded:
            self._loaded[key] = material.load(types.btf, release)
        return self._loaded[key]


def choose(
    host: str,
    program: Program,
    facts: Facts,
    materials: Mapping[str, Material],
    kernels: Kernels,
    *,
    learned: Sequence[Learned] = (),
    quarantine: Collection[tuple[str, str]] = frozenset(),
    also: str | None = None,
) -> Choice:
    """Return what *host* gets for *program*.

    *materials* by variant; *quarantine* holds (build digest, kernel id) pairs that a verifier rejected; *also* is a
    variant to be assessed in any case, because a person pinned the host to it. It changes nothing of the choice.
    """

    def held_against(variant: str) -> tuple[Assessment, bool]:
        material = materials.get(variant, Material(missing=f"{variant} has no build"))
        stopped = (material.build, facts.kernel_id) in quarantine
        assessment = _hopeless(program, variant, material, quarantined=stopped) or assess(
            program,
            variant,
            material.requirements,
            Known(
                facts,
                kernels.types(facts.kernel_id),
                external_btf=variant == "core-btf",
                near_btf=kernels.near(facts) if variant == "core-btf" else "",
            ),
            kernels.loaded(facts, material),
            build=material.build,
            learned=learned,
        )
        return assessment, stopped

    assessments: list[Assessment] = []
    chosen: Assessment | None = None
    for variant in program.ladder:
        assessment, stopped = held_against(variant)
        assessments.append(assessment)
        if chosen is None and assessment.verdict in _RUNS:
            chosen = assessment
        if chosen is not None or stopped:
            break
    # Nothing fits, but something may: a canary can find out.
    if chosen is None and not any(r.code == "build-rejected" for a in assessments for r in a.reasons):
        chosen = next((a for a in assessments if a.verdict is Verdict.UNKNOWN), None)
    verdict = chosen.verdict if chosen else _overall(assessments)
    name = chosen.variant if chosen else None
    choice = Choice(host, program.name, facts.kernel_id, facts.digest, name, verdict, "", tuple(assessments))
    unlocks = tuple(dict.fromkeys(u for _, way in openings(choice) for u in way))
    if also in program.ladder and also not in {a.variant for a in assessments}:
        assessments.append(held_against(also)[0])
    return replace(choice, summary=_summary(choice), unlocks=unlocks, assessments=tuple(assessments))


def _hopeless(program: Program, variant: str, material: Material, *, quarantined: bool) -> Assessment | None:
    """The assessment of a build that need not be held against facts: not there, or rejected before."""
    if material.missing:
        need = Requirement("artefact", variant, "corollout")
        reason = Reason(
            need, Answer.BLOCKED, Evidence.PROBED, "build-missing", printable(material.missing), unlock=_BUILD_IT
        )
        return Assessment(program.name, variant, "", Verdict.BLOCKED, Evidence.PROBED, (reason,))
    if quarantined:
        need = Requirement("load", variant, "corollout")
        detail = f"the verifier of this kernel rejected build {material.build[:19]}; quarantined"
        reason = Reason(need, Answer.NO, Evidence.OBSERVED, "build-rejected", detail, "record", None, _REJECTED)
        return Assessment(program.name, variant, material.build, Verdict.REFUSED, Evidence.OBSERVED, (reason,))
    return None


def _overall(assessments: Sequence[Assessment]) -> Verdict:
    """The verdict when nothing was chosen: blocked beats refused, for a blocked variant can still be opened."""
    verdicts = {a.verdict for a in assessments}
    if any(r.code == "build-rejected" for a in assessments for r in a.reasons):
        return Verdict.REFUSED
    return next((v for v in (Verdict.UNKNOWN, Verdict.BLOCKED) if v in verdicts), Verdict.REFUSED)


_STOPS = {Verdict.REFUSED: Answer.NO, Verdict.BLOCKED: Answer.BLOCKED, Verdict.UNKNOWN: Answer.UNKNOWN}


def why(assessment: Assessment) -> str:
    """Return the one reason that best says why a variant does not simply fit, or an empty string."""
    stop = _STOPS.get(assessment.verdict)
    reason = next((r for r in assessment.reasons if r.answer is stop and not r.requirement.optional), None)
    return reason.detail if reason else ""


def _summary(choice: Choice) -> str:
    """One line for a person: what it gets and why not better, or why nothing and what would help."""
    parts = [f"{a.variant} {a.verdict}: {why(a)}" for a in choice.assessments if a.variant != choice.variant]
    if choice.variant is not None:
        lost = next(a.lost for a in choice.assessments if a.variant == choice.variant)
        return printable("; ".join([f"{choice.variant} {choice.verdict}", *parts, *_without(lost)]))
    head = "nothing runs here"
    if ways := openings(choice):
        variant, unlocks = ways[0]
        head += f"; to open {variant}: {' and '.join(u.action for u in unlocks)}"
    return printable("; ".join([head, *parts]))


def _without(lost: Sequence[str]) -> tuple[str, ...]:
    """Say what is lost, last: it may be long."""
    return (f"does not give: {', '.join(lost)}",) if lost else ()


def choose_all(
    hosts: Sequence[tuple[str, Facts]],
    program: Program,
    materials: Mapping[str, Material],
    kernels: Kernels,
    *,
    learned: Sequence[Learned] = (),
    quarantine: Collection[tuple[str, str]] = frozenset(),
    pins: Mapping[str, str] | None = None,
) -> Iterator[Choice]:
    """Choose for many hosts, in their order; *pins*: the variant that a host is pinned to, by host."""
    for host, facts in hosts:
        also = (pins or {}).get(host)
        yield choose(host, program, facts, materials, kernels, learned=learned, quarantine=quarantine, also=also)
