"""Putting a relocation's value into its instruction, or poison; refuses what libbpf refuses. Knows sizes, no types."""

from __future__ import annotations

from btf.core.compatible import Unrelocatable
from btf.core.value import U64, Value
from btf.objects.insn import ALU, ALU64, CALL, CLASS_MASK, LD, LD_IMM64, LDX, SOURCE_REGISTER, ST, STX, Insn

POISON = Insn(CALL, 0, 0, 0, 0xBAD2310)  # no helper has this number: the verifier refuses it where it is reached

_SIZE_BITS = {4: 0x00, 2: 0x08, 1: 0x10, 8: 0x18}
_SIZE_MASK = 0x18
_SIZES = {bits: size for size, bits in _SIZE_BITS.items()}
_MAX_OFFSET = (1 << 15) - 1


def poison(insn: Insn, following: Insn | None) -> tuple[Insn, ...]:
    """Return what replaces *insn* (and its second slot, when it has one) where the kernel lacks what it names."""
    return (POISON, POISON) if insn.code == LD_IMM64 and following is not None else (POISON,)


def patch(insn: Insn, following: Insn | None, old: Value, new: Value, *, resizable: bool) -> tuple[Insn, ...]:
    """Return the relocated slots, or poison for a load or store of a field whose size changed and is not *resizable*.

    Raise Unrelocatable when *insn* does not hold *old*, or cannot hold *new*.
    """
    cls = insn.code & CLASS_MASK
    if cls in (ALU, ALU64) and not insn.code & SOURCE_REGISTER:
        _expect(insn.imm, old, "operand")
        return (insn._replace(imm=_signed32(new.number)),)
    if cls in (LDX, ST, STX):
        _expect(insn.offset, old, "offset")
        if new.number > _MAX_OFFSET:
            raise Unrelocatable("ERANGE", f"offset {new.number} does not fit a load or store")
        if not resizable:
            return (POISON,)
        return (_resized(insn._replace(offset=new.number), old.size, new.size),)
    if cls == LD:
        if insn.code != LD_IMM64 or insn.src or insn.offset or following is None or following[:4] != (0, 0, 0, 0):
            raise Unrelocatable("EINVAL", "the 64-bit load has an unexpected form")
        _expect((insn.imm & 0xFFFFFFFF) | following.imm << 32, old, "operand")
        return insn._replace(imm=_signed32(new.number)), following._replace(imm=_signed32(new.number >> 32))
    raise Unrelocatable("EINVAL", f"instruction 0x{insn.code:02x} cannot be relocated")


def _expect(present: int, old: Value, what: str) -> None:
    if old.certain and present & U64 != old.number:
        raise Unrelocatable("EINVAL", f"the instruction's {what} is {present}, the object's types say {old.number}")


def _resized(insn: Insn, old: int, new: int) -> Insn:
    if old == new:
        return insn
    present = _SIZES[insn.code & _SIZE_MASK]
    if present != old:
        raise Unrelocatable("EINVAL", f"the instruction moves {present} bytes, the object's types say {old}")
    if new not in _SIZE_BITS:
        raise Unrelocatable("EINVAL", f"no load or store moves {new} bytes")
    return insn._replace(code=insn.code & ~_SIZE_MASK | _SIZE_BITS[new])


def _signed32(number: int) -> int:
    return ((number & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000
