"""The page ``check`` prints: diagnostics, each once for all kernels it holds for; a line per verdict; a matrix."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from btf.core.relocate import RelocationOutcome
from btf.fault import printable
from btf.format.types import Btf
from fleet.cli.diagnostics import HARMLESS, Diagnostic, diagnose, one_line, printable_line
from fleet.compatibility.check import ObjectCheck, ProgramCheck
from fleet.compatibility.check_document import count_relocations
from fleet.compatibility.verdict import Verdict

MARKS = {
    Verdict.FITS: "●",
    Verdict.DEGRADED: "▲",
    Verdict.BLOCKED: "■",
    Verdict.REFUSED: "✕",
    Verdict.UNKNOWN: "?",
}
_COLOURS = {"error": 31, "warning": 33, "note": 36, "✕": 31, "▲": 33, "■": 35, "?": 33, "●": 32, "caret": 32, "bold": 1}
_NAMED = 4  # so many kernels are named where something holds for some of them; of more, the first and the number

Paint = Callable[[str, str], str]  # (what it is, text) → text


@dataclass(frozen=True, slots=True)
class Row:
    """One object on one kernel, as far as it is written; keeps no BTF."""

    object: str
    kernel: str
    verdict: Verdict
    summary: str
    diagnostics: tuple[Diagnostic, ...]
    table: tuple[str, ...] = ()  # every relocation, when asked for


def row(check: ObjectCheck, *, relocations: bool = False, reference: Btf | None = None) -> Row:
    """Return what is written of *check*; *reference*: BTF of the kernel the object was made for.

    With *relocations*, all of them, and what is read in place of what.
    """
    name, arch = check.kernel.name, check.kernel.arch
    where = f"{name} ({arch})" if arch and arch not in name else name
    where = f"next boot: {where}" if check.kernel.next_boot else where
    return Row(
        check.name,
        where,
        check.verdict,
        _summary(check),
        tuple(d for d in diagnose(check, reference) if relocations or d.code != HARMLESS),
        tuple(_table(check)) if relocations else (),
    )


def painter() -> Paint:
    """Return how to colour: not at all unless a person looks at a terminal and wants it."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return lambda _kind, text: text
    return lambda kind, text: f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m" if kind in _COLOURS else text


def render(rows: Sequence[Row], paint: Paint = lambda _kind, text: text) -> Iterator[str]:
    """Yield the lines for *rows*, which are in the order objects × kernels."""
    kernels = list(dict.fromkeys(r.kernel for r in rows))
    objects = list(dict.fromkeys(r.object for r in rows))
    for name in objects:
        own = [r for r in rows if r.object == name]
        for each in own:
            yield from each.table
        for diagnostic, where in _grouped(own).items():
            yield from _diagnostic(diagnostic, where, own, paint)
        yield from _verdicts(own, paint)
    if len(kernels) > 1:
        yield ""
        yield from _matrix(rows, objects, kernels, paint)


def _grouped(rows: Sequence[Row]) -> dict[Diagnostic, list[tuple[str, tuple[str, ...]]]]:
    """Return (kernel, what was seen there) by diagnostic, errors first."""
    found: dict[Diagnostic, list[tuple[str, tuple[str, ...]]]] = {}
    for level in ("error", "warning", "note"):
        for each in rows:
            for diagnostic in each.diagnostics:
                if diagnostic.level == level:
                    found.setdefault(replace(diagnostic, seen=()), []).append((each.kernel, diagnostic.seen))
    return found


def _diagnostic(
    diagnostic: Diagnostic, where: Sequence[tuple[str, tuple[str, ...]]], rows: Sequence[Row], paint: Paint
) -> Iterator[str]:
    before, mark, after = one_line(diagnostic).partition(f"{diagnostic.level}: ")
    yield f"{paint('bold', before)}{paint(diagnostic.level, mark)}{after}"
    for number, line in enumerate(diagnostic.source):
        yield paint("caret", line) if number else line
    seen: dict[tuple[str, ...], list[str]] = {}
    for kernel, notes in where:
        seen.setdefault(notes, []).append(kernel)
    for note in diagnostic.notes:
        yield printable_line(f"      = {note}")
    for notes, on in seen.items():
        for note in notes:
            yield printable_line(f"      = {note}" + (f"  ({_named(on)})" if len(seen) > 1 else ""))
    if len(rows) > 1:
        there = [kernel for kernel, _ in where]
        yield printable_line(f"      = {_on(there, rows)}")


def _on(there: Sequence[str], rows: Sequence[Row]) -> str:
    if len(there) == len(rows):
        return f"on all {len(rows)} kernels"
    return f"on {len(there)} of {len(rows)} kernels: {_named(there)}"


def _named(kernels: Sequence[str]) -> str:
    if len(kernels) <= _NAMED:
        return ", ".join(kernels)
    return f"{', '.join(kernels[: _NAMED - 1])} and {len(kernels) - _NAMED + 1} more"


def _verdicts(rows: Sequence[Row], paint: Paint) -> Iterator[str]:
    """Yield a line for every verdict of one object with the kernels it holds for."""
    groups: dict[tuple[Verdict, str], list[str]] = {}
    for each in rows:
        groups.setdefault((each.verdict, each.summary), []).append(each.kernel)
    for (verdict, summary), kernels in groups.items():
        on = kernels[0] if len(kernels) == 1 else _on(kernels, rows).removeprefix("on ")
        line = printable(f"{rows[0].object}: {verdict.value} on {on} — {summary}")
        yield paint(MARKS[verdict], line) if len(rows) == 1 else line


def _matrix(rows: Sequence[Row], objects: Sequence[str], kernels: Sequence[str], paint: Paint) -> Iterator[str]:
    """Yield objects × kernels: a column of two characters per kernel, its name led up from it.

    The second character is ``!`` where something goes silently wrong, which no verdict shows.
    """
    cells = {(r.object, r.kernel): (MARKS[r.verdict], _warned(r)) for r in rows}
    for number, kernel in enumerate(kernels):
        yield printable_line("│ " * number + f"┌ {kernel}")
    for name in objects:
        marks = (cells.get((name, kernel), (" ", False)) for kernel in kernels)
        line = "".join(paint(mark, mark) + (paint("warning", "!") if warned else " ") for mark, warned in marks)
        yield line + printable_line(f" {name}")
    used = {r.verdict for r in rows}
    legend = [f"{paint(mark, mark)} {verdict.value}" for verdict, mark in MARKS.items() if verdict in used]
    if any(warned for _, warned in cells.values()):
        legend.append(f"{paint('warning', '!')} with a warning of silent wrongness")
    yield "  ".join(legend)


def _warned(each: Row) -> bool:
    return any(d.silent for d in each.diagnostics)


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
    cells = [(o.section, str(o.insn), o.program, o.kind, o.local, _became(o)) for o in check.relocations]
    heads = ("SECTION", "BYTE", "FUNCTION", "KIND", "LOCAL", "OUTCOME")
    widths = [max(len(each[i]) for each in (heads, *cells)) for i in range(len(heads))]
    for each in (heads, *cells):
        yield printable_line("  ".join(cell.ljust(width) for cell, width in zip(each, widths, strict=True)).rstrip())


def _became(outcome: RelocationOutcome) -> str:
    if outcome.outcome == "value":
        return f"{outcome.value}" + ("" if outcome.found else " (absent)")
    return outcome.outcome + (" (dead code)" if outcome.guarded else "")
