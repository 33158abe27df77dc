"""How ``check`` speaks to a person: as a compiler does, the source line that asks for what a kernel does not have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from btf.extension import LineInfo
from btf.fault import printable
from btf.relocate import RelocationOutcome
from fleet.compatibility.check import ObjectCheck, ProgramCheck, count_relocations
from fleet.compatibility.features import noun
from fleet.compatibility.verdict import Reason
from inventory.facts import Answer


def render(checks: Sequence[ObjectCheck], *, relocations: bool = False) -> list[str]:
    """Return the lines for all *checks*, in their order: what is wrong, by place in the source; then one line each."""
    lines: list[str] = []
    for check in checks:
        lines += _check(check, relocations=relocations)
    return lines


def _check(check: ObjectCheck, *, relocations: bool) -> Iterator[str]:
    where = f"{check.kernel.name}" + (f" ({check.kernel.arch})" if check.kernel.arch else "")
    if relocations:
        yield from _table(check)
    for outcome in _told_once(check.relocations):
        yield from _relocation(check, outcome)
    for reason in check.reasons:
        yield from _reason(check.name, reason)
    for program in check.programs:
        for reason in program.reasons:
            if reason.requirement.kind != "relocation":
                yield from _reason(f"{check.name}: {program.program.name}", reason, optional=program.optional)
    yield from _untold(check)
    when = "next boot: " if check.kernel.next_boot else ""
    yield printable(f"{when}{check.name}: {check.verdict.value} on {where} — {_summary(check)}")


def _told_once(outcomes: Sequence[RelocationOutcome]) -> list[RelocationOutcome]:
    """Return what would break, each field once per function."""
    seen: dict[tuple[str, str, str], RelocationOutcome] = {}
    for outcome in outcomes:
        if outcome.outcome != "value" and not outcome.guarded:
            seen.setdefault((outcome.program, outcome.local, outcome.outcome), outcome)
    return list(seen.values())


def _relocation(check: ObjectCheck, outcome: RelocationOutcome) -> Iterator[str]:
    asked = re.findall(r"\w+", outcome.local.rpartition(".")[2])
    line = check.obj.line_at(outcome.section, outcome.insn, naming=asked[0] if asked else "")
    callers = [p for p in check.programs if outcome in p.relocations]
    optional = bool(callers) and all(p.optional for p in callers)
    level = "warning" if optional else "error"
    place = _place(line) if line else f"{check.name}:{outcome.section}+{outcome.insn}"
    words = f"{outcome.local}: {outcome.detail}" if outcome.detail else outcome.local
    yield printable(f"{place}: {level}: {words} [relocation-{outcome.outcome}]")
    if line and line.text:
        text = line.text.expandtabs(8).rstrip()
        yield f"{line.line:>5} | {printable_line(text)}"
        if line.column:
            indent = len(line.text[: line.column - 1].expandtabs(8))
            yield f"      | {' ' * indent}^"
    kept = "; the program is optional and left out" if optional else ""
    yield printable_line(f"      = in {outcome.program} ({outcome.section}), byte {outcome.insn}: {outcome.kind}{kept}")


def printable_line(text: str) -> str:
    """Return a source line with its spaces kept and everything unprintable replaced; bounded."""
    return "".join(ch if ch.isprintable() else "\N{REPLACEMENT CHARACTER}" for ch in text[:200])


def _place(line: LineInfo) -> str:
    column = f":{line.column}" if line.column else ""
    return f"{PurePath(line.file).name}:{line.line}{column}"


def _reason(name: str, reason: Reason, *, optional: bool = False) -> Iterator[str]:
    if reason.answer in (Answer.YES, Answer.UNKNOWN):
        return
    level = "warning" if optional or reason.requirement.optional else "error"
    yield printable(f"{name}: {level}: {reason.detail} [{reason.code}]")
    if reason.unlock:
        yield printable_line(f"      = unlock: {reason.unlock.action}")


def _untold(check: ObjectCheck) -> Iterator[str]:
    """Say in one line what this BTF cannot tell."""
    every = [*check.reasons, *(r for p in check.programs for r in p.reasons)]
    unknown = dict.fromkeys(noun(r.requirement) for r in every if r.answer is Answer.UNKNOWN)
    if unknown:
        yield printable(f"{check.name}: warning: this BTF cannot tell: {', '.join(unknown)} [unknown]")


def _summary(check: ObjectCheck) -> str:
    counts = count_relocations(check.relocations)
    total = counts.pop("total")
    guarded = counts.pop("guarded")
    parts = [f"{count} {word}" for word, count in counts.items() if count]
    if guarded:
        parts = [f"{p} ({guarded} in dead code)" if p.endswith("poisoned") else p for p in parts]
    relocations = f"{total} relocations: {', '.join(parts)}" if total else "no relocations"
    return f"{_programs(check.programs)}; {relocations}; {check.evidence.value}"


def _programs(programs: Sequence[ProgramCheck]) -> str:
    if not programs:
        return "no programs"
    fine = sum(p.verdict.value in ("fits", "degraded") for p in programs)
    return f"{fine} of {len(programs)} programs fit"


def _table(check: ObjectCheck) -> Iterator[str]:
    rows = [(o.section, str(o.insn), o.program, o.kind, o.local, _became(o)) for o in check.relocations]
    heads = ("SECTION", "BYTE", "FUNCTION", "KIND", "LOCAL", "OUTCOME")
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    for row in (heads, *rows):
        yield printable_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _became(outcome: RelocationOutcome) -> str:
    if outcome.outcome == "value":
        return f"{outcome.value}" + ("" if outcome.found else " (absent)")
    return outcome.outcome + (" (dead code)" if outcome.guarded else "")
