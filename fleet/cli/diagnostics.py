"""How ``check`` speaks of one object on one kernel: as a compiler does, by the source line that asks for what is not
there. Values only; ``check_page`` writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from btf.core.instead import Instead, instead
from btf.core.relocate import RelocationOutcome
from btf.drift.drift import Drift
from btf.fault import printable
from btf.format.types import Btf
from btf.objects.extension import LineInfo
from btf.objects.object import BpfObject
from btf.reach.guard import Guard
from fleet.compatibility.check import ObjectCheck, warnings
from fleet.compatibility.features import noun
from fleet.compatibility.verdict import Reason
from inventory.facts import Answer

_REMEDIES = {
    "field": "help: ask with bpf_core_field_exists() first, or read it through a flavour of the struct",
    "type": "help: ask with bpf_core_type_exists() first",
    "enumval": "help: ask with bpf_core_enum_value_exists() first",
    "size": "help: read it with BPF_CORE_READ() into a type of the kernel's size, or through a flavour of the struct",
}
_LINE = 400  # characters of a line at most
_NAMED = 6  # so many programs are named where several lack the same
_FIELDS = frozenset({"byte_off", "byte_sz", "signed", "lshift_u64", "rshift_u64"})
_NEAR = 3  # so many names like the one that is missing
HARMLESS = "relocation-guarded"  # the code of what is not there, and something else is read in its stead
_MOST_TOLD = 100  # relocations that are told one by one
_KINDS = {"byte_off": "field", "enumval_value": "enumval"}


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing to say. ``source`` is the line and its caret; ``notes`` follow; equal ones are said once for all
    kernels. ``seen`` are notes that may differ from kernel to kernel."""

    level: str  # error, warning, note
    place: str
    message: str
    code: str
    source: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    silent: bool = False  # nothing would complain: silent wrongness


def diagnose(check: ObjectCheck, reference: Btf | None = None) -> list[Diagnostic]:
    """Return what is to be said of *check*: errors, warnings, and what falls away unharmed."""
    broken, harmless = _told_once(check.relocations), _told_once(check.relocations, guarded=True)
    found = [_relocation(check, outcome) for outcome in broken[:_MOST_TOLD]]
    if len(broken) > _MOST_TOLD:
        words = f"{len(broken) - _MOST_TOLD} more that are not there; --relocations shows all"
        found.append(Diagnostic("error", check.name, words, "relocation-more"))
    found += [d for reason in check.reasons for d in _reason(check.name, reason)]
    found += _of_programs(check)
    found += [_drift(check, drift) for drift in warnings(check, reference=reference)]
    found += [_guarded(check, outcome) for outcome in harmless[:_MOST_TOLD]]
    found += _untold(check)
    return list(dict.fromkeys(found))


def _of_programs(check: ObjectCheck) -> Iterator[Diagnostic]:
    """Say once what several programs lack alike."""
    names: dict[Diagnostic, list[str]] = {}
    for program in check.programs:
        for reason in program.reasons:
            if reason.requirement.kind != "relocation":
                for diagnostic in _reason(check.name, reason, optional=program.optional):
                    names.setdefault(diagnostic, []).append(program.program.name)
    for diagnostic, programs in names.items():
        if len(programs) == 1:
            yield replace(diagnostic, place=f"{check.name}: {programs[0]}")
        else:
            more = f" and {len(programs) - _NAMED} more" if len(programs) > _NAMED else ""
            needed = f"needed by {len(programs)} programs: {', '.join(programs[:_NAMED])}{more}"
            yield replace(diagnostic, notes=(needed, *diagnostic.notes))


def _told_once(outcomes: Sequence[RelocationOutcome], *, guarded: bool = False) -> list[RelocationOutcome]:
    """Return what would break, or what would if it were not *guarded*, each field once per function."""
    seen: dict[tuple[str, str, str], RelocationOutcome] = {}
    for outcome in outcomes:
        if outcome.outcome != "value" and outcome.guarded == guarded:
            seen.setdefault((outcome.program, outcome.local, outcome.outcome), outcome)
    return list(seen.values())


def _relocation(check: ObjectCheck, outcome: RelocationOutcome) -> Diagnostic:
    line = _line(check.obj, outcome)
    callers = [p for p in check.programs if any(outcome is o for o in p.relocations)]
    optional = bool(callers) and all(p.optional for p in callers)
    near = instead(outcome, check.kernel.btf)
    detail = _detail(outcome, near)
    words = f"{outcome.local}: {detail}" if detail else outcome.local
    kept = "; the program is optional and left out" if optional else ""
    where = f"in {outcome.program} ({outcome.section}), byte {outcome.insn}: {outcome.kind}{kept}"
    kind = "size" if outcome.found else _KINDS.get(outcome.kind, outcome.kind.partition("_")[0])
    help_ = _REMEDIES.get(kind) if outcome.outcome == "poisoned" and not (near and near.by_architecture) else None
    return Diagnostic(
        "warning" if optional else "error",
        _place(line) if line else f"{check.name}:{outcome.section}+{outcome.insn}",
        words,
        f"relocation-{outcome.outcome}",
        _source(line),
        tuple(note for note in (where, help_) if note),
        (near.text(),) if near else (),
    )


