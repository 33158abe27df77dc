"""Why: requirement → evidence → answer → verdict, variant by variant, as lines for the Explain dialog. Reads only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fleet.compatibility.verdict import Assessment, Choice, Reason
from fleet.console.look import Cell, sign
from fleet.record import Record
from fleet.record.views import HostFilter, HostView, KernelView
from inventory.facts import Answer

Lines = list[list[Cell]]

# What decides comes first: what is absent, what is denied, what nobody could tell; what is there comes last.
_FIRST = (Answer.NO, Answer.BLOCKED, Answer.UNKNOWN, Answer.YES)


def explain_host(record: Record, name: str, program: str = "") -> Lines:
    """Return why host *name* gets what it gets, for *program* or for every program."""
    host = record.host(name)
    choices = [c for c in record.choices(host=name) if program in ("", c.program)]
    lines: Lines = [[Cell(host.name, "strong"), sign(host.reach), Cell(host.release), Cell(host.arch, "quiet")]]
    if host.reach_code:
        lines.append([Cell(f"{host.reach_code}: {host.reach_detail}", "degraded")])
    if not choices:
        lines += [[], [Cell(_undecided(host, program))]]
    for choice in choices:
        lines += [[], *_choice(choice)]
    return lines


def explain_kernel(record: Record, kernel: KernelView, programs: Sequence[str]) -> Lines:
    """Return why *kernel* gets what it gets: for each program and verdict, one host that has it."""
    lines: Lines = [
        [Cell(kernel.release, "strong"), Cell(kernel.arch), Cell(kernel.os_name, "quiet")],
        [Cell("build"), Cell(kernel.id, "quiet"), Cell(f"{kernel.hosts:,} hosts")],
    ]
    counts = {c.program: c.verdicts for c in record.matrix() if c.kernel_id == kernel.id}
    for program in programs:
        for verdict, count in sorted(counts.get(program, {}).items(), key=lambda item: (-item[1], item[0])):
            wanted = HostFilter(kernel_id=kernel.id, program=program, verdict=verdict)
            for host in record.hosts(wanted, limit=1):
                others = f"and {count - 1:,} more" if count > 1 else "alone"
                lines += [[], [Cell(f"{host.name} {others}", "quiet")]]
                for choice in record.choices(program, host=host.name):
                    lines += _choice(choice)
        if not counts.get(program):
            lines += [[], [Cell(program, "strong"), Cell("nothing was decided for a host of this kernel", "quiet")]]
    return lines


def _undecided(host: HostView, program: str) -> str:
    what = program or "any program"
    if host.reach == "unscanned":
        return f"Nothing was decided for {what}: the host was never scanned (`corollout hosts scan`)."
    return f"Nothing was decided for {what}: no scan of this host succeeded, or none since the program was added."


def _choice(choice: Choice) -> Iterator[list[Cell]]:
    # The summary may name verdict and variant again; it is a sentence for a person and stays whole.
    yield [Cell(choice.program, "strong"), sign(choice.verdict), Cell(choice.variant or "no variant", "strong")]
    yield [Cell(choice.summary)]
    for assessment in choice.assessments:
        yield from _assessment(assessment, chosen=assessment.variant == choice.variant)
    for unlock in choice.unlocks:
        yield [Cell("unlock:", "strong"), Cell(unlock.action)]


def _assessment(assessment: Assessment, *, chosen: bool) -> Iterator[list[Cell]]:
    yield []
    yield [
        Cell("→" if chosen else " ", "strong"),
        Cell(f"{assessment.variant:<9}", "strong"),
        sign(assessment.verdict),
        Cell(f"evidence: {assessment.evidence}", "quiet"),
    ]
    for reason in sorted(assessment.reasons, key=lambda r: (_FIRST.index(r.answer), r.requirement.optional)):
        yield _reason(reason)
    if assessment.lost:
        yield [Cell("      not given:", "quiet"), Cell(", ".join(assessment.lost))]


def _reason(reason: Reason) -> list[Cell]:
    need = reason.requirement
    return [
        Cell("    "),
        sign(reason.answer),
        Cell(f"{need.kind} {need.subject}" + (" (optional)" if need.optional else "")),
        Cell(f"{reason.evidence}" + (f" from {reason.source}" if reason.source else ""), "quiet"),
        Cell(reason.errno or "", "blocked"),
        Cell("" if reason.answer is Answer.YES else reason.detail),
        Cell(f"unlock: {reason.unlock.action}" if reason.unlock else "", "strong"),
    ]
