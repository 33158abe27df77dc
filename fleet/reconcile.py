"""Mending what drifted: programs planned again for the hosts that differ, and what should not be there removed.

A mend is a plan like any other and is carried out by a rollout like any other, with canaries, gates and a way back. A
host whose kernel changed is scanned and decided anew first, so it may come back with a better build than it had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from btf.archive.archive import Archive
from btf.fault import Fault
from fleet.prepare import prepare, wishes_of
from fleet.record import Record
from fleet.record.views import Difference
from fleet.rollout.drift.compare import KINDS
from fleet.rollout.execute import ExecutorFactory
from fleet.rollout.execute.artefacts import Artefacts
from fleet.rollout.planning.plan import Plan, load_plan
from fleet.rollout.states import ABORTED, COMPLETED, ROLLBACK_INCOMPLETE, ROLLED_BACK
from fleet.survey import decide, harvest, scan
from inventory.connect import Connection
from inventory.host import Host
from probes.catalogue import Program

Swap = Literal["never", "upgrade", "any"]  # which change of variant a kernel change may bring
Connect = Callable[[Host], Connection]
_ENDED = (COMPLETED, ABORTED, ROLLED_BACK, ROLLBACK_INCOMPLETE)


@dataclass(frozen=True, slots=True)
class Left:
    """A difference that is not mended now, and why."""

    difference: Difference
    why: str


@dataclass(frozen=True, slots=True)
class Mends:
    """What would be done: a plan per earlier rollout, removals (host, program), and what is left."""

    plans: tuple[Plan, ...]
    removals: tuple[tuple[str, str], ...]
    left: tuple[Left, ...]


def decide_anew(
    record: Record, archive: Archive, programs: Iterable[Program], hosts: Sequence[str], *, connect: Connect,
    parallel: int, deadline_s: float = 60.0,
) -> list[str]:  # fmt: skip
    """Scan *hosts*, fetch BTF of kernels that are new, and decide for them; returns those that could not be scanned."""
    known = record.definitions()
    outcomes = scan(
        record, [known[name] for name in hosts], connect=connect, parallel=parallel, deadline_s=deadline_s
    )  # fmt: skip
    list(harvest(record, archive, outcomes, connect=connect))
    decide(record, archive, programs, hosts=[o.host.name for o in outcomes if o.fault is None])
    return [outcome.host.name for outcome in outcomes if outcome.fault is not None]


def mend(
    record: Record, archive: Archive, artefacts: Artefacts, programs: Mapping[str, Program],
    differences: Sequence[Difference], *, swap: Swap = "upgrade", remove: bool = False,
) -> Mends:  # fmt: skip
    """Return what would mend *differences*, as they were found and decided last; changes nothing but kept artefacts.

    Hosts of a rollout that has not ended are left to it. *swap* says which change of variant is wanted.
    """
    busy = record.busy_hosts(_ENDED)
    left: list[Left] = []
    removals: set[tuple[str, str]] = set()
    wanted: dict[tuple[str, str], set[str]] = {}
    assigned = {(a.host, a.program): a for a in record.assignments()}
    for difference in differences:
        kind = KINDS[difference.kind]
        key = (difference.host, difference.program)
        if difference.host in busy:
            left.append(Left(difference, f"in the hands of {busy[difference.host]}"))
        elif kind.mend == "remove" and difference.program and remove:
            removals.add(key)
        elif kind.mend in ("apply", "decide") and key in assigned and difference.program in programs:
            rollout_id = assigned[key].rollout_id
            why = _unwanted(record, programs[difference.program], difference.host, assigned[key].variant, swap)
            if why:
                left.append(Left(difference, why))
            else:
                wanted.setdefault((difference.program, rollout_id), set()).add(difference.host)
        elif kind.mend:
            left.append(Left(difference, "--remove removes it" if kind.mend == "remove" else "nothing is known of it"))
    plans = []
    for (program, rollout_id), hosts in sorted(wanted.items()):
        before = load_plan(record.plan(record.rollout(rollout_id).plan_id).document)
        program_now, wishes, only = programs[program], wishes_of(before), frozenset(hosts)
        plans.append(prepare(record, archive, artefacts, program_now, before.settings, wishes, only=only, again=True))
    return Mends(tuple(plans), tuple(sorted(removals)), tuple(left))


def _unwanted(record: Record, program: Program, host: str, variant: str, swap: Swap) -> str:
    """Why a host is not given what is decided for it now; empty when it is."""
    chosen = next((c.variant for c in record.choices(program.name, host=host)), None)
    if chosen is None:
        return "nothing fits it now"
    if chosen == variant:
        return ""
    better = program.ladder.index(chosen) < program.ladder.index(variant)
    if swap == "any" or (swap == "upgrade" and better):
        return ""
    return (
        f"{variant} → {chosen} is {'an upgrade' if better else 'a step down'}: --swap {'upgrade' if better else 'any'}"
    )


def remove(record: Record, connect: ExecutorFactory, removals: Iterable[tuple[str, str]], actor: str) -> list[Fault]:
    """Remove programs that should not be there, each with its token on record before its host is touched."""
    known = record.definitions()
    faults = []
    for host, program in removals:
        token = record.order(host, program, "remove", actor=actor)
        try:
            with connect(known[host]) as executor:
                executor.remove(program, token)
            record.audit(actor, "removed", host=host, program=program, token=token)
        except Fault as fault:
            record.audit(actor, "not-removed", host=host, program=program, token=token, detail=str(fault))
            faults.append(fault)
    return faults
