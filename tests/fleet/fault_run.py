"""Running the whole fault matrix (``make faults``): its levels, what was run before, and the page.

It takes hours, so each outcome is kept as it comes, with the state of the code it came from: what was run on this state
is not run again, and a run that was interrupted goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import queue
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fault_matrix import Outcome, Row
from fault_page import page, text

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".cache" / "faults.jsonl"
# What an outcome speaks of; a change elsewhere leaves it true.
_CODE = ("fleet", "probes", "inventory", "btf", "tests/fleet/fault_*.py")
_SCRIPTED_AT_ONCE = 6  # a row mostly waits: for heartbeats, for a controller to be taken over, for its end
_SERVERS_AT_ONCE = 4


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


def _on_one_fleet(fleet: Any, world: Any, options_of: Any, todo: Sequence[Row]) -> Iterable[Outcome]:
    """One row after the other on the same hosts, each with a rollout of its own."""
    from fault_matrix import run_row

    for row in todo:
        try:
            yield run_row(world(fleet, row.program, *options_of(fleet, row.program)), row)
        except Exception:
            yield failed(row)


def _agents(todo: Sequence[Row]) -> Iterable[Outcome]:
    from fault_agents import AgentWorld, agent_fleet, options_of

    with agent_fleet() as fleet:
        yield from _on_one_fleet(fleet, AgentWorld, options_of, todo)


def _guest_rows() -> list[Row]:
    from fault_guests import rows

    return rows()


def _guests(todo: Sequence[Row]) -> Iterable[Outcome]:
    from fault_guests import GuestWorld, guest_fleet, options_of

    with guest_fleet() as fleet:
        yield from _on_one_fleet(fleet, GuestWorld, options_of, todo)


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


def code_state() -> str:
    """A digest of the code that outcomes come from, as it lies there."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z", "--", *_CODE], cwd=ROOT, capture_output=True, check=True
    ).stdout.split(b"\0")
    digest = hashlib.sha256()
    for name in sorted(filter(None, listed)):
        path = ROOT / name.decode()
        if path.is_file():
            digest.update(name + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


class Ledger:
    """Outcomes of former runs by level and row, one JSON line each; a later line of the same row counts."""

    def __init__(self, path: Path, state: str) -> None:
        self.path, self.state = path, state
        self._known: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            entry = json.loads(line)
            self._known[entry["level"], entry["row"]] = (entry["state"], entry["outcome"])

    def keep(self, outcome: Outcome) -> None:
        """Add one."""
        said = {f.name: getattr(outcome, f.name) for f in dataclasses.fields(outcome) if f.name != "row"}
        entry = {"level": outcome.row.level, "row": outcome.row.id, "state": self.state, "outcome": said}
        self._known[outcome.row.level, outcome.row.id] = (self.state, said)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def outcome(self, row: Row) -> Outcome | None:
        """What came of *row* the last time, whenever that was."""
        known = self._known.get((row.level, row.id))
        return Outcome(row, **known[1]) if known else None

    def fresh(self, row: Row) -> bool:
        """Whether *row* was run on this state of the code."""
        return self._known.get((row.level, row.id), ("",))[0] == self.state


def main(target: Path, wanted: Sequence[str]) -> int:
    """Run what was not run, and write the page of all there is; 3 when something has a defect.

    *wanted*: levels, and perhaps a number: of every level one of so many rows.
    """
    from fault_scripted import FAULTS

    every = next((int(word) for word in wanted if word.isdigit()), 1)
    levels = [word for word in wanted if not word.isdigit()] or list(LEVELS)
    ledger = Ledger(KEPT, code_state())
    all_rows = {name: level.rows() for name, level in LEVELS.items()}
    for name in levels:
        todo = [row for row in all_rows[name][every // 2 :: every] if not ledger.fresh(row)]
        for number, outcome in enumerate(LEVELS[name].run(todo), start=1):
            ledger.keep(outcome)
            said = text([outcome]).split("\n", 1)[1]
            sys.stderr.write(f"faults: {name} {number} of {len(todo)}: {said} ({outcome.seconds:.0f} s)\n")
    outcomes, told = [], []
    for name, rows in all_rows.items():
        found = [o for row in rows if (o := ledger.outcome(row))]
        now = sum(ledger.fresh(o.row) for o in found)
        outcomes += found
        told.append(
            f"level `{name}`: {len(found)} of {len(rows)} rows were run, {now} of them on this state of the code"
        )
    meanings = {o.row.fault.name: o.row.fault.words for o in outcomes} | {f.name: f.words for f, _ in FAULTS}
    target.write_text(page(outcomes, sorted(meanings.items()), told))
    sys.stdout.write(text(o for o in outcomes if o.defects) + "\n")
    return 3 if any(o.defects for o in outcomes) else 0
