"""What a path is worth to a relocation of one kind: an offset, a size, a shift, an enumerator's value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from btf.core.access import Path
from btf.core.compatible import Unrelocatable
from btf.format.kinds import Enum, Int
from btf.format.kinds import Kind as BtfKind
from btf.format.types import Btf
from btf.objects.extension import RelocationKind as Kind

U64 = (1 << 64) - 1
_U32 = (1 << 32) - 1  # libbpf counts bits in 32 bits, so a shift for a field larger than a register wraps there
_SIGN32 = 1 << 31


class Value(NamedTuple):
    """What an instruction gets. ``size`` and ``extends`` are those of the field that a load or store touches.

    ``certain`` is false where compiler and libbpf may compute another value for the same field (bitfields) or where a
    linker may have changed it (type ids); then the instruction's present value is not checked.
    ``extends``: ``pointer`` or ``unsigned``, when a smaller one becomes a larger one by zeroes.
    """

    number: int
    certain: bool = True
    size: int = 0
    extends: str = ""


class _Field(NamedTuple):
    """Where a field lies and how it is read: all offsets and sizes of the smallest load that covers it."""

    byte_offset: int
    byte_size: int
    bit_offset: int
    bit_size: int
    bitfield: bool
    type: int


FIELD_KINDS = frozenset({Kind.BYTE_OFF, Kind.BYTE_SZ, Kind.FIELD_EXISTS, Kind.SIGNED, Kind.LSHIFT_U64, Kind.RSHIFT_U64})
ENUMERATOR_KINDS = frozenset({Kind.ENUMVAL_EXISTS, Kind.ENUMVAL_VALUE})

# What a relocation is worth when the kernel has no such thing; kinds not named here poison the instruction.
ABSENT: Mapping[Kind, int] = {
    Kind.FIELD_EXISTS: 0,
    Kind.TYPE_EXISTS: 0,
    Kind.TYPE_MATCHES: 0,
    Kind.ENUMVAL_EXISTS: 0,
    Kind.TYPE_SIZE: 0,
    Kind.TARGET_TYPE_ID: 0,
}


def value_of(kind: Kind, path: Path, *, big_endian: bool) -> Value:
    """Return what *path* is worth to *kind* in an object of this byte order; raise Unrelocatable.

    The order is the object's, not that of the BTF: libbpf takes that of the machine it runs on, and opens no other's.
    """
    return _left_shift(path, big_endian=big_endian) if kind == Kind.LSHIFT_U64 else _VALUES[kind](path)


def _field(path: Path) -> _Field:
    """Measure the field *path* ends at."""
    btf, step = path.btf, path.last
    if step.name is None:
        raise Unrelocatable("EINVAL", f"{path.text()} is an array element, which has no such property")
    member = btf.member(step.type, step.at)
    id_ = btf.resolved(member.type)
    size = _sized(btf, id_)
    if member.bit_size == 0:
        return _Field(path.bit_offset // 8, size, path.bit_offset, size * 8, bitfield=False, type=id_)
    start = path.bit_offset // 8 // size * size if size else 0
    while path.bit_offset + member.bit_size - start * 8 > size * 8:
        if size >= 8 or size == 0:
            raise Unrelocatable("E2BIG", f"bitfield {path.text()} does not fit a 64-bit load")
        size *= 2
        start = path.bit_offset // 8 // size * size
    return _Field(start, size, path.bit_offset, member.bit_size, bitfield=True, type=id_)


def _sized(btf: Btf, id_: int) -> int:
    size = btf.size_of(id_)
    if size is None:
        raise Unrelocatable("EINVAL", f"{btf.text(id_)} has no size")
    return size


def _byte_offset(path: Path) -> Value:
    if path.last.name is None:
        id_ = path.last.type
        return Value(path.bit_offset // 8, size=_sized(path.btf, id_), extends=_extends(path.btf, id_))
    field = _field(path)
    if field.bitfield:
        return Value(field.byte_offset, certain=False)
    return Value(field.byte_offset, size=field.byte_size, extends=_extends(path.btf, field.type))


def _extends(btf: Btf, id_: int) -> str:
    kind = btf.kind_of(id_)
    if kind == BtfKind.INT:  # libbpf compares the whole encoding with "signed": a bool or char counts as unsigned
        return "unsigned" if btf.integer(id_)[0] != 1 else ""
    return "pointer" if kind == BtfKind.PTR else ""


def _signed(path: Path) -> Value:
    type_ = path.btf[_field(path).type]
    return Value(int(isinstance(type_, Int | Enum) and type_.signed))


def _byte_size(path: Path) -> Value:
    if path.last.name is None:
        return Value(_sized(path.btf, path.last.type))
    field = _field(path)
    return Value(field.byte_size, certain=not field.bitfield)


def _left_shift(path: Path, *, big_endian: bool) -> Value:
    field = _field(path)
    inside = field.bit_offset - field.byte_offset * 8
    shift = (8 - field.byte_size) * 8 + inside if big_endian else 64 - (inside + field.bit_size)
    return Value(shift & _U32, certain=not field.bitfield)


def _enumerator(path: Path) -> Value:
    type_ = path.btf[path.last.type]
    assert isinstance(type_, Enum)
    number = type_.values[path.last.at][1]
    if type_.kind == type_.kind.ENUM:  # libbpf widens a 32-bit value with its sign, even an unsigned one
        number = ((number & 0xFFFFFFFF) ^ _SIGN32) - _SIGN32
    return Value(number & U64)


_VALUES: Mapping[Kind, Callable[[Path], Value]] = {
    Kind.BYTE_OFF: _byte_offset,
    Kind.BYTE_SZ: _byte_size,
    Kind.FIELD_EXISTS: lambda _: Value(1),
    Kind.SIGNED: _signed,
    Kind.RSHIFT_U64: lambda path: Value(64 - _field(path).bit_size & _U32),
    Kind.LOCAL_TYPE_ID: lambda path: Value(path.root, certain=False),
    Kind.TARGET_TYPE_ID: lambda path: Value(path.root, certain=False),
    Kind.TYPE_EXISTS: lambda _: Value(1),
    Kind.TYPE_MATCHES: lambda _: Value(1),
    Kind.TYPE_SIZE: lambda path: Value(_sized(path.btf, path.root)),
    Kind.ENUMVAL_EXISTS: lambda _: Value(1),
    Kind.ENUMVAL_VALUE: _enumerator,
}
