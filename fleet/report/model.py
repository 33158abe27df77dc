"""What the report says, as values: hosts grouped by what was decided and why, kernel by kernel.

Pure; knows nothing of files or HTML. Every list has a stated order: most hosts first, then by name.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fleet.compatibility.choose import why
from fleet.compatibility.outcome import Agreement, Proof
from fleet.compatibility.unlock import Change, cheapest
from fleet.compatibility.verdict import Assessment, Choice, Reason, Verdict
from fleet.record.rollout_views import Rejection
from fleet.record.views import HostView, KernelView
from fleet.report.compare import Difference, KernelFact, differences, kernel_facts
from fleet.report.trials import Level, Trial, levels, trials
from inventory.facts import Answer, Facts
from probes.manifest import LADDER

VERDICTS = tuple(Verdict)
GLYPHS = {
    Verdict.FITS: "●",
    Verdict.DEGRADED: "▲",
    Verdict.BLOCKED: "■",
    Verdict.REFUSED: "✕",
    Verdict.UNKNOWN: "?",
}
MEANINGS = {
    Verdict.FITS: "runs here in full",
    Verdict.DEGRADED: "runs here, and what it does not give is named",
    Verdict.BLOCKED: "the kernel could; something denies it or is missing, and an operator can change that",
    Verdict.REFUSED: "this kernel or host cannot",
    Verdict.UNKNOWN: "evidence is missing: only a canary may try",
}
EVIDENCE = (
    ("claimed", "a version table says so"),
    ("derived", "read from the kernel's BTF or configuration"),
    ("probed", "the host was asked, and what denies was told from what lacks"),
    ("proven", "this build was loaded on this kernel build in the lab"),
    ("observed", "it runs on a host of this kernel build"),
)


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """A program as far as the report speaks of it."""

    name: str
    kind: str
    summary: str


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything the report is made from. ``facts`` by host, at least of one host for each way things were decided."""

    generated_at: float
    hosts: Sequence[HostView]
    kernels: Sequence[KernelView]
    programs: Sequence[ProgramInfo]
    choices: Sequence[Choice]
    facts: Mapping[str, Facts] = field(default_factory=dict)
    proofs: Sequence[Proof] = ()
    rejections: Sequence[Rejection] = ()


@dataclass(frozen=True, slots=True)
class Segment:
    """One part of a bar: *count* hosts of one verdict, from ``x`` for ``width``, in thousandths of the bar."""

    verdict: Verdict
    count: int
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Cause:
    """What keeps a variant from simply fitting: one reason in full, and how many more have the same answer and cure."""

    reason: Reason
    more: int


@dataclass(frozen=True, slots=True)
class Group:
    """Hosts of one kernel for which everything was decided alike."""

    letter: str
    hosts: tuple[str, ...]
    variant: str | None
    verdict: Verdict
    headline: str
    lost: tuple[str, ...]
    assessments: tuple[Assessment, ...]
    not_tried: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProgramSection:
    """One program on one kernel, or on the whole fleet."""

    program: ProgramInfo
    counts: Mapping[Verdict, int]
    variants: Mapping[str, int]
    segments: tuple[Segment, ...]
    groups: tuple[Group, ...] = ()
    differences: tuple[Difference, ...] = ()
    changes: tuple[Change, ...] = ()
    levels: tuple[Level, ...] = ()  # how each variant's verdict is known; of a kernel's section, trials too
    trials: tuple[Trial, ...] = ()

    @property
    def total(self) -> int:
        """How many hosts were decided."""
        return sum(self.counts.values())

    @property
    def running(self) -> int:
        """How many hosts can run it."""
        return self.counts.get(Verdict.FITS, 0) + self.counts.get(Verdict.DEGRADED, 0)


