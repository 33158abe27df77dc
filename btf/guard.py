"""Guarded or fatal: does a kernel's verifier reach a poisoned instruction, and if not, which branch keeps it away?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from btf.flow import successors
from btf.insn import SIZE, heads
from btf.memory import Given, Memory
from btf.object import BpfObject, BpfProgram
from btf.reach import Patches, Place, Walk
from btf.types import Btf


class Guard(NamedTuple):
    """The branch at byte ``insn`` of ``section`` that leads around an instruction on this kernel, and what it asked.

    ``kind`` is a relocation's (``field_exists`` …) with what it named as ``local``, or ``rodata``, ``kconfig``,
    ``ksym`` with the name of a variable, option or symbol; both are empty when it compared something else.
    """

    section: str
    insn: int
    kind: str = ""
    local: str = ""


class Reach:
    """What the verifier looks at of each program of an object once relocated; walks a program when first asked."""

    def __init__(self, obj: BpfObject, patches: Patches, target: Btf, given: Given | None = None) -> None:
        self._obj, self._patches = obj, patches
        self._memory = Memory(obj, target, given or Given())
        self._walks: dict[tuple[str, int, bool], Walk] = {}

    def _walk(self, program: BpfProgram, *, apart: bool) -> Walk:
        key = program.section, program.function.start, apart
        if key not in self._walks:
            self._walks[key] = Walk(self._obj, program, self._patches, self._memory, self._memory.able, apart=apart)
        return self._walks[key]

    def alive(self, program: BpfProgram, among: Collection[Place] | None = None) -> Collection[Place]:
        """Return the places, of those *among*, that *program* may reach: (section, byte offset) of instructions."""
        alive = self._walk(program, apart=False).alive
        if among is not None:
            alive = alive.intersection(among)
        if not alive:
            return alive
        return alive & self._walk(program, apart=True).alive

    def guard(self, program: BpfProgram, place: Place, asked: Mapping[Place, tuple[str, str]]) -> Guard | None:
        """Return what keeps *program* from *place*, None when nothing calls its function.

        *asked* tells (kind, local) of the relocation at a place.
        """
        for apart in (False, True):
            walk = self._walk(program, apart=apart)
            if place not in walk.alive:
                break
        else:
            return None
        cut = _nearest_cut(program, place, walk)
        if cut is None:
            return None
        origin = walk.cuts.get(cut)
        if origin is None:
            return Guard(*cut)
        kind, local = (origin.kind, origin.name) if origin.kind else asked.get((origin.section, origin.insn), ("", ""))
        return Guard(*cut, kind, local)


class Fate(NamedTuple):
    """Which programs reach an instruction, by name; when none does, what keeps them away, where a branch does."""

    reached_by: tuple[str, ...]
    guard: Guard | None = None


def fates(
    reach: Reach, obj: BpfObject, places: Collection[Place], asked: Mapping[Place, tuple[str, str]]
) -> dict[Place, Fate]:
    """Return what becomes of each of *places*; *asked* tells (kind, local) of the relocation at a place."""
    reached: dict[Place, list[str]] = {place: [] for place in places}
    holders: dict[Place, list[BpfProgram]] = {place: [] for place in places}
    for program in obj.programs:
        own = {place for place in places if any(f.holds(*place) for f in program.functions)}
        alive = reach.alive(program, own) if own else ()
        for place in own:
            holders[place].append(program)
            if place in alive:
                reached[place].append(program.name)
    return {
        place: Fate(tuple(names), None if names else _guard(reach, holders[place], place, asked))
        for place, names in reached.items()
    }


def _guard(
    reach: Reach, programs: Sequence[BpfProgram], place: Place, asked: Mapping[Place, tuple[str, str]]
) -> Guard | None:
    guards = (reach.guard(program, place, asked) for program in programs)
    return next((guard for guard in guards if guard), None)


def _nearest_cut(program: BpfProgram, place: Place, walk: Walk) -> Place | None:
    """Return the live branch nearest before *place* that never goes towards it, searching back through callers, too."""
    before: dict[Place, list[Place]] = {}
    for function in program.functions:
        insns = walk.instructions(function)
        for index, _ in heads(insns):
            here = function.section, function.start + SIZE * index
            for successor in successors(insns, index):
                before.setdefault((function.section, function.start + SIZE * successor), []).append(here)
        for call in function.calls:
            before.setdefault(call.callee, []).append((function.section, call.insn))
    seen, waiting = {place}, [place]
    for here in waiting:  # grows while it is walked
        for earlier in before.get(here, ()):
            if earlier in walk.alive:
                return earlier
            if earlier not in seen:
                seen.add(earlier)
                waiting.append(earlier)
    return None
