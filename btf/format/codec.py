"""One BTF record between its words and its dataclass, both ways; it knows nothing of headers or of other records."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

from btf.format.kinds import (
    Array,
    BtfType,
    Composite,
    Const,
    Datasec,
    DeclTag,
    Enum,
    Enum64,
    Float,
    Func,
    FuncProto,
    Fwd,
    Int,
    Kind,
    Member,
    Ptr,
    Reference,
    Restrict,
    Struct,
    Typedef,
    TypeTag,
    Union,
    Unknown,
    Var,
    Volatile,
)

# The info word: vlen in the low bits, then the kind, then kind_flag. Bits 16-23, 29 and 30 were unused and zero before
# vlen grew to 24 bits and the kind to 7, so the wide reading is right for both.
VLEN_MASK = 0xFFFFFF
KIND_SHIFT = 24
KIND_MASK = 0x7F
KIND_FLAG = 1 << 31

_SIGN32 = 1 << 31
_SIGN64 = 1 << 63

_REFERENCES: dict[int, type[Reference]] = {
    Kind.PTR: Ptr,
    Kind.TYPEDEF: Typedef,
    Kind.VOLATILE: Volatile,
    Kind.CONST: Const,
    Kind.RESTRICT: Restrict,
    Kind.TYPE_TAG: TypeTag,
}


def decode(id_: int, words: array[int], at: int, text: Callable[[int], str]) -> BtfType:
    """Return the record at word *at*, which must lie inside *words*; *text* turns a string offset into a string."""
    info, third = words[at + 1], words[at + 2]
    kind, vlen, flag = info >> KIND_SHIFT & KIND_MASK, info & VLEN_MASK, bool(info & KIND_FLAG)
    name = text(words[at])
    at += 3
    if (reference := _REFERENCES.get(kind)) is not None:
        return reference(id_, name, third)
    if kind in (Kind.STRUCT, Kind.UNION):
        flat = words[at : at + 3 * vlen]
        rows = zip(flat[0::3], flat[1::3], flat[2::3], strict=True)
        if flag:
            members = tuple(Member(text(n), t, o & 0xFFFFFF, o >> 24) for n, t, o in rows)
        else:
            members = tuple(Member(text(n), t, o) for n, t, o in rows)
        return (Struct if kind == Kind.STRUCT else Union)(id_, name, third, members, flag)
    if kind == Kind.FUNC:
        return Func(id_, name, third, vlen)
    if kind == Kind.INT:
        word = words[at]
        return Int(id_, name, third, word >> 24 & 0xF, word >> 16 & 0xFF, word & 0xFF)
    if kind == Kind.ARRAY:
        return Array(id_, name, words[at], words[at + 1], words[at + 2])
    if kind == Kind.ENUM:
        low = words[at + 1 : at + 2 * vlen : 2]
        values = ((v ^ _SIGN32) - _SIGN32 for v in low) if flag else iter(low)
        return Enum(id_, name, third, flag, tuple(zip(map(text, words[at : at + 2 * vlen : 2]), values, strict=True)))
    if kind == Kind.ENUM64:
        both = zip(words[at + 1 : at + 3 * vlen : 3], words[at + 2 : at + 3 * vlen : 3], strict=True)
        wide = (low | high << 32 for low, high in both)
        values = ((v ^ _SIGN64) - _SIGN64 for v in wide) if flag else wide
        return Enum64(id_, name, third, flag, tuple(zip(map(text, words[at : at + 3 * vlen : 3]), values, strict=True)))
    if kind == Kind.FWD:
        return Fwd(id_, name, flag)
    if kind == Kind.FUNC_PROTO:
        names, types = words[at : at + 2 * vlen : 2], words[at + 1 : at + 2 * vlen : 2]
        return FuncProto(id_, name, third, tuple(zip(map(text, names), types, strict=True)))
    if kind == Kind.VAR:
        return Var(id_, name, third, words[at])
    if kind == Kind.DATASEC:
        flat = words[at : at + 3 * vlen]
        return Datasec(id_, name, third, tuple(zip(flat[0::3], flat[1::3], flat[2::3], strict=True)))
    if kind == Kind.FLOAT:
        return Float(id_, name, third)
    if kind == Kind.DECL_TAG:
        return DeclTag(id_, name, third, (words[at] ^ _SIGN32) - _SIGN32, flag)
    return Unknown(id_, name, kind)


def encode(type_: BtfType, offset_of: Callable[[str], int]) -> Sequence[int]:
    """Return the words of *type_*; *offset_of* turns a string into its offset."""
    third, vlen, flag, rest = 0, 0, False, list[int]()
    match type_:
        case Composite():
            third, vlen, flag = type_.size, len(type_.members), type_.kind_flag
            for m in type_.members:
                rest += (offset_of(m.name), m.type, m.bit_offset | m.bit_size << 24 if flag else m.bit_offset)
        case Enum64():
            third, vlen, flag = type_.size, len(type_.values), type_.signed
            for name, value in type_.values:
                rest += (offset_of(name), value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF)
        case Enum():
            third, vlen, flag = type_.size, len(type_.values), type_.signed
            for name, value in type_.values:
                rest += (offset_of(name), value & 0xFFFFFFFF)
        case Func():
            third, vlen = type_.type, type_.linkage
        case Var():
            third, rest = type_.type, [type_.linkage]
        case DeclTag():
            third, flag, rest = type_.type, type_.kind_flag, [type_.component & 0xFFFFFFFF]
        case Reference():
            third = type_.type
        case Int():
            third, rest = type_.size, [type_.encoding << 24 | type_.bit_offset << 16 | type_.bits]
        case Array():
            rest = [type_.type, type_.index_type, type_.length]
        case Fwd():
            flag = type_.is_union
        case FuncProto():
            third, vlen = type_.type, len(type_.parameters)
            for name, parameter in type_.parameters:
                rest += (offset_of(name), parameter)
        case Datasec():
            third, vlen = type_.size, len(type_.variables)
            for row in type_.variables:
                rest += row
        case Float():
            third = type_.size
        case _:
            raise TypeError(f"{type(type_).__name__} cannot be written")
    info = type_.kind << KIND_SHIFT | vlen | (KIND_FLAG if flag else 0)
    return (offset_of(type_.name), info, third, *rest)
