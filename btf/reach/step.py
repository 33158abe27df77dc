"""One instruction that is no jump and no call: what is known of registers and stack afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from btf.objects.flow import successors
from btf.objects.insn import (
    ALU,
    ALU64,
    CLASS_MASK,
    LD,
    LD_IMM64,
    LDX,
    SIZE,
    SOURCE_REGISTER,
    ST,
    STX,
    Insn,
    heads,
)
from btf.objects.object import BpfFunction, BpfObject
from btf.reach.known import (
    ANY,
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
    low_bytes,
)
from btf.reach.memory import Memory
from btf.reach.verifier import Ability

Place = tuple[str, int]  # section, byte offset
Patches = Mapping[Place, tuple[Insn, ...]]
Stack = dict[tuple[int, int], Value]  # (offset, size) → what is there

_SIZES = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}
_ATOMIC, _MEM = 0xC0, 0x60
_FRAME = 512  # bytes of stack of one function: MAX_BPF_STACK
JA_REGISTER = 0x0D  # a jump through a table of places


class Shape:
    """Where a function's instructions lead, the same on every kernel."""

    __slots__ = ("anywhere", "before", "joins", "stretch")

    def __init__(self, function: BpfFunction) -> None:
        insns = function.instructions
        self.before: dict[int, list[int]] = {}  # index → those that may lead there
        for index, _ in heads(insns):
            for successor in successors(insns, index):
                self.before.setdefault(successor, []).append(index)
        # Where the straight code begins that leads to each index and nowhere else.
        self.stretch = list(range(len(insns)))
        leaves = {index for index, _ in heads(insns) if len(successors(insns, index)) != 1}
        for index, _ in heads(insns):
            earlier = self.before.get(index, ())
            if len(earlier) == 1 and earlier[0] < index and earlier[0] not in leaves and index:
                self.stretch[index] = self.stretch[earlier[0]]
        entered = {index for index, earlier in self.before.items() if len(earlier) > 1}
        self.joins = entered | ({0} if 0 in self.before else set())
        self.anywhere = any(insn.code == JA_REGISTER for insn in insns)  # a jump that may lead anywhere
        if self.anywhere:
            self.joins = set(range(len(insns)))


def shape_of(obj: BpfObject, function: BpfFunction) -> Shape:
    """Return the shape of a function of *obj*, worked out once."""
    return obj.remember(("shape", function.section, function.start), lambda: Shape(function))


class Code:
    """One function as the kernel gets it, with what its instructions name."""

    __slots__ = ("asked", "callees", "function", "insns", "loads", "shape")

    def __init__(self, obj: BpfObject, function: BpfFunction, patches: Patches, memory: Memory) -> None:
        self.function = function
        self.shape = shape_of(obj, function)
        self.insns = list(function.instructions)
        self.asked: dict[int, Origin] = {}  # instructions whose operand is a relocation's answer
        for place in _inside(function, patches):
            index, slots = (place[1] - function.start) // SIZE, patches[place]
            self.insns[index : index + len(slots)] = slots
            self.asked[index] = Origin("", "", *place)
        self.loads = {(r.insn - function.start) // SIZE: memory.address(r) for r in function.references}
        self.callees = {(c.insn - function.start) // SIZE: obj.by_start.get(c.callee) for c in function.calls}


def _inside(function: BpfFunction, patches: Patches) -> Iterable[Place]:
    """Return the places of *patches* in *function*; whichever is fewer is gone through."""
    if len(patches) <= len(function.instructions):
        return [place for place in patches if function.holds(*place)]
    every = ((function.section, at) for at in range(function.start, function.end, SIZE))
    return [place for place in every if place in patches]


def forget(stack: Stack, start: int, end: int) -> None:
    """Forget what is known of the stack from *start* to before *end*, and of the slots of 8 bytes that this is part of.

    The verifier knows one value per slot, and no more of it once a part is overwritten.
    """
    start, end = start & -8, (end + 7) & -8
    for offset, size in [k for k in stack if k[0] < end and k[0] + k[1] > start]:
        del stack[offset, size]


class Steps:
    """How the verifier follows one object's instructions on one kernel."""

    def __init__(self, memory: Memory, *, big_endian: bool) -> None:
        self.memory, self.able, self._big_endian = memory, memory.able, big_endian

    def take(self, code: Code, index: int, registers: list[Value], stack: Stack) -> None:
        """Change *registers* and *stack* as the instruction at *index* of *code* does."""
        insn = code.insns[index]
        opcode = insn.code
        cls = opcode & CLASS_MASK
        if cls in (ALU, ALU64):
            right = registers[insn.src] if opcode & SOURCE_REGISTER else insn.imm & U64
            if index in code.asked and type(right) is int:
                right = Told.by(code.asked[index], right)
            registers[insn.dst] = computed(insn, registers[insn.dst], right, self.able)
        elif cls == LDX:
            registers[insn.dst] = self._loaded(insn, registers[insn.src], stack)
        elif opcode == LD_IMM64:
            registers[insn.dst] = self._immediate(code, index)
        elif cls in (ST, STX):
            self._store(insn, registers, stack)
        elif cls == LD:  # a packet load: reads, calls nothing, sets r0
            registers[:6] = [NUMBER, *(OTHER,) * 5]

    def _immediate(self, code: Code, index: int) -> Value:
        insn = code.insns[index]
        if index in code.loads:
            return code.loads[index]
        if insn.src == 0 and index not in code.callees:
            following = code.insns[index + 1] if index + 1 < len(code.insns) else insn
            value = (insn.imm & 0xFFFFFFFF) | (following.imm & 0xFFFFFFFF) << 32
            return Told.by(code.asked[index], value) if index in code.asked else value
        return OTHER

    def _loaded(self, insn: Insn, base: Value, stack: Stack) -> Value:
        size = _SIZES[insn.code & 0x18]
        if insn.code & 0xE0 != _MEM:
            return NUMBER
        if type(base) is DataAddress:
            return self.memory.read(base.place, base.offset + insn.offset, size)
        if type(base) is StackAddress:
            offset = base.offset + insn.offset
            found = stack.get((offset, size))
            if found is not None:
                return found
            wider = stack.get((offset, 8)) if Ability.NARROW_FILL in self.able and not self._big_endian else None
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
            forget(stack, offset, offset + size)
            if not atomic:
                self._spill(insn, registers[insn.src] if insn.code & CLASS_MASK == STX else None, offset, size, stack)
        elif base is ANY:
            stack.clear()
        if atomic:
            registers[0] = registers[insn.src] = OTHER

    def _spill(self, insn: Insn, value: Value | None, offset: int, size: int, stack: Stack) -> None:
        """Remember what is stored as far as the verifier does."""
        if not -_FRAME <= offset < 0:  # the verifier refuses it
            return
        if value is None:
            value = insn.imm & U64 if Ability.STORE_CONSTANT in self.able else OTHER
        whole = size == 8 and offset % 8 == 0
        if (isinstance(value, int) and value != 0) or type(value) is Bounds:
            able = Ability.SPILL if whole else Ability.SHORT_SPILL
            if able not in self.able or offset % 8:
                return
            stack[offset, size] = value if whole else low_bytes(value, size)
        elif (value == 0 and isinstance(value, int)) or whole:
            stack[offset, size] = value
