"""Running the whole fault matrix (``make faults``): its levels, at once what may be, and the page of what came out.

It takes hours, so each outcome is kept as it comes (``fault_ledger``): what was run on this state of the code is not
run again, and a run that was interrupted goes on, on another machine as well.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from fault_ledger import Ledger, code_state, commit
from fault_matrix import Outcome, Row
from fault_page import page, text

_SCRIPTED_AT_ONCE = 6  # a row mostly waits: for heartbeats, for a controller to be taken over, for its end
_SERVERS_AT_ONCE = 4
_GUESTS_AT_ONCE = 3  # each takes a core while it does not wait
_LABS = (96, 97, 98, 99)  # numbers of labs, apart from those of tests


def failed(row: Row) -> Outcome:
    """The outcome of a row whose harness broke: that is a defect, too."""
    return Outcome(row, wrong=[traceback.format_exc().strip().splitlines()[-1]])


def _as_they_end(pool: Executor, run: Callable[[Row], Outcome], todo: Sequence[Row]) -> Iterator[Outcome]:
    """Yield each outcome when it is there; rows that were not begun are given up with the caller."""
    running = [pool.submit(run, row) for row in todo]
    try:
        for done in as_completed(running):
            yield done.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _scripted_rows() -> list[Row]:
    from fault_scripted import passed_boundaries, rows

    return rows(passed_boundaries())


def _run_scripted(row: Row) -> Outcome:
    """One scripted row in a world of its own."""
    from fault_matrix import run_row
    from fault_scripted import scripted_world

    try:
        with scripted_world(row.fault.name) as world:
            return run_row(world, row)
    except Exception:
        return failed(row)


def _scripted(todo: Sequence[Row]) -> Iterable[Outcome]:
    with ProcessPoolExecutor(_SCRIPTED_AT_ONCE, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from _as_they_end(pool, _run_scripted, todo)


def _agent_rows() -> list[Row]:
    from fault_agents import rows

    return rows()


def _agents(todo: Sequence[Row]) -> Iterable[Outcome]:
    return _on_fleets("agents", _LABS, todo)


def _guest_rows() -> list[Row]:
    from fault_guests import rows

    return rows()


def _guests(todo: Sequence[Row]) -> Iterable[Outcome]:
    return _on_fleets("guests", range(_GUESTS_AT_ONCE), todo)


def _agent_world(number: int) -> tuple[Any, Any, Any]:
    from fault_agents import AgentWorld, agent_fleet, options_of

    return agent_fleet(number), AgentWorld, options_of


def _guest_world(_number: int) -> tuple[Any, Any, Any]:
    from fault_guests import GuestWorld, guest_fleet, options_of

    return guest_fleet(), GuestWorld, options_of


_MAKES = {"agents": _agent_world, "guests": _guest_world}
_mine: list[Any] = []  # in a process of a pool: its fleet, and what makes a world of it


def _on_fleets(level: str, numbers: Sequence[int], todo: Sequence[Row]) -> Iterator[Outcome]:
    """Rows on as many fleets at once as there are *numbers*, each with a process of its own."""
    context = multiprocessing.get_context("spawn")
    free = context.SimpleQueue()
    for number in numbers:
        free.put(number)
    pool = ProcessPoolExecutor(len(numbers), mp_context=context, initializer=_open_fleet, initargs=(level, free))
    with pool:
        yield from _as_they_end(pool, _on_my_fleet, todo)


def _open_fleet(level: str, free: Any) -> None:
    fleet, *rest = _MAKES[level](free.get())
    stack = contextlib.ExitStack()
    _mine[:] = [stack.enter_context(fleet), *rest]
    Finalize(None, stack.close, exitpriority=10)  # a pool's processes do not unwind


def _on_my_fleet(row: Row) -> Outcome:
    from fault_matrix import run_row

    fleet, world, options_of = _mine
    try:
        return run_row(world(fleet, row.program, *options_of(fleet, row.program)), row)
    except Exception:
        return failed(row)


def _server_rows() -> list[Row]:
    from fault_servers import grounds, passed_boundaries, rows

    with grounds(1) as (ground,):
        return rows(passed_boundaries(ground))


def _servers(todo: Sequence[Row]) -> Iterable[Outcome]:
    """Some at a time, each on a server of its own: what crashes is the server of one row."""
    from fault_matrix import run_row
    from fault_servers import grounds, server_world

    free: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run(row: Row) -> Outcome:
        ground = free.get()
        try:
            with server_world(ground) as world:
                return run_row(world, row)
        except Exception:
            return failed(row)
        finally:
            free.put(ground)

    with grounds(_SERVERS_AT_ONCE) as made, ThreadPoolExecutor(len(made)) as pool:
        for ground in made:
            free.put(ground)
        yield from _as_they_end(pool, run, todo)


@dataclass(frozen=True, slots=True)
class Level:
    """One world: all its rows, and how they are run."""

    rows: Callable[[], list[Row]]
    run: Callable[[Sequence[Row]], Iterable[Outcome]]


LEVELS = {
    "scripted": Level(_scripted_rows, _scripted),
    "agents": Level(_agent_rows, _agents),
    "servers": Level(_server_rows, _servers),
    "guests": Level(_guest_rows, _guests),
}


def main(target: Path, wanted: Sequence[str]) -> int:
    """Run what was not run, and write the page of all there is; 3 when something has a defect.

    *wanted*: levels, and perhaps a number: of every level one of so many rows.
    """
    from fault_scripted import FAULTS

    every = next((int(word) for word in wanted if word.isdigit()), 1)
    levels = [word for word in wanted if not word.isdigit()] or list(LEVELS)
    ledger = Ledger(code_state(), commit())
    all_rows = {name: level.rows() for name, level in LEVELS.items()}
    for name in levels:
        todo = [row for row in all_rows[name][every // 2 :: every] if not ledger.fresh(row)]
        for number, outcome in enumerate(LEVELS[name].run(todo), start=1):
            ledger.keep(outcome)
            said = text([outcome]).split("\n", 1)[1]
            sys.stderr.write(f"faults: {name} {number} of {len(todo)}: {said} ({outcome.seconds:.0f} s)\n")
    ledger.tidy(row for rows in all_rows.values() for row in rows)
    outcomes = [o for rows in all_rows.values() for row in rows if (o := ledger.outcome(row))]
    told = [f"level `{name}`: {ledger.words(rows)}" for name, rows in all_rows.items()]
    meanings = {o.row.fault.name: o.row.fault.words for o in outcomes} | {f.name: f.words for f, _ in FAULTS}
    target.write_text(page(outcomes, sorted(meanings.items()), told))
    sys.stdout.write(text(o for o in outcomes if o.defects) + "\n")
    return 3 if any(o.defects for o in outcomes) else 0