def _detail(outcome: RelocationOutcome, near: Instead | None) -> str:
    """Return what is wrong, as precisely as a look at the kernel's type tells."""
    if near is None or not near.holder or outcome.kind not in _FIELDS:
        return outcome.detail
    return "a field of another kind of type" if near.other else "no such field"


def _guarded(check: ObjectCheck, outcome: RelocationOutcome) -> Diagnostic:
    """What is not there and does no harm: where it would be read, which branch leads around it, and what is lost."""
    line = _line(check.obj, outcome)
    place = _place(line) if line else f"{check.name}:{outcome.section}+{outcome.insn}"
    around = _branch(check.obj, outcome.guard) if outcome.guard else "nothing calls it"
    if any((o.program, o.local) == (outcome.program, outcome.local) for p in check.programs for o in p.lost):
        detail = _detail(outcome, instead(outcome, check.kernel.btf))
        message = f"{outcome.local} falls away: {detail}, and nothing is read in its stead"
        return Diagnostic("warning", place, message, "lost", _source(line), (around,))
    return Diagnostic("note", place, f"{outcome.local} is not read: {around}", HARMLESS)


def _branch(obj: BpfObject, guard: Guard) -> str:
    line = obj.line_at(guard.section, guard.insn)
    where = _place(line) if line else f"{guard.section}+{guard.insn}"
    asked = f", which asks {guard.kind} of {guard.local}" if guard.kind else ""
    return f"the branch at {where}{asked}, leads around it"


def _drift(check: ObjectCheck, drift: Drift) -> Diagnostic:
    line = check.obj.line_at(drift.section, drift.insn, naming=drift.named)
    return Diagnostic(
        "warning",
        _place(line) if line else f"{check.name}:{drift.section}+{drift.insn}",
        drift.text(),
        drift.code,
        _source(line),
        (f"{drift.consequence} in {drift.function} ({drift.section}), byte {drift.insn}",),
        silent=True,
    )


def _reason(name: str, reason: Reason, *, optional: bool = False) -> Iterator[Diagnostic]:
    if reason.answer in (Answer.YES, Answer.UNKNOWN):
        return
    level = "warning" if optional or reason.requirement.optional else "error"
    notes = [f"unlock: {reason.unlock.action}"] if reason.unlock else []
    notes.append(f"{reason.evidence.value}, from {reason.source}" if reason.source else reason.evidence.value)
    yield Diagnostic(level, name, reason.detail, reason.code, notes=tuple(notes))


def _untold(check: ObjectCheck) -> Iterator[Diagnostic]:
    """Say in one line what this BTF cannot tell."""
    every = [*check.reasons, *(r for p in check.programs for r in p.reasons)]
    unknown = dict.fromkeys(noun(r.requirement) for r in every if r.answer is Answer.UNKNOWN)
    if unknown:
        yield Diagnostic("warning", check.name, f"this BTF cannot tell: {', '.join(unknown)}", "unknown")
    missing = (r.requirement for r in every if r.answer in (Answer.NO, Answer.UNKNOWN))
    names = dict.fromkeys(n.subject for n in missing if n.kind in ("function", "kfunc"))
    for name in names:
        holding = (f for f in check.kernel.btf.functions() if name in f and f != name)
        near = sorted(holding, key=lambda f: (not f.startswith(name), len(f), f))[:_NEAR]
        if near and len(name) > _NEAR:
            yield Diagnostic("note", check.name, f"like {name} this kernel has: {', '.join(near)}", "near")


def _line(obj: BpfObject, outcome: RelocationOutcome) -> LineInfo | None:
    return obj.line_at(outcome.section, outcome.insn, naming=_last_word(outcome.local))


def _last_word(path: str) -> str:
    """Return what a path ends at: ``comm`` of ``task_struct.comm[3]``."""
    words = re.findall(r"\w+", re.split(r"\.|::", path)[-1])
    return words[0] if words else ""


def _place(line: LineInfo) -> str:
    column = f":{line.column}" if line.column else ""
    return f"{PurePath(line.file).name}:{line.line}{column}"


def _source(line: LineInfo | None) -> tuple[str, ...]:
    """Return the source line under its number, and a caret below the column."""
    if line is None or not line.text:
        return ()
    rows = [f"{line.line:>5} | {line.text.expandtabs(8).rstrip()}"]
    if line.column:
        indent = len(line.text[: line.column - 1].expandtabs(8))
        rows.append(f"      | {' ' * indent}^")
    return tuple(map(printable_line, rows))


def printable_line(text: str) -> str:
    """Return *text* with its spaces kept and everything unprintable replaced; bounded."""
    return "".join(ch if ch.isprintable() else "\N{REPLACEMENT CHARACTER}" for ch in text[:_LINE])


def one_line(diagnostic: Diagnostic) -> str:
    """Return its first line, as an editor jumps to it: ``FILE:LINE:COLUMN: error: …``."""
    return printable(f"{diagnostic.place}: {diagnostic.level}: {diagnostic.message} [{diagnostic.code}]")
