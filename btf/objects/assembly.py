"""Instructions as text, in the pseudo-C of the LLVM disassembler: ``r1 = *(u64 *)(r1 + 8)``. Reads, decides nothing."""

from __future__ import annotations

from collections.abc import Sequence

from btf.objects.insn import (
    ALU,
    ALU64,
    CALL,
    CLASS_MASK,
    EXIT,
    JA,
    JA32,
    JMP32,
    LD,
    LD_IMM64,
    LDX,
    SOURCE_REGISTER,
    ST,
    STX,
    Insn,
)

_OPERATORS = {
    0x00: "+=", 0x10: "-=", 0x20: "*=", 0x30: "/=", 0x40: "|=", 0x50: "&=", 0x60: "<<=", 0x70: ">>=", 0x90: "%=",
    0xA0: "^=", 0xB0: "=", 0xC0: "s>>=",
}  # fmt: skip
_COMPARISONS = {
    0x10: "==", 0x20: ">", 0x30: ">=", 0x40: "&", 0x50: "!=", 0x60: "s>", 0x70: "s>=", 0xA0: "<", 0xB0: "<=",
    0xC0: "s<", 0xD0: "s<=",
}  # fmt: skip
_ATOMICS = {0x00: ("+=", "add"), 0x40: ("|=", "or"), 0x50: ("&=", "and"), 0xA0: ("^=", "xor")}
_BITS = {0x00: 32, 0x08: 16, 0x10: 8, 0x18: 64}
_FETCH, _XCHG, _CMPXCHG, _LOAD_ACQUIRE, _STORE_RELEASE = 0x01, 0xE1, 0xF1, 0x100, 0x110
_ABS, _IND, _MEM, _MEMSX, _ATOMIC = 0x20, 0x40, 0x60, 0x80, 0xC0
_NEG, _MOV, _END, _DIV, _MOD = 0x80, 0xB0, 0xD0, 0x30, 0x90
_MAY_GOTO = 0xE5
_ADDRESS_SPACE_CAST = 1  # the offset of a MOV that changes the address space


def text(insns: Sequence[Insn], index: int) -> str:
    """Return the instruction at *index* as one line; ``unknown 0x..`` for bytes that are none."""
    insn = insns[index]
    cls = insn.code & CLASS_MASK
    if insn.code == LD_IMM64:
        high = insns[index + 1].imm if index + 1 < len(insns) else 0
        return f"r{insn.dst} = {_wide(insn.imm, high)} ll"
    if cls in (ALU, ALU64):
        said = _alu(insn, wide=cls == ALU64)
    elif cls == LDX:
        said = _load(insn)
    elif cls == LD:
        said = _packet(insn)
    elif cls in (ST, STX):
        said = _store(insn)
    else:
        said = _jump(insn)
    return said or f"unknown 0x{insn.code:02x}"


def _wide(low: int, high: int) -> int:
    value = (low & 0xFFFFFFFF) | (high & 0xFFFFFFFF) << 32
    return value - (1 << 64) if value >> 63 else value


def _alu(insn: Insn, *, wide: bool) -> str:
    name = "r" if wide else "w"
    left, operation, register = f"{name}{insn.dst}", insn.code & 0xF0, insn.code & SOURCE_REGISTER
    right = f"{name}{insn.src}" if register else str(insn.imm)
    if operation == _END:
        way = "bswap" if wide else "be" if register else "le"
        return f"r{insn.dst} = {way}{insn.imm} r{insn.dst}"
    if operation == _NEG:
        return f"{left} = -{left}"
    if operation == _MOV and register and insn.offset == _ADDRESS_SPACE_CAST and insn.imm:
        return f"{left} = addr_space_cast({right}, {insn.imm & 0xFFFF}, {insn.imm >> 16 & 0xFFFF})"
    if operation == _MOV and insn.offset:
        return f"{left} = (s{insn.offset}){right}"
    operator = _OPERATORS.get(operation, "")
    if operation in (_DIV, _MOD) and insn.offset == 1:
        operator = f"s{operator}"
    return f"{left} {operator} {right}" if operator else ""


def _place(register: int, offset: int) -> str:
    return f"r{register} {'-' if offset < 0 else '+'} {abs(offset)}"


def _load(insn: Insn) -> str:
    sign = {_MEM: "u", _MEMSX: "s"}.get(insn.code & 0xE0)
    return f"r{insn.dst} = *({sign}{_BITS[insn.code & 0x18]} *)({_place(insn.src, insn.offset)})" if sign else ""


def _packet(insn: Insn) -> str:
    where = {_ABS: str(insn.imm), _IND: f"r{insn.src}"}.get(insn.code & 0xE0)
    return f"r0 = *(u{_BITS[insn.code & 0x18]} *)skb[{where}]" if where else ""


def _store(insn: Insn) -> str:
    bits, where = _BITS[insn.code & 0x18], _place(insn.dst, insn.offset)
    if insn.code & 0xE0 == _MEM:
        return f"*(u{bits} *)({where}) = {insn.imm if insn.code & CLASS_MASK == ST else f'r{insn.src}'}"
    if insn.code & 0xE0 != _ATOMIC or insn.code & CLASS_MASK == ST:
        return ""
    name = "r" if bits == 64 else "w"
    if insn.imm == _LOAD_ACQUIRE:
        return f"{name}{insn.dst} = load_acquire((u{bits} *)({_place(insn.src, insn.offset)}))"
    if insn.imm == _STORE_RELEASE:
        return f"store_release((u{bits} *)({where}), {name}{insn.src})"
    short = "" if bits == 64 else "32"
    if insn.imm == _XCHG:
        return f"{name}{insn.src} = xchg{short}_{bits}({where}, {name}{insn.src})"
    if insn.imm == _CMPXCHG:
        return f"{name}0 = cmpxchg{short}_{bits}({where}, {name}0, {name}{insn.src})"
    operator, word = _ATOMICS.get(insn.imm & ~_FETCH, ("", ""))
    if insn.imm & _FETCH and word:
        return f"{name}{insn.src} = atomic_fetch_{word}((u{bits} *)({where}), {name}{insn.src})"
    return f"lock *(u{bits} *)({where}) {operator} r{insn.src}" if operator else ""


def _jump(insn: Insn) -> str:
    if insn.code == EXIT:
        return "exit"
    if insn.code == CALL:
        return f"call {insn.imm}"
    if insn.code in (JA, JA32):
        return f"gotol {insn.imm:+d}" if insn.code == JA32 else f"goto {insn.offset:+d}"
    if insn.code == _MAY_GOTO:
        return f"may_goto {insn.offset:+d}"
    operator = _COMPARISONS.get(insn.code & 0xF0)
    if operator is None:
        return ""
    name = "w" if insn.code & CLASS_MASK == JMP32 else "r"
    right = f"{name}{insn.src}" if insn.code & SOURCE_REGISTER else str(insn.imm)
    return f"if {name}{insn.dst} {operator} {right} goto {insn.offset:+d}"
