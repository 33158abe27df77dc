"""Which instructions a kernel could reach after relocation: what it proves dead may hold poison and does no harm.

Follows constants through registers and stack slots, one value per place and register; where two paths meet with
different values, nothing is known. So this may call dead code alive, never live code dead, as long as the verifier
follows constants at least as well (it does, path by path).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

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
    SIZE,
    SOURCE_REGISTER,
    ST,
    STX,
    Insn,
)
from btf.object import BpfFunction, BpfObject

_U64 = (1 << 64) - 1
_U32 = (1 << 32) - 1
_STACK = 10  # the frame pointer
_WHOLE_WORD = 0x7B, 0x79, 0x7A  # store a register, load, store a constant: all 64 bits


class _State(NamedTuple):
    """What is known before an instruction: a constant or None per register, constants by stack offset."""

    registers: tuple[int | None, ...]
    stack: Mapping[int, int]


_ENTRY = _State((None,) * 16, {})  # the encoding has room for 16; the kernel refuses those past r10


def reached(obj: BpfObject, patches: Mapping[tuple[str, int], tuple[Insn, ...]]) -> set[tuple[str, int]]:
    """Return the (section, byte offset) of every instruction that may run in some program of *obj* once patched."""
    alive: set[tuple[str, int]] = set()
    waiting = [p.function for p in obj.programs]
    seen = {(f.section, f.start) for f in waiting}
    while waiting:
        function = waiting.pop()
        insns = _patched(function, patches)
        for index in _walk(insns):
            alive.add((function.section, function.start + SIZE * index))
        for call in function.calls:
            if (function.section, call.insn) in alive and call.callee not in seen and call.callee in obj.by_start:
                seen.add(call.callee)
                waiting.append(obj.by_start[call.callee])
    return alive


def _patched(function: BpfFunction, patches: Mapping[tuple[str, int], tuple[Insn, ...]]) -> list[Insn]:
    insns = list(function.instructions)
    for index in range(len(insns)):
        for number, slot in enumerate(patches.get((function.section, function.start + SIZE * index), ())):
            insns[index + number] = slot
    return insns


def _walk(insns: list[Insn]) -> set[int]:
    """Return the indices reached from the first instruction."""
    states: dict[int, _State] = {0: _ENTRY}
    waiting = [0]
    while waiting:
        index = waiting.pop()
        for successor, state in _step(insns, index, states[index]):
            if not 0 <= successor < len(insns):
                continue
            known = states.get(successor)
            merged = state if known is None else _meet(known, state)
            if merged != known:
                states[successor] = merged
                waiting.append(successor)
    return set(states)


def _meet(one: _State, other: _State) -> _State:
    registers = tuple(a if a == b else None for a, b in zip(one.registers, other.registers, strict=True))
    return _State(registers, {k: v for k, v in one.stack.items() if other.stack.get(k) == v})


def _step(insns: list[Insn], index: int, state: _State) -> list[tuple[int, _State]]:
    """Return the places after one instruction, with what is known there."""
    insn = insns[index]
    cls, registers = insn.code & CLASS_MASK, state.registers
    if insn.code == LD_IMM64:
        following = insns[index + 1] if index + 1 < len(insns) else insn
        # A source register other than 0 stands for a map, a function or a variable: an address nobody knows yet.
        value = (insn.imm & _U32) | (following.imm & _U32) << 32 if insn.src == 0 else None
        return [(index + 2, _set(state, insn.dst, value))]
    if insn.code == EXIT:
        return []
    if insn.code in (JA, JA32):
        return [(index + 1 + (insn.imm if insn.code == JA32 else insn.offset), state)]
    if insn.code == CALL:
        return [(index + 1, _State((None,) * 6 + registers[6:], {}))]
    if cls in (JMP, JMP32):
        return _branch(insn, index, state)
    if cls in (ALU, ALU64):
        operand = registers[insn.src] if insn.code & SOURCE_REGISTER else insn.imm & _U64
        return [(index + 1, _set(state, insn.dst, _compute(insn, registers[insn.dst], operand)))]
    return [(index + 1, _memory(insn, cls, state))]


def _memory(insn: Insn, cls: int, state: _State) -> _State:
    store, load, store_constant = _WHOLE_WORD
    if cls == LDX:
        known = state.stack.get(insn.offset) if insn.code == load and insn.src == _STACK else None
        return _set(state, insn.dst, known)
    if cls in (ST, STX):
        if insn.dst == _STACK and insn.code in (store, store_constant):
            value = state.registers[insn.src] if insn.code == store else insn.imm & _U64
            stack = {k: v for k, v in state.stack.items() if abs(k - insn.offset) >= 8}
            return state._replace(stack=stack if value is None else {**stack, insn.offset: value})
        # Through another register it may be the stack, too; an atomic may also write a register.
        registers = state.registers if cls == ST else _atomic(insn, state.registers)
        return _State(registers, {})
    return _State((None,) * 6 + state.registers[6:], state.stack) if cls == LD else state


def _atomic(insn: Insn, registers: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """Return the registers after a store, which an atomic one may have changed."""
    if insn.code & 0xE0 != 0xC0:
        return registers
    return tuple(None if n in (0, insn.src) else r for n, r in enumerate(registers))


def _set(state: _State, register: int, value: int | None) -> _State:
    registers = list(state.registers)
    registers[register] = value
    return state._replace(registers=tuple(registers))


def _compute(insn: Insn, left: int | None, right: int | None) -> int | None:
    """Return the result of an ALU instruction on constants, or None."""
    wide = insn.code & CLASS_MASK == ALU64
    bits, mask = (64, _U64) if wide else (32, _U32)
    operation = insn.code & 0xF0
    if right is None or insn.offset:
        return None
    if operation == 0xB0:
        return right & mask
    if left is None:
        return None
    a, b = left & mask, right & mask
    results = {
        0x00: a + b,
        0x10: a - b,
        0x20: a * b,
        0x40: a | b,
        0x50: a & b,
        0x60: a << (b & (bits - 1)),
        0x70: a >> (b & (bits - 1)),
        0x80: -a,
        0xA0: a ^ b,
        0xC0: _signed(a, bits) >> (b & (bits - 1)),
    }
    result = results.get(operation)
    return None if result is None else result & mask


def _signed(value: int, bits: int) -> int:
    sign = 1 << (bits - 1)
    return (value ^ sign) - sign


def _branch(insn: Insn, index: int, state: _State) -> list[tuple[int, _State]]:
    wide = insn.code & CLASS_MASK == JMP
    bits, mask = (64, _U64) if wide else (32, _U32)
    left = state.registers[insn.dst]
    right = state.registers[insn.src] if insn.code & SOURCE_REGISTER else insn.imm & _U64
    operation = insn.code & 0xF0
    taken, passed = (index + 1 + insn.offset, state), (index + 1, state)
    if left is not None and right is not None:
        a, b = left & mask, right & mask
        sa, sb = _signed(a, bits), _signed(b, bits)
        truth = {
            0x10: a == b, 0x20: a > b, 0x30: a >= b, 0x40: bool(a & b), 0x50: a != b, 0x60: sa > sb, 0x70: sa >= sb,
            0xA0: a < b, 0xB0: a <= b, 0xC0: sa < sb, 0xD0: sa <= sb,
        }.get(operation)  # fmt: skip
        if truth is not None:
            return [taken] if truth else [passed]
    if wide and right is not None and left is None:
        equal = _set(state, insn.dst, right & _U64)
        if operation == 0x10:
            return [(taken[0], equal), passed]
        if operation == 0x50:
            return [taken, (passed[0], equal)]
    return [taken, passed]
