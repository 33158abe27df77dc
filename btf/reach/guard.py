"""Guarded or fatal: does a kernel's verifier reach a poisoned instruction, and if not, which branch keeps it away?"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

from btf.format.types import Btf
from btf.objects.object import BpfObject, BpfProgram
from btf.reach.known import Origin
from btf.reach.memory import VERSION, Given, Memory, version_bounds
from btf.reach.nearby import Cut, Nearby, nearest
from btf.reach.reach import MAX_STEPS, Walk
from btf.reach.step import Patches, Place

_MAX_STEPS_OF_ALL = 4 * MAX_STEPS  # of all programs; of those that are left, everything counts as reached
_MAX_KEPT = 32  # walks of one object
_MAX_VERSIONS = 8  # that one release may stand for and that a program tells apart


class Guard(NamedTuple):
    """The branch at byte ``insn`` of ``section`` that leads around an instruction on this kernel, and what it asked.

    ``kind`` is a relocation's (``field_exists`` …) with what it named as ``local``, or ``rodata``, ``kconfig``,
    ``ksym`` with the name of a variable, option or symbol; both are empty when it compared something else.
    """

    section: str
    insn: int
    kind: str = ""
    local: str = ""


class _Walked(NamedTuple):
    """What a walk found; kept with the object, so nothing of a kernel's is in it."""

    alive: set[Place]
    cuts: dict[Place, Origin]


class Reach:
    """What the verifier looks at of each program of an object once relocated.

    Where a release leaves the kernel's version open by its last number, what it looks at in any of them.
    """

    def __init__(self, obj: BpfObject, patches: Patches, target: Btf, given: Given | None = None) -> None:
        self._loads = tuple(_Load(obj, patches, target, each) for each in _versions(obj, given or Given()))

    def alive(self, program: BpfProgram, among: Collection[Place] | None = None) -> Collection[Place]:
        """Return the places, of those *among*, that *program* may reach: (section, byte offset) of instructions."""
        found = [load.alive(program, among) for load in self._loads]
        return found[0] if len(found) == 1 else set().union(*found)

    def guard(self, program: BpfProgram, place: Place, asked: Mapping[Place, tuple[str, str]]) -> Guard | None:
        """Return what keeps *program* from *place*, None when nothing calls its function.

        *asked* tells (kind, local) of the relocation at a place.
        """
        return self._loads[0].guard(program, place, asked)


def _versions(obj: BpfObject, given: Given) -> list[Given]:
    """Return *given* for each version of the kernel that its release may mean and that *obj* may tell apart.

    A load knows the version as a constant, and every verifier follows constants. Between two numbers that the object
    compares with, all versions fare alike.
    """
    bounds = version_bounds(given) if any(e.name == VERSION for e in obj.externs) else None
    if bounds is None:
        return [given]
    low, high = bounds
    named = {i.imm for f in obj.functions for i in f.instructions if low <= i.imm <= high}
    told = sorted({low, high, *(v for n in named for v in (n - 1, n, n + 1) if low <= v <= high)})
    if len(told) > _MAX_VERSIONS:
        return [given]
    return [replace(given, constants={**given.constants, VERSION: version}) for version in told]


class _Load:
    """What the verifier looks at in one load of an object; walks a program when it has to."""

    def __init__(self, obj: BpfObject, patches: Patches, target: Btf, given: Given) -> None:
        self._obj, self._patches, self._target, self._given = obj, patches, target, given
        self._left = _MAX_STEPS_OF_ALL
        self._walks: dict[tuple[str, int, bool], _Walked] = {}

    @cached_property
    def _memory(self) -> Memory:
        return Memory(self._obj, self._target, self._given)

    @cached_property
    def _nearby(self) -> Nearby:
        return Nearby(self._obj, self._patches, self._memory)

    def _walk(self, program: BpfProgram, *, apart: bool) -> _Walked:
        key = program.section, program.function.start, apart
        if key not in self._walks:
            kept: dict[object, _Walked] = self._obj.remember("walks", dict)
            told = self._told(program, apart=apart)
            if told not in kept:
                steps = min(MAX_STEPS, max(self._left, 0))
                walk = Walk(self._obj, program, self._patches, self._memory, apart=apart, steps=steps)
                self._left -= walk.taken
                if len(kept) >= _MAX_KEPT:
                    kept.clear()
                kept[told] = _Walked(walk.alive, walk.cuts)
            self._walks[key] = kept[told]
        return self._walks[key]

    def _told(self, program: BpfProgram, *, apart: bool) -> Hashable:
        """Return all that decides what a walk of *program* finds: equal on another kernel, it finds the same there."""
        patches = frozenset((p, s) for p, s in self._patches.items() if any(f.holds(*p) for f in program.functions))
        loads = tuple(self._memory.told(r) for f in program.functions for r in f.references)
        return program.section, program.function.start, apart, self._left > MAX_STEPS, patches, loads, self._memory.able

    def alive(self, program: BpfProgram, among: Collection[Place] | None = None) -> Collection[Place]:
        if among is not None:
            among = {place for place in among if self._nearby.cut(program, place) is None}
            if not among:
                return among
        alive = self._walk(program, apart=False).alive
        if among is not None:
            alive = alive.intersection(among)
        return alive & self._walk(program, apart=True).alive if alive else alive

    def guard(self, program: BpfProgram, place: Place, asked: Mapping[Place, tuple[str, str]]) -> Guard | None:
        cut = self._nearby.cut(program, place)
        if cut is None:
            walk = self._walk(program, apart=False)
            if place in walk.alive:
                walk = self._walk(program, apart=True)
            branch = nearest(self._obj, program, place, walk.alive)
            if branch is None or place in walk.alive:
                return None
            cut = Cut(branch, walk.cuts.get(branch))
        if cut.origin is None:
            return Guard(*cut.branch)
        kind, name, section, insn = cut.origin
        return Guard(*cut.branch, *((kind, name) if kind else asked.get((section, insn), ("", ""))))


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
    inside: dict[Place, set[Place]] = {}  # by where their function starts
    for place in places:
        if (function := obj.function_at(*place)) is not None:
            inside.setdefault((function.section, function.start), set()).add(place)
    for program in obj.programs:
        own = set().union(*(inside.get((f.section, f.start), ()) for f in program.functions))
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
