"""Which instructions a kernel's verifier would look at after relocation: what it proves dead may hold poison.

Follows what is known (:mod:`btf.known`) through registers and stack, call by call: a static function with what its
caller passes, a global one knowing nothing. A first pass merges what is known where paths meet; a second one keeps a
few states apart, as the verifier does, and is asked only where the first finds poison alive. So this may call dead
code alive, never live code dead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from btf.flow import successors
from btf.insn import (
    ALU,
    ALU64,
    CALL,
    CLASS_MASK,
    EXIT,
    JA,
    JA32,
    JMP,
    JMP32,
    LD,
    LD_IMM64,
    LDX,
    PSEUDO_CALL,
    PSEUDO_KFUNC_CALL,
    SIZE,
    SOURCE_REGISTER,
    ST,
    STX,
    Insn,
    heads,
)
from btf.known import (
    ANY,
    FOREIGN,
    FRAMES,
    NUMBER,
    OTHER,
    U64,
    Bounds,
    DataAddress,
    Origin,
    StackAddress,
    Told,
    Value,
    computed,
    covers,
    decided,
    low_bytes,
    merged,
    narrowed,
    told,
)
from btf.memory import Memory
from btf.object import BpfFunction, BpfObject, BpfProgram
from btf.verifier import Ability

Place = tuple[str, int]  # section, byte offset
Patches = Mapping[Place, tuple[Insn, ...]]

_SIZES = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}
_ATOMIC, _MEM = 0xC0, 0x60
_MAX_STATES = 8  # kept apart at one instruction before they are merged
_MAX_CONTEXTS = 8  # in which one function is looked at before nothing is known of what callers pass
_MAX_DEPTH = 16  # calls in calls; the kernel refuses more than 8
_MAX_STEPS = 1 << 17  # of one program, then everything counts as alive
_JA_REGISTER = 0x0D
_CALLBACKS = frozenset({164, 170, 180, 181, 209})  # helpers that call back: for_each_map_elem, timer_set_callback, …

# helper: the argument that is a buffer it fills; the one behind it is the buffer's size
_FILLED = {4: 1, 16: 1, 45: 1, 112: 1, 113: 1, 114: 1, 115: 1}  # the probe_read family, get_current_comm

Stack = dict[tuple[int, int], Value]  # (offset, size) → what is there


class _State(NamedTuple):
    registers: tuple[Value, ...]
    stack: Stack


class _Code:
    """One function, patched, with what the walk asks of each instruction."""

    __slots__ = ("asked", "callees", "function", "insns", "joins", "loads")

    def __init__(self, obj: BpfObject, function: BpfFunction, patches: Patches, memory: Memory) -> None:
        self.function = function
        insns = list(function.instructions)
        self.asked: dict[int, Origin] = {}  # instructions whose operand is a relocation's answer
        for index in range(len(insns)):
            place = function.section, function.start + SIZE * index
            if place in patches:
                for number, slot in enumerate(patches[place]):
                    insns[index + number] = slot
                self.asked[index] = Origin("", "", *place)
        self.insns = insns
        into = [0] * (len(insns) + 1)
        for index, _ in heads(insns):
            for successor in successors(insns, index):
                if 0 <= successor < len(insns):
                    into[successor] += 1
        self.joins = {index for index, count in enumerate(into) if count > 1}
        self.loads = {(r.insn - function.start) // SIZE: memory.address(r) for r in function.references}
        self.callees = {(c.insn - function.start) // SIZE: obj.by_start.get(c.callee) for c in function.calls}


class Walk:
    """What one program's verification looks at. ``alive``: the instructions; ``cuts``: what decided a branch."""

    def __init__(
        self,
        obj: BpfObject,
        program: BpfProgram,
        patches: Patches,
        memory: Memory,
        able: frozenset[Ability],
        *,
        apart: bool = False,
    ) -> None:
        self._obj, self._patches, self._memory, self._able = obj, patches, memory, able
        self._limit = _MAX_STATES if apart else 1
        self._codes: dict[Place, _Code] = {}
        self._results: dict[tuple[Place, tuple[Value, ...]], Value] = {}
        self._contexts: dict[Place, int] = {}
        self._steps = 0
        self._alone = [program.function]  # to be looked at knowing nothing of who calls it
        self.alive: set[Place] = set()
        self.cuts: dict[Place, Origin] = {}
        self._called(program.function, (OTHER,) * 5, 0)
        if Ability.LAZY_GLOBALS not in able:
            self._alone += [f for f in program.subprograms if f.is_global]
        while self._alone:
            self._called(self._alone.pop(), (FOREIGN,) * 5, 0)
        if self._steps > _MAX_STEPS:
            self.alive = {
                (f.section, f.start + SIZE * n) for f in program.functions for n in range(len(f.instructions))
            }
            self.cuts = {}

    def _code(self, function: BpfFunction) -> _Code:
        place = function.section, function.start
        if place not in self._codes:
            self._codes[place] = _Code(self._obj, function, self._patches, self._memory)
        return self._codes[place]

    def instructions(self, function: BpfFunction) -> list[Insn]:
        """Return the instructions of *function* as the kernel gets them."""
        return self._code(function).insns

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

    def _walk(self, code: _Code, passed: tuple[Value, ...], depth: int) -> Value:
        insns, joins, able = code.insns, code.joins, self._able
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
            self._steps += 1
            if self._steps > _MAX_STEPS:
                break
            while 0 <= index < count:
                if index in joins:
                    state = self._arrived(seen, index, registers, stack)
                    if state is None:
                        break
                    registers, stack = list(state.registers), dict(state.stack)
                alive.add(index)
                insn = insns[index]
                opcode = insn.code
                cls = opcode & CLASS_MASK
                if cls in (ALU, ALU64):
                    right = registers[insn.src] if opcode & SOURCE_REGISTER else insn.imm & U64
                    if index in code.asked and type(right) is int:
                        right = Told.by(code.asked[index], right)
                    registers[insn.dst] = computed(insn, registers[insn.dst], right, able)
                elif cls == LDX:
                    registers[insn.dst] = self._loaded(insn, registers[insn.src], stack)
                elif opcode == LD_IMM64:
                    registers[insn.dst] = self._immediate(code, index)
                    index += 1
                elif cls in (ST, STX):
                    self._store(insn, registers, stack)
                elif opcode == EXIT:
                    returned = registers[0] if returned is None else merged(returned, registers[0])
                    break
                elif opcode == CALL:
                    callee = code.callees.get(index) if insn.src == PSEUDO_CALL else None
                    registers[:6] = [self._call(insn, callee, registers, stack, depth), *(OTHER,) * 5]
                elif opcode == _JA_REGISTER:  # through a table of places: any of them
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
                elif cls == LD:  # a packet load: reads, calls nothing, sets r0
                    registers[:6] = [NUMBER, *(OTHER,) * 5]
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

    def _immediate(self, code: _Code, index: int) -> Value:
        insn = code.insns[index]
        if index in code.loads:
            return code.loads[index]
        callee = code.callees.get(index)
        if callee is not None:  # a callback: whoever gets its address calls it with anything
            self._alone.append(callee)
        elif insn.src == 0:
            following = code.insns[index + 1] if index + 1 < len(code.insns) else insn
            value = (insn.imm & 0xFFFFFFFF) | (following.imm & 0xFFFFFFFF) << 32
            return Told.by(code.asked[index], value) if index in code.asked else value
        return OTHER

    def _loaded(self, insn: Insn, base: Value, stack: Stack) -> Value:
        size = _SIZES[insn.code & 0x18]
        if insn.code & 0xE0 != _MEM:
            return NUMBER
        if type(base) is DataAddress:
            return self._memory.read(base.place, base.offset + insn.offset, size)
        if type(base) is StackAddress:
            offset = base.offset + insn.offset
            found = stack.get((offset, size))
            if found is not None:
                return found
            wider = stack.get((offset, 8)) if Ability.NARROW_FILL in self._able and not self._obj.big_endian else None
            if isinstance(wider, int) and size < 8:
                return low_bytes(wider, size)
        if size < 8:
            return low_bytes(NUMBER, size)
        return base if base in FRAMES else ANY if type(base) is StackAddress else OTHER

    def _store(self, insn: Insn, registers: list[Value], stack: Stack) -> None:
        base, size = registers[insn.dst], _SIZES[insn.code & 0x18]
        atomic = insn.code & CLASS_MASK == STX and insn.code & 0xE0 == _ATOMIC
        if type(base) is StackAddress:
            offset = base.offset + insn.offset
            _forget(stack, offset, offset + size)
            if not atomic:
                self._spill(insn, registers[insn.src] if insn.code & CLASS_MASK == STX else None, offset, size, stack)
        elif base is ANY:
            stack.clear()
        if atomic:
            registers[0] = registers[insn.src] = OTHER

    def _spill(self, insn: Insn, value: Value | None, offset: int, size: int, stack: Stack) -> None:
        """Remember what is stored as far as the verifier does."""
        if value is None:
            value = insn.imm & U64 if Ability.STORE_CONSTANT in self._able else OTHER
        whole = size == 8 and offset % 8 == 0
        if (isinstance(value, int) and value != 0) or type(value) is Bounds:
            able = Ability.SPILL if whole else Ability.SHORT_SPILL
            if able not in self._able or offset % 8:
                return
            stack[offset, size] = value if whole else low_bytes(value, size)
        elif (value == 0 and isinstance(value, int)) or whole:
            stack[offset, size] = value

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
                    _forget(stack, value.offset, value.offset + size if isinstance(size, int) else 1)
        return OTHER


def _handed(value: Value) -> Value:
    """Return what a callee knows of a value its caller passes."""
    return FOREIGN if value is ANY or type(value) is StackAddress else value


def _forget(stack: Stack, start: int, end: int) -> None:
    for offset, size in [k for k in stack if k[0] < end and k[0] + k[1] > start]:
        del stack[offset, size]


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
