"""Would an object load on a kernel of which nothing but its BTF (and perhaps its release) is known? No host is asked.

Each program of the object gets a verdict of its own; the object is refused when one it cannot do without is, or when
libbpf would refuse to relocate it at all. What no BTF can tell stays unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from btf.core.relocate import RelocationOutcome, relocated
from btf.drift.drift import LOAD_ERROR, MISSED_HOOK, Drift, drifts
from btf.drift.lost import lost
from btf.format.kinds import Kind
from btf.format.types import Btf
from btf.objects.object import BpfObject, BpfProgram
from btf.reach.guard import Reach
from btf.reach.memory import Given
from fleet.compatibility.decide import answer, conclude, relocation_reasons, without_spares
from fleet.compatibility.loaded import DeadCode, spared
from fleet.compatibility.requirements import infer
from fleet.compatibility.sources import Known
from fleet.compatibility.symbols import Symbols
from fleet.compatibility.verdict import Evidence, Reason, Requirement, Verdict
from inventory.facts import Answer, Fact, Facts

# With both maps, the runner loads of the programs NAME and NAME_perf the one whose buffer the kernel has.
_TWIN_MAPS = frozenset({"events", "events_perf"})


@dataclass(frozen=True, slots=True)
class KernelBtf:
    """A kernel as far as it is known: its BTF and that BTF's digest; name and kconfig where they are.

    ``config`` maps a kconfig symbol (``CONFIG_BPF``) to ``y m n`` or text; ``next_boot``: installed, but not what runs.
    """

    btf: Btf
    sha256: str
    release: str | None = None
    arch: str | None = None
    build_id: str | None = None
    config: Mapping[str, str] | None = None
    next_boot: bool = False
    symbols: Callable[[], Symbols | None] = lambda: None  # the kernel's own list of its functions, read when asked for
    modules: Mapping[str, Btf] = field(default_factory=dict)  # those of its modules whose BTF is at hand, by name
    label: str = ""  # what to call it where its release is not known

    @property
    def name(self) -> str:
        """What to call it in a line for a person."""
        return self.release or self.label or f"kernel with BTF {self.sha256[:12]}"

    def functions_of_modules(self) -> Mapping[str, str]:
        """Return which module has which function, for those whose BTF is at hand."""
        key = "functions of modules", *(module.serial for module in self.modules.values())
        return self.btf.remember(
            key, lambda: {f: name for name, btf in self.modules.items() for f in _own_functions(btf)}
        )

    @property
    def given(self) -> Given:
        """What a load on it would find besides its BTF; not its kconfig, of which only a part is kept."""
        return Given(release=self.release or "")


def _own_functions(module: Btf) -> Iterator[str]:
    first = len(module.base) if module.base else 1
    return (module[id_].name for id_ in module.ids_of(Kind.FUNC) if id_ >= first)


@dataclass(frozen=True, slots=True)
class ProgramCheck:
    """One program of the object: its verdict, every requirement answered, its relocations and its subprograms'."""

    program: BpfProgram
    verdict: Verdict
    reasons: tuple[Reason, ...]
    relocations: tuple[RelocationOutcome, ...]
    optional: bool = False
    lost: tuple[RelocationOutcome, ...] = ()  # what a guard leaves out, with nothing read in its stead


@dataclass(frozen=True, slots=True)
class ObjectCheck:
    """One object against one kernel. ``reasons`` are those that concern the whole object."""

    name: str
    obj: BpfObject
    kernel: KernelBtf
    verdict: Verdict
    evidence: Evidence
    reasons: tuple[Reason, ...]
    programs: tuple[ProgramCheck, ...]
    relocations: tuple[RelocationOutcome, ...]


def warnings(check: ObjectCheck, *, reference: Btf | None = None) -> tuple[Drift, ...]:
    """Return where the object silently goes wrong on that kernel; *reference*: BTF of the kernel it was made for.

    No warning changes a verdict; what a kernel would refuse to load is among the reasons instead.
    """
    kernel = check.kernel
    found = drifts(check.obj, kernel.btf, check.relocations, kernel.given, modules=kernel.modules, reference=reference)
    return (*(drift for drift in found if drift.consequence != LOAD_ERROR), *_missed(check))


def _missed(check: ObjectCheck) -> Iterator[Drift]:
    """Yield functions of which the compiler made copies: a program attached to one of them misses their callers."""
    wanted = {(p.program.name, r.requirement.subject): p for p in check.programs for r in p.reasons if _attached(r)}
    symbols = check.kernel.symbols() if wanted else None
    for (_, name), each in wanted.items():
        if symbols and name in symbols.functions and name in symbols.copies:
            program = each.program
            yield Drift(
                "copies", name, "one function", f"{name} and {symbols.made_of(name)}", MISSED_HOOK,
                "callers of a copy pass by", program.name, program.section, program.function.start,
            )  # fmt: skip


def _attached(reason: Reason) -> bool:
    """Whether the requirement is a function of the kernel that a program is attached to."""
    need = reason.requirement
    return need.kind == "function" and need.context not in ("lsm", "iter")


