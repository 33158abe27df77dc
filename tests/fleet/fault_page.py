"""What the fault matrix shows, as a page and on a terminal."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence

from fault_matrix import LEGS, Outcome

REAL = ("agents", "guests")  # levels of hosts that are real, shown row by row
GRIDS = {"scripted": "scripted hosts", "servers": "scripted hosts and workers on a server"}
COLUMNS = ("fault", "strikes at", "what the struck one said", "ended as", "waited for", "twice", "unrecorded", "left")


def line(outcome: Outcome) -> tuple[str, ...]:
    """One row of the table."""
    row = outcome.row
    where = f"{row.leg}: {row.boundary}" + (f" ({row.program})" if row.level in REAL else "")
    counts = [str(len(c)) for c in (outcome.twice, outcome.unrecorded, outcome.left)]
    return row.fault.name, where, outcome.struck, outcome.end, "; ".join(outcome.stops) or "nobody", *counts


def text(outcomes: Iterable[Outcome]) -> str:
    """The table for a terminal, each row on lines of its own, with its defects."""
    parts = []
    for outcome in outcomes:
        parts.append(" | ".join(_short(cell) for cell in line(outcome)))
        parts += [f"    DEFECT {defect}" for defect in outcome.defects]
    return "\n".join([" | ".join(COLUMNS), *parts])


def page(outcomes: Sequence[Outcome], meanings: Sequence[tuple[str, str]], levels: Sequence[str] = ()) -> str:
    """``docs/faults.md``: what each fault is, the real hosts' rows in full, the scripted ones as boundary × fault.

    *levels* say of each level how much of it was run, and on what.
    """
    bad = [o for o in outcomes if o.defects]
    parts = [
        "# Fault matrix\n",
        f"`make faults` wrote this page on {platform.system()} {platform.release()}: {len(outcomes)} rows, "
        f"{len(bad)} with a defect. Each row rolls a program out with one fault in the way, "
        "starts a controller again where one is missing, compares record and hosts, rolls back, and compares full "
        "snapshots of every host. "
        "Boundaries come from the step tables (`ACTS`, the journal, the executor's calls; the agent's `STEPS`), so a "
        "new step is in the next run.\n",
        "A row has no defect when the rollout reached `COMPLETED` and then `ROLLED_BACK`, or waited with a reason "
        "where the fault may make it wait (`PAUSED`, `HALTED`, `ROLLBACK_INCOMPLETE`; a person's `retry`, `resume` or "
        "`rollback` then led to the end); when no host attached an order twice, by its own count, the kernel's "
        "programs and the audit; when every host was as its step and assignment say; and when nothing of ours was left "
        "after the rollback: programs, links, pins, filters, rules, sets, files, processes, units.\n",
        *(f"- {line}" for line in levels),
        "\n## The faults\n",
        "| fault | what happens | rows | defects | waited for a person |",
        "|---|---|---|---|---|",
    ]
    for name, words in meanings:
        mine = [o for o in outcomes if o.row.fault.name == name]
        waited = sum(bool(o.stops) for o in mine)
        parts.append(f"| {name} | {words} | {len(mine)} | {sum(bool(o.defects) for o in mine)} | {waited} |")
    if bad:
        parts += ["\n## Defects\n", *(f"- `{o.row.id}`: {'; '.join(o.defects)}" for o in bad)]
    real = [o for o in outcomes if o.row.level in REAL]
    if real:
        parts += ["\n## Real hosts, row by row\n", _head(COLUMNS)]
        parts += [_cells(line(o)) for o in real]
    for level, whose in GRIDS.items():
        if mine := [o for o in outcomes if o.row.level == level]:
            parts += [
                f"\n## Every step boundary, {whose}\n",
                "`a` is the canary, `b` and `c` are wave 1. ● went on by itself, ◐ waited for a person and said why, "
                "✗ has a defect, blank: cannot strike there.\n",
                *_grid(mine),
            ]
    return "\n".join(parts) + "\n"


def _grid(outcomes: Sequence[Outcome]) -> list[str]:
    faults = list(dict.fromkeys(o.row.fault.name for o in outcomes))
    found = {(o.row.leg, o.row.boundary, o.row.fault.name): o for o in outcomes}
    parts = [_head(("leg", "boundary", *faults))]
    for leg in LEGS:
        for boundary in dict.fromkeys(o.row.boundary for o in outcomes if o.row.leg == leg):
            marks = [_mark(found.get((leg, boundary, fault))) for fault in faults]
            parts.append(_cells((leg, boundary, *marks)))
    return parts


def _mark(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    return "✗" if outcome.defects else "◐" if outcome.stops else "●"


def _head(columns: Sequence[str]) -> str:
    return _cells(columns) + "\n" + "|---" * len(columns) + "|"


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_short(c).replace("|", "\\|") for c in cells) + " |"


def _short(words: str, limit: int = 160) -> str:
    words = " ".join(words.split())
    return words if len(words) <= limit else words[: limit - 1] + "…"
