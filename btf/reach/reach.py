"""Which instructions a kernel's verifier would look at after relocation: what it proves dead may hold poison.

Follows what is known (:mod:`btf.reach.known`) through registers and stack, call by call: a static function with what
its caller passes, a global one knowing nothing. A first pass merges what is known where paths meet; a second one keeps
a few states apart, as the verifier does, and is asked only where the first finds poison alive. So this may call dead
code alive, never live code dead.
"""

from __future__ import annotations

from typing import NamedTuple

from btf.objects.insn import (
    CALL,
    CLASS_MASK,
    EXIT,
    JA,
    JA32,
    JMP,
    JMP32,
    LD_IMM64,
    PSEUDO_CALL,
    PSEUDO_KFUNC_CALL,
    SIZE,
    SOURCE_REGISTER,
    Insn,
    heads,
)
from btf.objects.object import BpfFunction, BpfObject, BpfProgram
from btf.reach.known import (
    ANY,
    FOREIGN,
    FRAMES,
    OTHER,
    U64,
    Origin,
    StackAddress,
    Value,
    covers,
    decided,
    merged,
    narrowed,
    told,
)
from btf.reach.memory import Memory
from btf.reach.step import JA_REGISTER, Code, Patches, Place, Stack, Steps, forget
from btf.reach.verifier import Ability

_MAX_STATES = 8  # kept apart at one instruction before they are merged
_MAX_CONTEXTS = 8  # in which one function is looked at before nothing is known of what callers pass
_MAX_DEPTH = 16  # calls in calls; the kernel refuses more than 8
MAX_STEPS = 1 << 20  # of one program, then everything counts as alive; a kernel gives up at a million, too
_CALLBACKS = frozenset({164, 170, 180, 181, 209})  # helpers that call back: for_each_map_elem, timer_set_callback, …

# helper: the argument that is a buffer it fills; the one behind it is the buffer's size
_FILLED = {4: 1, 16: 1, 45: 1, 112: 1, 113: 1, 114: 1, 115: 1}  # the probe_read family, get_current_comm


class _State(NamedTuple):
    registers: tuple[Value, ...]
    stack: Stack


