"""What the fault matrix shows, as a page and on a terminal; and running all of it (``make faults``)."""

from __future__ import annotations

import multiprocessing
import platform
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from fault_matrix import LEGS, Outcome, Row

COLUMNS = ("fault", "strikes at", "what the struck one said", "ended as", "waited for", "twice", "unrecorded", "left")
_AT_ONCE = 2


def line(outcome: Outcome) -> tuple[str, ...]:
    """One row of the table."""
    row = outcome.row
    where = f"{row.leg}: {row.boundary}" + ("" if row.level == "scripted" else f" ({row.program})")
    counts = [str(len(c)) for c in (outcome.twice, outcome.unrecorded, outcome.left)]
    return row.fault.name, where, outcome.struck, outcome.end, "; ".join(outcome.stops) or "nobody", *counts


def text(outcomes: Iterable[Outcome]) -> str:
    """The table for a terminal, each row on lines of its own, with its defects."""
    parts = []
    for outcome in outcomes:
        parts.append(" | ".join(_short(cell) for cell in line(outcome)))
        parts += [f"    DEFECT {defect}" for defect in outcome.defects]
    return "\n".join([" | ".join(COLUMNS), *parts])


def page(outcomes: Sequence[Outcome], meanings: Sequence[tuple[str, str]], every: int = 1) -> str:
    """``docs/faults.md``: what each fault is, the real hosts' rows in full, the scripted ones as boundary × fault."""
    bad = [o for o in outcomes if o.defects]
    parts = [
        "# Fault matrix\n",
        f"`make faults` wrote this page on {platform.system()} {platform.release()}: {len(outcomes)} rows, "
        f"{len(bad)} with a defect{_share(every)}. Each row rolls a program out with one fault in the way, "
        "starts a controller again where one is missing, compares record and hosts, rolls back, and compares full "
        "snapshots of every host. "
        "Boundaries come from the step tables (`ACTS`, the journal, the executor's calls; the agent's `STEPS`), so a "
        "new step is in the next run.\n",
        "A row has no defect when the rollout reached `COMPLETED` and then `ROLLED_BACK`, or waited with a reason "
        "where the fault may make it wait (`PAUSED`, `HALTED`, `ROLLBACK_INCOMPLETE`; a person's `retry`, `resume` or "
        "`rollback` then led to the end); when no host attached an order twice, by its own count, the kernel's "
        "programs and the audit; when every host was as its step and assignment say; and when nothing of ours was left "
        "after the rollback: programs, links, pins, filters, rules, sets, files, processes, units.\n",
        "## The faults\n",
        "| fault | what happens | rows | defects | waited for a person |",
        "|---|---|---|---|---|",
    ]
    for name, words in meanings:
        mine = [o for o in outcomes if o.row.fault.name == name]
        waited = sum(bool(o.stops) for o in mine)
        parts.append(f"| {name} | {words} | {len(mine)} | {sum(bool(o.defects) for o in mine)} | {waited} |")
    if bad:
        parts += ["\n## Defects\n", *(f"- `{o.row.id}`: {'; '.join(o.defects)}" for o in bad)]
    real = [o for o in outcomes if o.row.level != "scripted"]
    if real:
        parts += ["\n## Real hosts, row by row\n", _head(COLUMNS)]
        parts += [_cells(line(o)) for o in real]
    scripted = [o for o in outcomes if o.row.level == "scripted"]
    if scripted:
        parts += [
            "\n## Every step boundary, scripted hosts\n",
            "`a` is the canary, `b` and `c` are wave 1. ● went on by itself, ◐ waited for a person and said why, "
            "✗ has a defect, blank: cannot strike there.\n",
            *_grid(scripted),
        ]
    return "\n".join(parts) + "\n"


def _share(every: int) -> str:
    return f"; one row of every {every} there are was run" if every > 1 else ""


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


def run_scripted(row: Row) -> Outcome:
    """One scripted row in a world of its own; what is a bug of the harness is a defect, too."""
    from fault_matrix import run_row
    from fault_scripted import scripted_world

    try:
        with scripted_world(row.fault.name) as world:
            return run_row(world, row)
    except Exception:
        return Outcome(row, wrong=[traceback.format_exc().strip().splitlines()[-1]])


def scripted(every: int) -> Iterable[Outcome]:
    """Every scripted row, or one of so many, two at once."""
    from fault_scripted import passed_boundaries, rows

    todo = rows(passed_boundaries())[every // 2 :: every]
    with ProcessPoolExecutor(_AT_ONCE, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(run_scripted, todo)


def agents(every: int) -> Iterable[Outcome]:
    """The rows of real agents, one after the other on the same two hosts."""
    from fault_agents import AgentWorld, agent_fleet, options_of, rows
    from fault_matrix import run_row

    with agent_fleet() as fleet:
        for row in rows()[every // 2 :: every]:
            try:
                yield run_row(AgentWorld(fleet, row.program, *options_of(fleet, row.program)), row)
            except Exception:
                yield Outcome(row, wrong=[traceback.format_exc().strip().splitlines()[-1]])


LEVELS: dict[str, Callable[[int], Iterable[Outcome]]] = {"scripted": scripted, "agents": agents}


def main(target: Path, wanted: Sequence[str]) -> int:
    """Run the levels and write the page; 3 when something has a defect. A number: one of so many rows."""
    from fault_scripted import FAULTS

    every = next((int(word) for word in wanted if word.isdigit()), 1)
    levels = [word for word in wanted if not word.isdigit()] or list(LEVELS)

    outcomes = []
    for level in levels:
        for outcome in LEVELS[level](every):
            outcomes.append(outcome)
            sys.stderr.write(text([outcome]).split("\n", 1)[1] + f" ({outcome.seconds:.0f} s)\n")
    meanings = {o.row.fault.name: o.row.fault.words for o in outcomes} | {f.name: f.words for f, _ in FAULTS}
    target.write_text(page(outcomes, sorted(meanings.items()), every))
    sys.stdout.write(text(outcomes) + "\n")
    return 3 if any(o.defects for o in outcomes) else 0
