"""Why: requirement → evidence → answer → verdict, variant by variant, as lines for the Explain dialog. Reads only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fleet.compatibility.verdict import Assessment, Choice, Reason
from fleet.console.look import Cell, sign
from fleet.record import Record
from fleet.record.views import HostFilter, HostView, KernelView
from inventory.facts import Answer


@dataclass(frozen=True, slots=True)
class Said:
    """One line to read, wrapped under its own beginning; ``whole`` lines are cut instead."""

    cells: Sequence[Cell] = ()
    indent: int = 0
    whole: bool = False


Lines = list[Said]

# What decides comes first: what is absent, what is denied, what nobody could tell; what is there comes last.
_FIRST = (Answer.NO, Answer.BLOCKED, Answer.UNKNOWN, Answer.YES)


def explain_host(record: Record, name: str, program: str = "") -> Lines:
    """Return why host *name* gets what it gets, for *program* or for every program."""
    host = record.host(name)
    choices = [c for c in record.choices(host=name) if program in ("", c.program)]
    lines = [Said([Cell(host.name, "strong"), sign(host.reach), Cell(host.release), Cell(host.arch, "quiet")])]
    if host.reach_code:
        lines.append(Said([Cell(f"{host.reach_code}: {host.reach_detail}", "degraded")]))
    if not choices:
        lines += [Said(), Said([Cell(_undecided(host, program))])]
    for choice in choices:
        lines += [Said(), *_choice(choice)]
    return lines


def explain_kernel(record: Record, kernel: KernelView, programs: Sequence[str]) -> Lines:
    """Return why *kernel* gets what it gets: for each program and verdict, one host that has it."""
    lines = [
        Said([Cell(kernel.release, "strong"), Cell(kernel.arch), Cell(kernel.os_name, "quiet")]),
        Said([Cell(f"{kernel.hosts:,} hosts"), Cell(f"build {kernel.id}", "quiet")]),
    ]
    counts = {c.program: c.verdicts for c in record.matrix() if c.kernel_id == kernel.id}
    for program in programs:
        for verdict, count in sorted(counts.get(program, {}).items(), key=lambda item: (-item[1], item[0])):
            wanted = HostFilter(kernel_id=kernel.id, program=program, verdict=verdict)
            for host in record.hosts(wanted, limit=1):
                others = f"and {count - 1:,} more" if count > 1 else "alone"
                lines += [Said(), Said([Cell(f"{host.name} {others}", "quiet")])]
                for choice in record.choices(program, host=host.name):
                    lines += _choice(choice)
        if not counts.get(program):
            lines += [
                Said(),
                Said([Cell(program, "strong"), Cell("nothing was decided for a host of this kernel", "quiet")]),
            ]
    return lines


def _undecided(host: HostView, program: str) -> str:
    what = program or "any program"
    if host.reach == "unscanned":
        return f"Nothing was decided for {what}: the host was never scanned (`corollout hosts scan`)."
    return f"Nothing was decided for {what}: no scan of this host succeeded, or none since the program was added."


def _choice(choice: Choice) -> Iterator[Said]:
    yield Said([Cell(choice.program, "strong"), sign(choice.verdict), Cell(choice.variant or "no variant", "strong")])
    yield Said([Cell(choice.summary)], 2)
    for assessment in choice.assessments:
        yield from _assessment(assessment, chosen=assessment.variant == choice.variant)


def _assessment(assessment: Assessment, *, chosen: bool) -> Iterator[Said]:
    head = [Cell(assessment.variant, "strong", 9), sign(assessment.verdict)]
    yield Said()
    yield Said(
        [*head, Cell(f"evidence: {assessment.evidence}", "quiet"), Cell("→ chosen" if chosen else "", "strong")], 2
    )
    met = [r for r in assessment.reasons if r.answer is Answer.YES]
    for reason in sorted(assessment.reasons, key=lambda r: (_FIRST.index(r.answer), r.requirement.optional)):
        if chosen or reason.answer is not Answer.YES:
            yield Said(_reason(reason), 4)
    if met and not chosen:  # what is there does not decide against a variant: one line for all of it
        yield Said([sign(Answer.YES), Cell(", ".join(_need(r) for r in met), "quiet")], 4)
    for action in dict.fromkeys(r.unlock.action for r in assessment.reasons if r.unlock and r.answer is not Answer.YES):
        yield Said([Cell("unlock:", "strong"), Cell(action)], 4)
    if assessment.lost:
        yield Said([Cell("not given:", "strong"), Cell(", ".join(assessment.lost))], 4)


def _need(reason: Reason) -> str:
    need = reason.requirement
    return f"{need.kind} {need.subject}" + (" (optional)" if need.optional else "")


def _reason(reason: Reason) -> list[Cell]:
    source = f" from {reason.source}" if reason.source else ""
    errno = reason.errno if reason.errno and reason.errno not in reason.detail else ""
    return [
        sign(reason.answer),
        Cell(_need(reason)),
        Cell(f"{reason.evidence}{source}", "quiet"),
        Cell(errno, "blocked"),
        Cell("" if reason.answer is Answer.YES else reason.detail),
    ]
