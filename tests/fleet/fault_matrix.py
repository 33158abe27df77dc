"""The fault matrix: rows are data (a fault, where it strikes, what is expected), and one interpreter runs them all.

A row rolls a program out with one fault in the way, lets what a supervisor would do happen (run it again), compares
record and hosts, rolls back, and compares full snapshots. The same for scripted hosts, real agents and guests: those
are worlds (``World``). What a row may not end with is a defect, and each kind of defect is a column of the table.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fleet.record import Record, open_record
from fleet.record.rollout_views import StepView
from fleet.rollout.execute import ExecutorFactory
from fleet.rollout.hosts.watch import Observed, observe
from fleet.rollout.states import WAITING
from inventory.host import Host

Snapshot = Mapping[str, frozenset[str]]  # section → lines
FORWARD, BACK = "forward", "rollback"  # the first and the last leg of every row
PART = "b"  # the host that a part of a rollout is
# leg → what a person asks for at its beginning, and the state it is to end in
LEGS: Mapping[str, tuple[tuple[tuple[str, Mapping[str, Any]], ...], str]] = {
    FORWARD: ((), "COMPLETED"),
    "part": ((("rollback", {"host": [PART]}),), "COMPLETED"),
    "reconcile": ((("reconcile", {}),), "COMPLETED"),
    BACK: ((("rollback", {}),), "ROLLED_BACK"),
}
RUNS = ("attached", "verified", "healthy")  # by the record, the host runs exactly this order
RESTS = (
    "pending",
    "probed",
    "staged",
    "checked",
    "skipped",
    "reverted",
    "failed",
    "held",
)  # by the record, it does not
TRIES = 6


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of trouble. ``stops``: where a rollout may wait for a person because of it, the reason said.

    ``again``: how often the host may attach an order once more, having undone by itself what was cut off or died.
    ``out``: what a person asks where it waits.
    """

    name: str
    words: str
    stops: tuple[str, ...] = ()
    again: int = 0
    out: tuple[str, ...] = ("retry", "resume")


@dataclass(frozen=True, slots=True)
class Row:
    """One row: *fault* strikes at *boundary* of *leg*, with *program* being rolled out."""

    level: str
    fault: Fault
    leg: str
    boundary: str
    program: str = "tcp-flow"

    @property
    def id(self) -> str:
        """A name for tests and tables."""
        return f"{self.fault.name}@{self.leg}/{self.boundary}" + (
            "" if self.level in ("scripted", "servers") else f"/{self.program}"
        )


@dataclass(slots=True)
class Outcome:
    """What came of a row. The lists are defects, but ``stops``: where it stopped on its way, and why it said."""

    row: Row
    struck: str = ""
    stops: list[str] = field(default_factory=list)
    end: str = ""
    wrong: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    unrecorded: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def defects(self) -> list[str]:
        """Everything that is not as it must be, in one list."""
        columns = (self.wrong, self.twice, self.unrecorded, self.left)
        names = ("end", "twice", "unrecorded", "left")
        return [f"{name}: {text}" for name, texts in zip(names, columns, strict=True) for text in texts]


class World(Protocol):
    """Hosts, a record and a way to run a controller that meets a fault."""

    place: Path | str  # of the record
    rollout: str
    program: str
    hosts: Mapping[str, Host]
    connect: ExecutorFactory

    def strike(self, row: Row) -> str:
        """Run a controller until *row*'s fault struck and what it did is over; says how it ended, or ``not met``."""
        ...

    def go(self) -> str:
        """Run a controller that meets no fault; returns the rollout's state."""
        ...

    def mend(self, row: Row) -> None:
        """Take away what a person would take away: free the disk, plug the cable in."""
        ...

    def snapshot(self) -> Mapping[str, Snapshot]:
        """Everything of the hosts that we could have changed, by host."""
        ...


def run_row(world: World, row: Row) -> Outcome:
    """Carry one row out."""
    began = time.monotonic()
    outcome = Outcome(row)
    before = world.snapshot()
    counted = {name: _seen(world, host).applied or 0 for name, host in world.hosts.items()}
    for leg in dict.fromkeys((FORWARD, row.leg, BACK)):
        ask(world, *LEGS[leg][0])
        if leg == row.leg:
            outcome.struck = world.strike(row)
            if outcome.struck == "not met":
                outcome.wrong.append("the fault never struck")
            if "it waited" in outcome.struck:
                outcome.wrong.append(outcome.struck)
            world.mend(row)
        state = _carry_on(world, row, leg, outcome)
        if state != LEGS[leg][1]:
            outcome.wrong.append(f"the {leg} leg ended as {state}")
        outcome.end = f"{outcome.end} {state}".strip()
        with open_record(world.place, read_only=True) as record:
            seen = {name: _seen(world, host) for name, host in world.hosts.items()}
            outcome.twice += twice(record, world, seen, counted, row.fault.again)
            now = world.snapshot()
            outcome.twice += beside(before, now, seen)
            outcome.unrecorded += unrecorded(record, world, seen)
    outcome.left += left(before, now)
    outcome.seconds = time.monotonic() - began
    return outcome


