"""What a verifier knows of a register: a constant, a bounded number, an address, or less; how instructions change it.

A number here is known in the verifier's sense: it knows it, too, on every path that leads to this point. So a branch
decided here is decided there; what is not decided here may still be.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from btf.objects.insn import ALU64, CLASS_MASK, JMP, SOURCE_REGISTER, Insn
from btf.reach.verifier import Ability

U64, U32 = (1 << 64) - 1, (1 << 32) - 1


class Origin(NamedTuple):
    """What a constant tells of: a relocation at byte ``insn`` of ``section`` (``kind`` empty), or a thing by name.

    ``kind`` is ``rodata``, ``kconfig`` or ``ksym``, and ``name`` the variable, option or symbol.
    """

    kind: str
    name: str
    section: str = ""
    insn: int = -1


class Told(int):
    """A constant whose origin is remembered; equal to the plain number."""

    origin: Origin

    @classmethod
    def by(cls, origin: Origin, value: int) -> Told:
        """Return *value* as told by *origin*."""
        told = cls(value)
        told.origin = origin
        return told


class Bounds(NamedTuple):
    """A number between two others, both included; neither has the highest of 64 bits."""

    low: int
    high: int


class StackAddress(NamedTuple):
    """An address in the stack frame of the function at hand, counted from the frame pointer."""

    offset: int


class DataAddress(NamedTuple):
    """An address in memory that is constant once loaded: byte ``offset`` of ``place``."""

    place: str
    offset: int


class Present(NamedTuple):
    """The address of the kernel symbol ``name``, which is there: not null."""

    name: str


class Vague(Enum):
    """What is known when no number is."""

    ANY = 0  # anything, also an address in this frame
    FOREIGN = 1  # anything, also an address in a caller's frame, but none in this one
    OTHER = 2  # a number, or an address outside every frame
    NUMBER = 3  # a number


ANY, FOREIGN, OTHER, NUMBER = Vague
WORD = Bounds(0, U32)

Value = int | Bounds | StackAddress | DataAddress | Present | Vague

_ADD, _SUB, _AND, _MOV = 0x00, 0x10, 0x50, 0xB0
_LSH, _RSH, _ARSH = _SHIFTS = 0x60, 0x70, 0xC0
_JEQ, _JSET, _JNE = 0x10, 0x40, 0x50
_SIGNED = frozenset({0x60, 0x70, 0xC0, 0xD0})
_ORDERINGS = _SIGNED | {0x20, 0x30, 0xA0, 0xB0}
FRAMES = (ANY, FOREIGN)


def merged(one: Value, other: Value) -> Value:
    """Return what is known where two paths meet. Repeated merging comes to an end: every step knows less, of few."""
    if one is other or one == other:
        return one
    if isinstance(one, int | Bounds) and isinstance(other, int | Bounds):
        return WORD if _within_word(one) and _within_word(other) else NUMBER
    if ANY in (one, other) or isinstance(one, StackAddress) or isinstance(other, StackAddress):
        return ANY
    if FOREIGN in (one, other):
        return FOREIGN
    return NUMBER if _is_number(one) and _is_number(other) else OTHER


def covers(wide: Value, narrow: Value) -> bool:
    """Whether everything that *narrow* may be, *wide* may be, too."""
    if type(wide) is Bounds and isinstance(narrow, int | Bounds):
        low, high = narrow if isinstance(narrow, Bounds) else (narrow, narrow)
        return wide.low <= low and high <= wide.high
    return merged(wide, narrow) == wide


def _within_word(value: int | Bounds) -> bool:
    return value.high <= U32 if isinstance(value, Bounds) else 0 <= value <= U32


def _is_number(value: Value) -> bool:
    return value is NUMBER or isinstance(value, int | Bounds)


def told(*values: Value) -> Origin | None:
    """Return what the first of *values* that tells of something tells of."""
    for value in values:
        if type(value) is Told:
            return value.origin
        if type(value) is Present:
            return Origin("ksym", value.name)
    return None


def signed(value: int, bits: int) -> int:
    """Return the low *bits* of *value* as a signed number."""
    sign = 1 << (bits - 1)
    return ((value & ((1 << bits) - 1)) ^ sign) - sign


def low_bytes(value: Value, size: int) -> Value:
    """Return *value* cut to its low *size* bytes, as a load or a 32-bit instruction extends it with zeros."""
    mask = (1 << 8 * size) - 1
    if isinstance(value, int):
        return _retold(value & mask, value)
    if isinstance(value, Bounds) and value.high <= mask:
        return value
    return Bounds(0, mask) if size <= 4 else NUMBER


def _retold(value: int, *sources: Value) -> int:
    """Return *value* with the origin of the first of *sources* that has one."""
    origin = told(*sources)
    return value if origin is None else Told.by(origin, value)


def computed(insn: Insn, left: Value, right: Value, able: frozenset[Ability]) -> Value:
    """Return what the destination of an ALU instruction is afterwards."""
    wide = insn.code & CLASS_MASK == ALU64
    operation = insn.code & 0xF0
    if operation == _MOV and not insn.offset:
        return right if wide else low_bytes(right, 4)
    if operation != _MOV and not insn.offset and isinstance(left, int) and isinstance(right, int):
        result = _arithmetic(operation, left, right, 64 if wide else 32, able)
        if result is not None:
            return _retold(result, left, right)
    if not wide:
        return WORD
    if operation in (_ADD, _SUB):
        return _moved(operation, left, right)
    if type(left) is Bounds and isinstance(right, int) and operation in _SHIFTS:
        return _shifted(operation, left, right, able)
    # The verifier refuses these on addresses, so what comes out is a number.
    return Bounds(0, right) if operation == _AND and isinstance(right, int) and right <= U32 else NUMBER


def _shifted(operation: int, left: Bounds, by: int, able: frozenset[Ability]) -> Value:
    """Return *left* shifted, as 32-bit numbers are to and fro where instructions know only 64 bits."""
    if by >= 64 or (operation == _ARSH and Ability.XOR not in able):
        return NUMBER
    if operation != _LSH:
        return Bounds(left.low >> by, left.high >> by)
    return Bounds(left.low << by, left.high << by) if left.high << by < 1 << 63 else NUMBER


def _moved(operation: int, left: Value, right: Value) -> Value:
    """Return the sum or difference of 64 bits, which may move an address."""
    for base, step in ((left, right), (right, left)) if operation == _ADD else ((left, right),):
        if isinstance(base, StackAddress | DataAddress) and isinstance(step, int):
            by = signed(step if operation == _ADD else -step, 64)
            return base._replace(offset=base.offset + by)
    if ANY in (left, right) or isinstance(left, StackAddress) or isinstance(right, StackAddress):
        return ANY
    if FOREIGN in (left, right):
        return FOREIGN
    return NUMBER if _is_number(left) and _is_number(right) else OTHER


def _arithmetic(operation: int, left: int, right: int, bits: int, able: frozenset[Ability]) -> int | None:
    """Return the result of *operation* on constants as far as the verifier computes it."""
    mask = (1 << bits) - 1
    a, b = left & mask, right & mask
    match operation:
        case 0x00:
            result = a + b
        case 0x10:
            result = a - b
        case 0x20:
            result = a * b
        case 0x40:
            result = a | b
        case 0x50:
            result = a & b
        case 0x60 if b < bits:
            result = a << b
        case 0x70 if b < bits:
            result = a >> b
        case 0xC0 if b < bits and Ability.XOR in able:  # the sign's shift went through some changes before
            result = signed(a, bits) >> b
        case 0xA0 if Ability.XOR in able:
            result = a ^ b
        case 0x80 if Ability.NEGATE in able:
            result = -a
        case _:
            return None
    return result & mask


def decided(insn: Insn, left: Value, right: Value, able: frozenset[Ability]) -> bool | None:
    """Return whether a conditional jump is taken, None when the verifier would look at both ways."""
    operation = insn.code & 0xF0
    wide = insn.code & CLASS_MASK == JMP
    equality = operation in (_JEQ, _JNE)
    if type(left) is Present:
        return operation == _JNE if equality and wide and right == 0 and isinstance(right, int) else None
    if not isinstance(right, int):
        if isinstance(left, int) and type(right) is Bounds and Ability.COMPARE_RANGES in able:
            return _beside(operation, left, right, 64 if wide else 32)
        return None
    if insn.code & SOURCE_REGISTER:
        if Ability.COMPARE_REGISTERS not in able:
            return None
    # A kernel that takes comparisons of 32 bits decides them, too: both came after this.
    elif Ability.COMPARE not in able and wide and not equality:
        return None
    if isinstance(left, int):
        return _compared(operation, left, right, 64 if wide else 32)
    if type(left) is Bounds and (Ability.COMPARE in able or not wide):
        return _beside(operation, left, right, 64 if wide else 32)
    return None


def _beside(operation: int, left: int | Bounds, right: int | Bounds, bits: int) -> bool | None:
    """Compare bounds with a number: the answer when both ends give the same one."""
    bounds = left if isinstance(left, Bounds) else right if isinstance(right, Bounds) else WORD
    if operation not in _ORDERINGS or bounds.high >= 1 << (bits - 1 if operation in _SIGNED else bits):
        return None
    answers = {
        _compared(operation, end if left is bounds else left, end if right is bounds else right, bits)  # type: ignore[arg-type]  # the other one is a number
        for end in bounds
    }
    return answers.pop() if len(answers) == 1 else None


def _compared(operation: int, left: int, right: int, bits: int) -> bool | None:
    mask = (1 << bits) - 1
    a, b = left & mask, right & mask
    match operation:
        case 0x10:
            return a == b
        case 0x20:
            return a > b
        case 0x30:
            return a >= b
        case 0x40:
            return bool(a & b)
        case 0x50:
            return a != b
        case 0x60:
            return signed(a, bits) > signed(b, bits)
        case 0x70:
            return signed(a, bits) >= signed(b, bits)
        case 0xA0:
            return a < b
        case 0xB0:
            return a <= b
        case 0xC0:
            return signed(a, bits) < signed(b, bits)
        case 0xD0:
            return signed(a, bits) <= signed(b, bits)
    return None


def narrowed(insn: Insn, left: Value, right: Value, able: frozenset[Ability]) -> tuple[Value, Value]:
    """Return what an undecided jump tells of its left operand: where it is taken, and where it is not."""
    if insn.code & 0xF0 == _JSET and type(left) is Bounds:
        # The verifier keeps which bits may be set, and may forget bounds between their powers of two.
        left = Bounds(0, (1 << left.high.bit_length()) - 1)
        return left, left
    if not isinstance(right, int) or not (left is NUMBER or type(left) is Bounds):
        return left, left
    wide = insn.code & CLASS_MASK == JMP
    if not wide and (left is NUMBER or (type(left) is Bounds and left.high > U32)):  # nothing of the upper half
        return left, left
    value = right & (U64 if wide else U32)
    # Older ones lost some of what a comparison of 32 bits tells of 64, and the other way about.
    bounds = left if isinstance(left, Bounds) and Ability.COMPARE_RANGES in able else None
    match insn.code & 0xF0:
        case 0x10:
            return value, left
        case 0x50:
            return left, value
        case 0x20 if bounds:
            return _between(bounds, value + 1, U64), _between(bounds, 0, value)
        case 0x30 if bounds:
            return _between(bounds, value, U64), _between(bounds, 0, value - 1)
        case 0xA0 if bounds:
            return _between(bounds, 0, value - 1), _between(bounds, value, U64)
        case 0xB0 if bounds:
            return _between(bounds, 0, value), _between(bounds, value + 1, U64)
    return left, left


def _between(bounds: Bounds, low: int, high: int) -> Value:
    low, high = max(bounds.low, low), min(bounds.high, high)
    return bounds if low > high else Bounds(low, high)