class Walk:
    """What one program's verification looks at. ``alive``: the instructions; ``cuts``: what decided a branch."""

    def __init__(
        self,
        obj: BpfObject,
        program: BpfProgram,
        patches: Patches,
        memory: Memory,
        *,
        apart: bool = False,
        steps: int = MAX_STEPS,
    ) -> None:
        self._obj, self._patches, self._memory = obj, patches, memory
        self._steps = Steps(memory, big_endian=obj.big_endian)
        self._limit = _MAX_STATES if apart else 1
        self._codes: dict[Place, Code] = {}
        self._results: dict[tuple[Place, tuple[Value, ...]], Value] = {}
        self._contexts: dict[Place, int] = {}
        self.taken, self._most = 0, steps
        self._alone = [program.function]  # to be looked at knowing nothing of who calls it
        self.alive: set[Place] = set()
        self.cuts: dict[Place, Origin] = {}
        self._called(program.function, (OTHER,) * 5, 0)
        if program.exception_callback:
            self._alone.append(program.exception_callback)
        if Ability.LAZY_GLOBALS not in memory.able:
            self._alone += [f for f in program.subprograms if f.is_global]
        while self._alone:
            self._called(self._alone.pop(), (FOREIGN,) * 5, 0)
        if self.taken > self._most:
            self.alive = {
                (f.section, f.start + SIZE * n) for f in program.functions for n in range(len(f.instructions))
            }
            self.cuts = {}

    def _code(self, function: BpfFunction) -> Code:
        place = function.section, function.start
        if place not in self._codes:
            self._codes[place] = Code(self._obj, function, self._patches, self._memory)
        return self._codes[place]

    def _called(self, function: BpfFunction, passed: tuple[Value, ...], depth: int) -> Value:
        """Look at *function* with the five values *passed*; return what it returns."""
        place = function.section, function.start
        if depth > _MAX_DEPTH:
            self._alone.append(function)
            return ANY
        if self._contexts.get(place, 0) >= _MAX_CONTEXTS:
            passed = (FOREIGN,) * 5
        if (place, passed) not in self._results:
            self._contexts[place] = self._contexts.get(place, 0) + 1
            self._results[place, passed] = ANY  # what a function that calls itself is told
            self._results[place, passed] = self._walk(self._code(function), passed, depth)
        return self._results[place, passed]

    def _walk(self, code: Code, passed: tuple[Value, ...], depth: int) -> Value:
        insns, joins, able, steps = code.insns, code.shape.joins, self._memory.able, self._steps
        section, start = code.function.section, code.function.start
        seen: dict[int, list[_State]] = {}
        returned: Value | None = None
        lost = False
        entry: list[Value] = [OTHER, *passed, OTHER, OTHER, OTHER, OTHER, StackAddress(0), *(OTHER,) * 5]
        waiting: list[tuple[int, list[Value], Stack]] = [(0, entry, {})]
        count = len(insns)
        alive: set[int] = set()
        while waiting:
            index, registers, stack = waiting.pop()
            while 0 <= index < count:
                self.taken += 1 + (len(stack) >> 5)
                if self.taken > self._most:
                    return ANY
                if index in joins:
                    state = self._arrived(seen, index, registers, stack)
                    if state is None:
                        break
                    registers, stack = list(state.registers), dict(state.stack)
                alive.add(index)
                insn = insns[index]
                opcode = insn.code
                cls = opcode & CLASS_MASK
                if opcode == EXIT:
                    returned = registers[0] if returned is None else merged(returned, registers[0])
                    break
                if opcode == CALL:
                    callee = code.callees.get(index) if insn.src == PSEUDO_CALL else None
                    registers[:6] = [self._call(insn, callee, registers, stack, depth), *(OTHER,) * 5]
                elif opcode == JA_REGISTER:  # through a table of places: any of them
                    if not lost:
                        lost = True
                        vague: list[Value] = [*(ANY,) * 10, StackAddress(0), *(ANY,) * 5]
                        waiting += [(head, list(vague), {}) for head, _ in heads(insns)]
                    break
                elif opcode in (JA, JA32):
                    index += insn.imm if opcode == JA32 else insn.offset
                elif cls in (JMP, JMP32):
                    left = registers[insn.dst]
                    right = registers[insn.src] if opcode & SOURCE_REGISTER else insn.imm & U64
                    taken = decided(insn, left, right, able)
                    if taken is None:
                        there, here = narrowed(insn, left, right, able)
                        if 0 <= index + 1 + insn.offset < count:
                            other = list(registers)
                            other[insn.dst] = there
                            waiting.append((index + 1 + insn.offset, other, dict(stack)))
                        registers[insn.dst] = here
                    else:
                        origin = told(left, right)
                        if origin is not None:
                            self.cuts[section, start + SIZE * index] = origin
                        if taken:
                            index += insn.offset
                else:
                    steps.take(code, index, registers, stack)
                    if opcode == LD_IMM64:
                        callee = code.callees.get(index)
                        if callee is not None:  # a callback: whoever gets its address calls it with anything
                            self._alone.append(callee)
                        index += 1
                index += 1
        self.alive.update((section, start + SIZE * index) for index in alive)
        if returned is None or type(returned) is StackAddress or returned in FRAMES:
            return ANY
        return returned

    def _arrived(
        self, seen: dict[int, list[_State]], index: int, registers: list[Value], stack: Stack
    ) -> _State | None:
        """Return the state to go on with where paths meet, None when that was looked at before."""
        state = _State(tuple(registers), stack)
        known = seen.setdefault(index, [])
        if any(_covers(old, state) for old in known):
            return None
        if len(known) < self._limit:
            known.append(_State(state.registers, dict(stack)))
            return state
        for old in known:
            state = _merged(old, state)
        # What was merged once stays one state, so that repeated merging comes to an end soon.
        known[:] = [state] * self._limit
        return state

    def _call(self, insn: Insn, callee: BpfFunction | None, registers: list[Value], stack: Stack, depth: int) -> Value:
        """Return what a call returns; forget of the stack what it may change."""
        passed = registers[1:6]
        if insn.src == PSEUDO_CALL:
            if any(v is ANY or type(v) is StackAddress for v in passed):
                stack.clear()
            if callee is None or callee.is_global:
                if callee is not None:
                    self._alone.append(callee)
                return OTHER
            return self._called(callee, tuple(_handed(v) for v in passed), depth + 1)
        filled = _FILLED.get(insn.imm, 0) if insn.src == 0 else 0
        for number, value in enumerate(passed, 1):
            if value is ANY or (type(value) is StackAddress and insn.src == PSEUDO_KFUNC_CALL):
                stack.clear()
            elif type(value) is StackAddress:
                if insn.imm in _CALLBACKS:
                    stack.clear()
                else:  # a helper writes upwards from the address it gets
                    size = passed[number] if number == filled else None
                    forget(stack, value.offset, value.offset + size if isinstance(size, int) else 1)
        return OTHER


def _handed(value: Value) -> Value:
    """Return what a callee knows of a value its caller passes."""
    return FOREIGN if value is ANY or type(value) is StackAddress else value


def _covers(old: _State, new: _State) -> bool:
    if old == new:
        return True
    for wide, narrow in zip(old.registers, new.registers, strict=True):
        if wide is not narrow and not covers(wide, narrow):
            return False
    return all(k in new.stack and covers(v, new.stack[k]) for k, v in old.stack.items())


def _merged(old: _State, new: _State) -> _State:
    registers = tuple(a if a is b else merged(a, b) for a, b in zip(old.registers, new.registers, strict=True))
    return _State(registers, {k: merged(v, new.stack[k]) for k, v in old.stack.items() if k in new.stack})
