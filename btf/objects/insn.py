"""BPF instructions: eight bytes between their fields, and what one instruction needs of a kernel. Follows no flow."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

SIZE = 8

# The three low bits of the opcode.
LD, LDX, ST, STX, ALU, JMP, JMP32, ALU64 = range(8)
CLASS_MASK = 0x07

LD_IMM64 = 0x18  # the only instruction of two slots
CALL, EXIT, JA, JA32 = 0x85, 0x95, 0x05, 0x06
SOURCE_REGISTER = 0x08  # the second operand of ALU and JMP is a register
PSEUDO_CALL, PSEUDO_KFUNC_CALL = 1, 2  # source register of CALL: a function of this object, a kernel function
PSEUDO_FUNC = 4  # source register of LD_IMM64: the address of a function of this object

_ATOMIC, _MEMSX = 0xC0, 0x80  # addressing modes in the three high bits of a load or store
_MODE_MASK = 0xE0
_OPERATION_MASK = 0xF0
_JUMPS_V2 = frozenset({0xA0, 0xB0, 0xC0, 0xD0})  # < and <=, unsigned and signed
_DIV, _MOV, _MOD, _END = 0x30, 0xB0, 0x90, 0xD0
_LOAD_ACQUIRE, _STORE_RELEASE = 0x100, 0x110
_ATOMIC_ADD = 0x00  # without the fetch bit: what v1 called XADD


class Insn(NamedTuple):
    """One slot. ``offset`` and ``imm`` are signed, as the kernel reads them."""

    code: int
    dst: int
    src: int
    offset: int
    imm: int

    @property
    def is_call(self) -> bool:
        """Whether this calls a helper, by ``imm``."""
        return self.code == CALL and self.src == 0


def decode_insns(code: bytes, *, big_endian: bool = False) -> tuple[Insn, ...]:
    """Return the instructions of *code*; a rest shorter than an instruction is left out."""
    order = ">" if big_endian else "<"
    rows = struct.iter_unpack(f"{order}BBhi", code[: len(code) - len(code) % SIZE])
    if big_endian:
        return tuple(Insn(c, r >> 4, r & 15, o, i) for c, r, o, i in rows)
    return tuple(Insn(c, r & 15, r >> 4, o, i) for c, r, o, i in rows)


def heads(insns: Sequence[Insn]) -> Iterator[tuple[int, Insn]]:
    """Yield (index, instruction), passing over the second slots of 64-bit loads."""
    index = 0
    while index < len(insns):
        insn = insns[index]
        yield index, insn
        index += 2 if insn.code == LD_IMM64 else 1


def is_atomic(insn: Insn) -> bool:
    """Whether this changes memory atomically; ``imm`` says how, 0 is to add without fetching, which v1 has."""
    return insn.code & CLASS_MASK == STX and insn.code & _MODE_MASK == _ATOMIC


def isa_level(insn: Insn) -> int:
    """Return the lowest instruction-set version (1 to 4) that has *insn*. Since Linux v4.14 (2), v5.1 (3), v6.6 (4)."""
    code, cls = insn.code, insn.code & CLASS_MASK
    operation = code & _OPERATION_MASK
    if cls == LDX:
        return 4 if code & _MODE_MASK == _MEMSX else 1
    if cls == STX and code & _MODE_MASK == _ATOMIC:
        if insn.imm in (_LOAD_ACQUIRE, _STORE_RELEASE):
            return 4
        return 1 if insn.imm == _ATOMIC_ADD else 3
    if cls in (ALU, ALU64):
        signed = operation in (_DIV, _MOD) and insn.offset == 1
        extending = operation == _MOV and insn.offset != 0
        return 4 if signed or extending or (operation == _END and cls == ALU64) else 1
    if cls == JMP32:
        return 4 if code == JA32 else 3
    if cls == JMP:
        return 2 if operation in _JUMPS_V2 else 1
    return 1
