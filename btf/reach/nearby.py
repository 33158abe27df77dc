"""A cheap look at what keeps a verifier from an instruction: back from it to branches decided right where they stand.

Most guards are an answer and the jump on it, side by side; following the whole program (:mod:`btf.reach.reach`) finds
the others. Knowing nothing of where a stretch of straight code begins, this never calls live code dead either.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from btf.objects.insn import CALL, CLASS_MASK, JA, JA32, JMP, JMP32, LD_IMM64, SIZE, SOURCE_REGISTER
from btf.objects.object import BpfFunction, BpfObject, BpfProgram
from btf.reach.known import ANY, OTHER, U64, Origin, StackAddress, Value, decided, told
from btf.reach.memory import Memory
from btf.reach.step import Code, Patches, Place, Shape, Stack, Steps, shape_of

_MAX_STRETCH = 32  # instructions before a branch that are looked at
_MAX_BACK = 4096  # instructions before a place, in all
_MAX_BACK_OF_ALL = 1 << 20  # before all places of an object; of the others the whole program is followed


class Cut(NamedTuple):
    """A branch that never leads on to a place, and what it asked, where that is known."""

    branch: Place
    origin: Origin | None


class Nearby:
    """The branches of one object, once relocated, that are decided by what stands right before them."""

    def __init__(self, obj: BpfObject, patches: Patches, memory: Memory) -> None:
        self._obj, self._patches, self._memory = obj, patches, memory
        self._steps = Steps(memory, big_endian=obj.big_endian)
        self._codes: dict[Place, Code] = {}
        self._left = _MAX_BACK_OF_ALL
        self._open: dict[Place, set[Place]] = {}  # by program: what some way from its entry leads to
        self._decisions: dict[Place, tuple[int, Origin | None] | None] = {}

    def cut(self, program: BpfProgram, place: Place) -> Cut | None:
        """Return the nearest branch that keeps *program* from *place*; None when some way may lead there."""
        first: Cut | None = None
        led_to: dict[Place, Place | None] = {place: None}  # where each of those waiting leads to
        open_ = self._open.setdefault((program.section, program.function.start), set())
        waiting = [place]
        for here in waiting:  # grows while it is walked
            self._left -= 1
            if len(waiting) > _MAX_BACK or self._left < 0:
                return None
            function = _holding(program, here)
            if function is None:
                return None
            shape = shape_of(self._obj, function)
            index = shape.stretch[(here[1] - function.start) // SIZE]
            is_entry = index == 0 and (_is_entry(program, function) or function.is_global)
            if here in open_ or is_entry or shape.anywhere:
                step: Place | None = here
                while step is not None:  # the rest of the way is open, too
                    open_.add(step)
                    step = led_to[step]
                return None
            start = function.start + SIZE * index
            for earlier in _before(self._obj, program, function, index):
                if earlier in led_to:
                    continue
                decision = self._decided(function, earlier) if earlier[0] == function.section else None
                if decision is not None and function.start + SIZE * decision[0] != start:
                    first = first or Cut(earlier, decision[1])
                    continue
                led_to[earlier] = here
                waiting.append(earlier)
        return first

    def _decided(self, function: BpfFunction, place: Place) -> tuple[int, Origin | None] | None:
        """Return the index a conditional jump always leads to, and what it asked; None when it may lead both ways."""
        if place not in self._decisions:
            index = (place[1] - function.start) // SIZE
            inside = 0 <= index < len(function.instructions)
            self._decisions[place] = self._decide(function, index) if inside else None
        return self._decisions[place]

    def _decide(self, function: BpfFunction, index: int) -> tuple[int, Origin | None] | None:
        insn = function.instructions[index]
        if insn.code & CLASS_MASK not in (JMP, JMP32) or insn.code in (JA, JA32, CALL):
            return None
        key = function.section, function.start
        code = self._codes.get(key)
        if code is None:
            code = self._codes[key] = Code(self._obj, function, self._patches, self._memory)
        registers: list[Value] = [*(ANY,) * 10, StackAddress(0), *(ANY,) * 5]
        stack: Stack = {}
        for at in _stretch(code, index):
            if code.insns[at].code == CALL:
                registers[:6] = [OTHER] * 6
                stack.clear()
            elif code.insns[at].code & CLASS_MASK not in (JMP, JMP32):
                self._steps.take(code, at, registers, stack)
        left = registers[insn.dst]
        right = registers[insn.src] if insn.code & SOURCE_REGISTER else insn.imm & U64
        taken = decided(insn, left, right, self._memory.able)
        if taken is None:
            return None
        return index + 1 + (insn.offset if taken else 0), told(left, right)


def _stretch(code: Code, index: int) -> list[int]:
    """Return the instructions that always run one after the other up to *index*, without it."""
    found: list[int] = []
    while len(found) < _MAX_STRETCH and index > 0:
        earlier = code.shape.before.get(index, ())
        if len(earlier) != 1:
            break
        (before,) = earlier
        if index - before != (2 if code.function.instructions[before].code == LD_IMM64 else 1):
            break
        found.append(before)
        index = before
    return found[::-1]


def _is_entry(program: BpfProgram, function: BpfFunction) -> bool:
    """Whether the kernel itself calls *function*."""
    return function is program.function or function is program.exception_callback


def _holding(program: BpfProgram, place: Place) -> BpfFunction | None:
    return next((f for f in program.functions if f.holds(*place)), None)


def _before(obj: BpfObject, program: BpfProgram, function: BpfFunction, index: int) -> list[Place]:
    """Return the instructions that may lead to the one at *index*: at a function's start, who calls it."""
    shape: Shape = shape_of(obj, function)
    found = [(function.section, function.start + SIZE * i) for i in shape.before.get(index, ())]
    if index == 0:
        entry = function.section, function.start
        found += [(f.section, c.insn) for f in program.functions for c in f.calls if c.callee == entry]
    return found


def nearest(obj: BpfObject, program: BpfProgram, place: Place, alive: Container[Place]) -> Place | None:
    """Return the live branch nearest before *place*, searching back through callers, too."""
    seen, waiting = {place}, [place]
    for here in waiting:  # grows while it is walked
        function = _holding(program, here)
        if function is None or len(waiting) > _MAX_BACK:
            continue
        for earlier in _before(obj, program, function, (here[1] - function.start) // SIZE):
            if earlier in alive:
                return earlier
            if earlier not in seen:
                seen.add(earlier)
                waiting.append(earlier)
    return None