def _carry_on(world: World, row: Row, leg: str, outcome: Outcome) -> str:
    """Run controllers until the leg is over; where it waits, check that it may and says why, and go on for it."""
    state = _view(world).state
    aside = leg not in (FORWARD, BACK)  # something beside the waves: the state does not tell whether it is done
    for _ in range(TRIES):
        if state == LEGS[leg][1] and not aside:
            break
        if state in WAITING:
            reason = _view(world).reason
            outcome.stops.append(f"{state}: {reason}")
            if not reason:
                outcome.wrong.append(f"{state} without a reason")
            if state not in row.fault.stops or leg != row.leg:
                outcome.wrong.append(f"needlessly {state}: {reason}")
            ask(world, *((verb, {}) for verb in (("rollback",) if leg == BACK else row.fault.out)))
        state, aside = world.go(), False
    return state


def ask(world: World, *verbs: tuple[str, Mapping[str, Any]]) -> None:
    """Ask as a person does."""
    with open_record(world.place) as record:
        for verb, given in verbs:
            record.request(world.rollout, verb, "ann", **given)


def _view(world: World) -> Any:
    with open_record(world.place, read_only=True) as record:
        return record.rollout(world.rollout)


def _seen(world: World, host: Host) -> Observed:
    with world.connect(host) as executor:
        return observe(executor.status(world.program), world.program)


def twice(
    record: Record, world: World, seen: Mapping[str, Observed], counted: Mapping[str, int], again: int
) -> list[str]:
    """Effects that happened more than once: by the hosts' own count, *counted* before, and by the audit."""
    found = []
    for name, host in seen.items():
        mine = record.events(limit=1_000_000, rollout_id=world.rollout, host=name)
        orders = {e.token for e in mine if e.verb == "apply"}
        attachments = (host.applied or 0) - counted[name]
        if attachments > len(orders) + again:
            found.append(f"{name}: attached {attachments} times for {len(orders)} orders")
        retried = sum(e.after == "pending" for e in mine)  # a person asked for the step once more
        for token in orders:
            attached = sum(e.after == "attached" and e.token == token for e in mine)
            if attached > 1 + retried:
                found.append(f"{name}: {attached} audit rows say that order {token} was attached")
    return found


def beside(before: Mapping[str, Snapshot], now: Mapping[str, Snapshot], seen: Mapping[str, Observed]) -> list[str]:
    """Kernel programs that run on a host beside those its status knows of: a second load of the same.

    Where filters run them these are asked, because a runner may still hold the program it took a policy over from.
    """
    found = []
    for name, host in seen.items():
        known = {str(p.get("id")) for p in host.entry.get("observed", {}).get("programs", ())}
        section, pattern = ("filters", r" id (\d+)") if now[name].get("filters") else ("programs", r"prog_id:\s*(\d+)")
        new = now[name].get(section, frozenset()) - before[name].get(section, frozenset())
        ids = {match[1] for line in new if (match := re.search(pattern, line))}
        found += [f"{name}: program {one} runs beside what it knows" for one in sorted(ids - known)]
    return found


def unrecorded(record: Record, world: World, seen: Mapping[str, Observed]) -> list[str]:
    """Hosts that are not as their step and their assignment say."""
    found = []
    assigned = {a.host: a for a in record.assignments(program=world.program)}
    steps: Sequence[StepView] = record.steps(world.rollout)
    for step in steps:
        host = seen[step.host]
        runs = step.token is not None and host.runs(step.build, step.token)
        if step.state in RUNS and not runs:
            found.append(f"{step.host}: recorded {step.state} of order {step.token}, is {host.state} of {host.token}")
        elif step.state in RESTS and host.alive:
            found.append(f"{step.host}: recorded {step.state}, and it runs order {host.token}")
        elif step.state not in RUNS + RESTS:
            found.append(f"{step.host}: its step is left {step.state}")
        wanted = assigned.get(step.host)
        if (wanted is not None) != host.alive:
            found.append(f"{step.host}: assigned {'yes' if wanted else 'no'}, alive {'yes' if host.alive else 'no'}")
        elif wanted is not None and (wanted.token, wanted.build) != (host.token, host.entry.get("build")):
            found.append(f"{step.host}: assigned order {wanted.token}, runs {host.token}")
    return found


def left(before: Mapping[str, Snapshot], after: Mapping[str, Snapshot]) -> list[str]:
    """What is on a host that was not there before, or is gone: every difference, by host and section."""
    found = []
    for name in before:
        for section, lines in after[name].items():
            found += [f"{name}: {section}: new: {line}" for line in sorted(lines - before[name][section])]
            found += [f"{name}: {section}: gone: {line}" for line in sorted(before[name][section] - lines)]
    return found