def check_object(
    name: str, obj: BpfObject, kernel: KernelBtf, *, optional: Collection[str] = frozenset()
) -> ObjectCheck:
    """Check *obj*, called *name* in the answer, against *kernel*; it can do without the *optional* programs."""
    facts = {}
    if kernel.release:
        facts["kernel.release"] = Fact("kernel.release", Answer.YES, kernel.release, "told")
    if kernel.config:
        facts["kconfig"] = Fact("kconfig", Answer.YES, dict(kernel.config), "told")
    known = Known(Facts(facts), kernel.btf, off_host=True, symbols=kernel.symbols, modules=kernel.functions_of_modules)
    dispensable = {p.name for p in obj.programs if p.optional} | set(optional)
    needs = (replace(n, optional=True) if n.program in dispensable and not n.optional else n for n in infer(obj))
    needed: dict[str, list[Reason]] = {"": []}
    for reason in _answers(needs, known, kernel):
        needed.setdefault(reason.requirement.program, []).append(reason)
    given = _given(obj, kernel)
    outcomes, patches = relocated(obj, kernel.btf, given, modules=kernel.modules)
    dead = DeadCode(obj, Reach(obj, patches, kernel.btf, given))
    needed = {name: [spared(reason, dead.holds) for reason in reasons] for name, reasons in needed.items()}
    by_function: dict[tuple[str, str], list[int]] = {}
    for number, outcome in enumerate(outcomes):
        by_function.setdefault((outcome.section, outcome.program), []).append(number)

    def check(program: BpfProgram) -> ProgramCheck:
        own = sorted(n for f in program.functions for n in by_function.get((f.section, f.name), ()))
        reasons = needed.get(program.name, [])
        dispensed = program.name in dispensable
        return _program(obj, program, needed[""], reasons, tuple(outcomes[n] for n in own), optional=dispensed)

    programs = tuple(map(check, obj.programs))
    whole = tuple(needed[""])
    every = list(dict.fromkeys([*whole, *(r for p in programs for r in p.reasons)]))
    if {m.name for m in obj.maps} >= _TWIN_MAPS:
        every = without_spares(every)
        loaded = {r.requirement.program for r in every}
        programs = tuple(replace(p, optional=p.optional or p.program.name not in loaded) for p in programs)
    verdict, evidence, _ = conclude(every)
    if not obj.programs:
        verdict = Verdict.REFUSED
    if verdict is Verdict.FITS and any(p.lost for p in programs):
        verdict = Verdict.DEGRADED
    return ObjectCheck(name, obj, kernel, verdict, evidence, whole, programs, outcomes)


def _answers(needs: Iterable[Requirement], known: Known, kernel: KernelBtf) -> Iterator[Reason]:
    """Answer *needs*; what is asked of a kernel is the same whichever program asks, so its BTF remembers the answer."""
    config = frozenset(kernel.config.items()) if kernel.config else None
    key = "answers", kernel.release, config, kernel.symbols, *kernel.modules
    answers: dict[tuple[str, str, str], Reason] = kernel.btf.remember(key, dict)
    for need in needs:
        asked = need.kind, need.subject, need.context
        found = answers.get(asked)
        if found is None:
            found = answers[asked] = answer(need, known)
        rest = found.answer, found.evidence, found.code, found.detail, found.source, found.errno, found.unlock
        yield Reason(need, *rest)


def _given(obj: BpfObject, kernel: KernelBtf) -> Given:
    """Return what a load of *obj* finds: of kernel functions that it can do without, which there are.

    One that is in no BTF may be in a module's; only a list of symbols with modules in it shows that it is nowhere.
    """
    weak = [e.name for e in obj.externs if e.weak and e.function and e.origin == "ksyms"]
    if not weak:
        return kernel.given
    listed, own = kernel.symbols(), kernel.functions_of_modules()
    there = {name: True for name in weak if name in own}
    if listed and listed.modules:
        there |= {name: name in listed.functions for name in weak if name not in own}
    return replace(kernel.given, symbols=there)


def _program(
    obj: BpfObject,
    program: BpfProgram,
    whole: Sequence[Reason],
    needed: Sequence[Reason],
    outcomes: tuple[RelocationOutcome, ...],
    *,
    optional: bool,
) -> ProgramCheck:
    # A subprogram is as dispensable as the program that calls it.
    names = {f.name for f in program.functions} if optional else ()
    reasons = (*needed, *relocation_reasons(outcomes or None, wanted=False, optional=names))
    verdict, _, _ = conclude([*whole, *(_wanted(r) if optional else r for r in reasons)])
    gone = lost(obj, outcomes) if any(o.guarded for o in outcomes) else ()
    if verdict is Verdict.FITS and gone:
        verdict = Verdict.DEGRADED
    return ProgramCheck(program, verdict, reasons, outcomes, optional, gone)


def _wanted(reason: Reason) -> Reason:
    """Return *reason* as it counts for the optional program itself."""
    return replace(reason, requirement=replace(reason.requirement, optional=False))