@dataclass(frozen=True, slots=True)
class KernelPage:
    """Everything said of one kernel build. ``page`` is its file name; ``others``: trials of what is no program."""

    kernel: KernelView
    page: str
    hosts: tuple[str, ...]
    facts: tuple[KernelFact, ...]
    sections: tuple[ProgramSection, ...]
    others: tuple[Trial, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """The whole report."""

    generated_at: float
    hosts: int
    kernels: tuple[KernelPage, ...]
    sections: tuple[ProgramSection, ...]
    changes: tuple[Change, ...]
    silent: tuple[HostView, ...]  # hosts whose last scan failed, and those never scanned
    reach: Mapping[str, int]
    agreements: Mapping[Agreement, int] = field(default_factory=dict)  # of all proofs
    contradictions: tuple[Trial, ...] = ()  # on any kernel, hosts run it or not


def make_report(survey: Survey) -> Report:
    """Turn what is known of the fleet into what the pages say."""
    by_kernel: dict[str, list[Choice]] = {}
    for choice in survey.choices:
        by_kernel.setdefault(choice.kernel_id, []).append(choice)
    hosts_of: dict[str, list[str]] = {}
    for host in survey.hosts:
        if host.kernel_id:
            hosts_of.setdefault(host.kernel_id, []).append(host.name)
    kernels = sorted(survey.kernels, key=lambda k: (-k.hosts, natural(k.release), k.id))
    happened = trials(survey.proofs, survey.rejections, {k.id: k.release for k in kernels}, survey.choices)
    names = {p.name for p in survey.programs}
    pages = []
    for kernel in kernels:
        here = [t for t in happened if t.kernel_id == kernel.id]
        choices = by_kernel.get(kernel.id, [])
        sections = tuple(
            _section(
                p,
                [c for c in choices if c.program == p.name],
                survey.facts,
                tuple(t for t in here if t.program == p.name),
            )
            for p in survey.programs
        )
        others = tuple(t for t in here if t.program not in names)
        hosts = tuple(sorted(hosts_of.get(kernel.id, ())))
        seen = [survey.facts[h] for h in hosts if h in survey.facts]
        pages.append(KernelPage(kernel, page_name(kernel), hosts, kernel_facts(seen), sections, others))
    agreements = Counter(p.agreement for p in survey.proofs)
    return Report(
        survey.generated_at,
        len(survey.hosts),
        tuple(pages),
        tuple(_summary(p, [c for c in survey.choices if c.program == p.name]) for p in survey.programs),
        cheapest(survey.choices),
        tuple(sorted((h for h in survey.hosts if h.reach != "reachable"), key=lambda h: (h.reach, h.name))),
        dict(sorted(Counter(h.reach for h in survey.hosts).items())),
        {a: agreements[a] for a in Agreement if agreements[a]},
        tuple(t for t in happened if t.contradicts),
    )


def natural(release: str) -> list[tuple[int, str]]:
    """Return a sort key by which 5.4 comes before 5.10."""
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", release) if p]


def page_name(kernel: KernelView) -> str:
    """Return the kernel page's file name: readable, safe, and different for every kernel build."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", kernel.release).strip("-.")[:60] or "kernel"
    return f"{words}-{hashlib.sha256(kernel.id.encode()).hexdigest()[:8]}.html"


def representatives(choices: Iterable[Choice]) -> set[str]:
    """Return one host for each way things were decided on each kernel: whose facts the report wants to see."""
    first: dict[tuple[Any, ...], str] = {}
    for choice in choices:
        first.setdefault((choice.program, choice.kernel_id, *_alike(choice)), choice.host)
    return set(first.values())


def _alike(choice: Choice) -> tuple[Any, ...]:
    return choice.variant, choice.verdict, choice.assessments


def _summary(program: ProgramInfo, choices: Sequence[Choice]) -> ProgramSection:
    counted = Counter(c.verdict for c in choices)
    counts = {v: counted[v] for v in VERDICTS if counted[v]}
    variants = dict(sorted(Counter(c.variant for c in choices if c.variant).items()))
    segments, x = [], 0.0
    for verdict, count in counts.items():
        width = 1000 * count / len(choices)
        segments.append(Segment(verdict, count, x, width))
        x += width
    return ProgramSection(program, counts, variants, tuple(segments))


def _section(
    program: ProgramInfo, choices: Sequence[Choice], facts: Mapping[str, Facts], happened: tuple[Trial, ...]
) -> ProgramSection:
    groups = _groups(choices)
    return replace(
        _summary(program, choices),
        groups=groups,
        differences=differences([(g.assessments, facts.get(g.hosts[0])) for g in groups]),
        changes=cheapest(choices),
        levels=levels(choices),
        trials=happened,
    )


def _groups(choices: Sequence[Choice]) -> tuple[Group, ...]:
    alike: dict[tuple[Any, ...], list[Choice]] = {}
    for choice in choices:
        alike.setdefault(_alike(choice), []).append(choice)
    rows = sorted(alike.values(), key=lambda cs: (VERDICTS.index(cs[0].verdict), -len(cs), cs[0].host))
    groups = []
    for number, row in enumerate(rows):
        choice = row[0]
        chosen = next((a for a in choice.assessments if a.variant == choice.variant), None)
        tried = [a.variant for a in choice.assessments]
        groups.append(
            Group(
                letter=_letter(number),
                hosts=tuple(sorted(c.host for c in row)),
                variant=choice.variant,
                verdict=choice.verdict,
                headline=_headline(choice),
                lost=chosen.lost if chosen else (),
                assessments=choice.assessments,
                not_tried=_not_tried(tried, choice.variant),
            )
        )
    return tuple(groups)


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"{number + 1}"


def _not_tried(tried: Sequence[str], variant: str | None) -> tuple[str, ...]:
    if variant is None or not tried:
        return ()
    return tuple(v for v in LADDER[LADDER.index(variant) + 1 :] if v not in tried)


def _headline(choice: Choice) -> str:
    """Say in one sentence what a host gets and why not something better."""
    passed = [a for a in choice.assessments if a.variant != choice.variant]
    because = f"{passed[0].variant} is {passed[0].verdict} — {why(passed[0])}" if passed else ""
    if choice.variant is None:
        return f"Nothing runs: {because}" if because else "Nothing runs"
    words = f"The {choice.variant} build runs"
    if choice.verdict is Verdict.UNKNOWN:
        words = f"The {choice.variant} build might run: only a canary may try"
    return f"{words}; {because}" if because else words


def causes(assessment: Assessment) -> tuple[Cause, ...]:
    """Return why *assessment* does not simply fit, in the order asked, each cause once."""
    found: dict[tuple[Any, ...], list[Reason]] = {}
    for reason in assessment.reasons:
        if reason.answer is not Answer.YES:
            same = reason.unlock or (reason.code if reason.answer is Answer.UNKNOWN else reason.detail)
            found.setdefault((reason.answer, same, reason.requirement.optional), []).append(reason)
    return tuple(Cause(reasons[0], len(reasons) - 1) for reasons in found.values())
