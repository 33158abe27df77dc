"""Types, a kernel's version of them, and relocations between the two, all by chance: rules meet that no case foresaw.

References by value go to earlier types only, as libbpf follows a circle for ever; anything else may happen.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from assemble import FORMS, Asked, assemble

from btf.core.access import Path, local_enumerator, local_field
from btf.core.compatible import Unrelocatable
from btf.core.relocate import relocate
from btf.core.value import ENUMERATOR_KINDS, FIELD_KINDS, value_of
from btf.format.encode import encode_btf
from btf.format.kinds import (
    Array,
    BtfType,
    Composite,
    Const,
    Datasec,
    Enum,
    Enum64,
    Float,
    Func,
    FuncProto,
    Fwd,
    Int,
    Member,
    Modifier,
    Ptr,
    Reference,
    Restrict,
    Struct,
    Typedef,
    TypeTag,
    Union,
    Var,
    Volatile,
)
from btf.format.parse import parse_btf
from btf.format.types import Btf
from btf.objects.elf_object import read_object
from btf.objects.extension import RelocationKind

_ROOTS = ("s", "s___x", "s___y", "t", "t___s___x", "u____v", "e", "e___x", "int", "_")
_LONG = (  # their size is that of a pointer
    "long", "long int", "int long", "unsigned long", "long unsigned", "unsigned long int", "unsigned int long",
    "long unsigned int", "long int unsigned", "int unsigned long", "int long unsigned",
)  # fmt: skip
_FIELDS = ("a", "b", "c", "d", "a___x", "")
_VALUES = ("A", "B", "C", "A___x", "B___old")


def invent(chance: Random) -> tuple[bytes, bytes]:
    """Return an object and the BTF of a kernel."""
    big = chance.random() < 0.3
    types = _types(chance, chance.randrange(4, 16))
    kernel = _changed(chance, types)
    local = parse_btf(encode_btf(types))
    asked = [_asked(chance, local) for _ in range(chance.randrange(1, 12))]
    # This libbpf refuses the long header in the other byte order.
    layout = chance.random() < 0.3 and not big
    return assemble(types, asked), encode_btf(kernel, big_endian=big, layout=layout)


def invent_modules(chance: Random) -> tuple[bytes, bytes, list[bytes]]:
    """Return an object, the BTF of a kernel that lacks most of its types, and those of the kernel's modules."""
    types = _types(chance, chance.randrange(4, 16))
    local = parse_btf(encode_btf(types))
    asked = [_asked(chance, local) for _ in range(chance.randrange(1, 12))]
    kernel = encode_btf(types[: chance.choice((1, 1, 3, 8))])
    base = parse_btf(kernel)
    modules = [
        encode_btf([_shifted(type_, len(base) - 1) for type_ in _changed(chance, types)], base=base)
        for _ in range(chance.randrange(1, 4))
    ]
    return assemble(types, asked), kernel, modules


def borrow(chance: Random, types: Btf, kernel: Btf, count: int) -> bytes:
    """Return an object with all types of one kernel and up to *count* relocations; *kernel* refuses one in each way.

    Every one that is refused costs the judge another look at everything.
    """
    # Sections of variables would have to be in the object.
    own = [Const(0, "", 0) if isinstance(type_, Datasec | Var) else type_ for type_ in types[1:]]
    asked = [_asked(chance, types) for _ in range(count)]
    results = relocate(read_object(assemble(own, asked)), kernel)
    refused = {result.outcome: row for row, result in zip(asked, results, strict=True) if result.fatal}
    kept = [row for row, result in zip(asked, results, strict=True) if not result.fatal]
    return assemble(own, kept + list(refused.values()))


def _shifted(type_: BtfType, by: int) -> BtfType:
    """Return *type_* with its references counting from *by* on; what they refer to came first, or comes with it."""

    def far(id_: int) -> int:
        return id_ + by if id_ else 0

    match type_:
        case Composite():
            return replace(type_, members=tuple(m._replace(type=far(m.type)) for m in type_.members))
        case Array():
            return replace(type_, type=far(type_.type), index_type=far(type_.index_type))
        case FuncProto():
            return replace(type_, type=far(type_.type), parameters=tuple((n, far(p)) for n, p in type_.parameters))
        case Reference():
            return replace(type_, type=far(type_.type))
        case _:
            return type_


def _types(chance: Random, count: int) -> list[BtfType]:
    types = [_type(chance, id_, count) for id_ in range(1, count + 1)]
    types[1] = Enum(0, chance.choice(_ROOTS), 4, False, (("A", 1), ("B", 2)))
    types[3] = Struct(0, chance.choice(_ROOTS), 8, (Member("a", 1, 0), Member("b", chance.randrange(1, 4), 32)))
    return [_sane(type_, types) for type_ in types]


def _sane(type_: BtfType, types: list[BtfType]) -> BtfType:
    """Return *type_* with bitfields of integers and enums only: of anything else libbpf reads what is not there."""
    if not isinstance(type_, Composite):
        return type_
    whole = (m if not m.bit_size or _is_number(m.type, types) else m._replace(bit_size=0) for m in type_.members)
    return replace(type_, members=tuple(whole))


def _is_number(id_: int, types: list[BtfType]) -> bool:
    while id_:
        match types[id_ - 1]:
            case Int() | Enum():
                return True
            case Modifier() | Typedef() as reference:
                id_ = reference.type
            case _:
                return False
    return False


def _type(chance: Random, id_: int, count: int) -> BtfType:
    earlier = _earlier(chance, id_)
    root = chance.choice(_ROOTS)
    maybe = chance.choice((root, root, ""))
    pick = chance.randrange(20)
    if pick < 4 or id_ == 1:
        if chance.random() < 0.15:
            size = chance.choice((4, 4, 8, 2))
            return Int(0, chance.choice(_LONG), size, chance.choice((0, 1)), 0, size * 8)
        size = chance.choice((1, 2, 4, 8, 8, 4, 16))
        odd = chance.random() < 0.05
        return Int(0, root, size, chance.choice((0, 0, 1, 1, 2, 4, 5)), 3 if odd else 0, size * 8 - 5 * odd & 0xFF)
    if pick < 9:
        flag = chance.random() < 0.4
        members, at = [], 0
        for _ in range(chance.randrange(5)):
            bits = chance.choice((0, 3, 7, 31, 40)) if flag else 0
            members.append(Member(chance.choice(_FIELDS), _earlier(chance, id_), at, bits))
            at += bits or chance.choice((8, 16, 32, 32, 64, 64, 128, 32, 32, 320000))
        return chance.choice((Struct, Struct, Union))(0, maybe, -(-at // 8), tuple(members), flag)
    if pick == 9:
        return Array(0, "", earlier, min(1, id_ - 1), chance.choice((0, 0, 1, 2, 5)))
    if pick == 10:
        return Ptr(0, "", chance.randrange(count + 1))
    if pick in (11, 12):
        names = chance.sample(_VALUES, chance.randrange(1, 4))
        signed = chance.random() < 0.5
        if chance.random() < 0.4:
            low = -(1 << 63) if signed else 0
            return Enum64(0, maybe, 8, signed, tuple((n, low + chance.randrange(1 << 63)) for n in names))
        low = -(1 << 31) if signed else 0
        return Enum(
            0, maybe, chance.choice((4, 4, 1, 8)), signed, tuple((n, low + chance.randrange(1 << 31)) for n in names)
        )
    if pick == 13:
        return Fwd(0, root, chance.random() < 0.5)
    if pick == 14:
        return FuncProto(
            0, "", earlier, tuple((chance.choice(_FIELDS), chance.randrange(id_)) for _ in range(chance.randrange(3)))
        )
    if pick == 15:
        return Float(0, root, chance.choice((4, 8)))
    if pick == 16:
        return chance.choice((Const, Volatile, Restrict))(0, "", earlier)
    if pick == 17:
        return TypeTag(0, "user", earlier)
    if pick == 18 and chance.random() < 0.3:
        return Func(0, root, earlier, chance.randrange(3))
    return Typedef(0, root, earlier)


def _earlier(chance: Random, id_: int) -> int:
    return chance.randrange(1, id_) if id_ > 1 and chance.random() < 0.97 else 0


def _changed(chance: Random, types: list[BtfType]) -> list[BtfType]:
    """Return *types* as another kernel may have them, some twice, and a few of its own."""
    changed = [_another(chance, id_, type_) if chance.random() < 0.35 else type_ for id_, type_ in enumerate(types, 1)]
    for _ in range(chance.randrange(4)):
        copy = chance.choice(changed)
        if chance.random() < 0.5:
            copy = _another(chance, len(types) + 1, copy)
        if copy.name and chance.random() < 0.6:
            copy = replace(copy, name=chance.choice((f"{copy.name}___2", copy.name, copy.name.split("___")[0])))
        changed.append(copy)
    return [_sane(type_, changed) for type_ in changed]


def _another(chance: Random, id_: int, type_: BtfType) -> BtfType:
    match type_:
        case Composite() if type_.members and chance.random() < 0.8:
            members = list(type_.members)
            number = chance.randrange(len(members))
            member = members[number]
            change = chance.randrange(5)
            if change == 0:
                del members[number]
            elif change == 1:
                members[number] = member._replace(
                    bit_offset=(member.bit_offset + chance.choice((1, 8, 32, 64))) & 0xFFFFFF
                )
            elif change == 2:
                members[number] = member._replace(type=chance.randrange(id_))
            elif change == 3:
                members[number] = member._replace(name=chance.choice(_FIELDS))
            else:
                members.insert(number, Member(chance.choice(_FIELDS), chance.randrange(id_), member.bit_offset))
            return replace(type_, members=tuple(members))
        case Int():
            return replace(type_, size=chance.choice((1, 2, 4, 8)), encoding=chance.choice((0, 1, 2, 4)))
        case Array():
            return replace(type_, length=chance.choice((0, 1, 2, 7)))
        case Enum() if type(type_) is Enum and chance.random() < 0.3:
            return Enum64(0, type_.name, chance.choice((type_.size, 8)), type_.signed, type_.values)
        case Enum():
            values = [(n, v + 1) if chance.random() < 0.5 else (chance.choice(_VALUES), v) for n, v in type_.values]
            return replace(type_, values=tuple(values[: chance.randrange(len(values) + 1)] or values))
    return _type(chance, id_, id_)


def _asked(chance: Random, local: Btf) -> Asked:
    kind = chance.randrange(13) if chance.random() < 0.99 else chance.randrange(16)
    type_ = next(id_ for _ in range(10_000) if _fits(local, kind, id_ := chance.randrange(len(local))))
    if chance.random() < 0.02:
        type_ = chance.randrange(len(local))
    access = _access(chance, local, kind, type_)
    form, size, value = chance.choice(("mov", "mov32", "add", "load", "load", "store", "set", "wide")), 8, 0
    if chance.random() < 0.02:
        form = chance.choice(FORMS)
    try:
        path = _path(local, kind, type_, access)
        now = value_of(RelocationKind(kind), path, big_endian=False)
        value, size = now.number, now.size if now.size in (1, 2, 4, 8) else 8
    except (Unrelocatable, ValueError, KeyError, IndexError):
        pass
    if chance.random() < 0.02:
        value += chance.choice((1, 8, -1))
    if chance.random() < 0.05:
        size = chance.choice((1, 2, 4, 8))
    return Asked(kind, type_, access, form, value & (1 << 64) - 1, size)


def _fits(local: Btf, kind: int, id_: int) -> bool:
    type_ = local.resolve(id_)
    if not local[id_].name:
        return False
    if kind in FIELD_KINDS:
        return isinstance(type_, Composite) and bool(type_.members)
    return isinstance(type_, Enum) if kind in ENUMERATOR_KINDS else True


def _path(local: Btf, kind: int, type_: int, access: str) -> Path:
    if kind in FIELD_KINDS:
        return local_field(local, type_, access)
    return local_enumerator(local, type_, access) if kind in ENUMERATOR_KINDS else Path(local, type_)


def _access(chance: Random, local: Btf, kind: int, id_: int) -> str:
    if chance.random() < 0.02:
        return chance.choice(("0", "1", "0:9", "0:0:0:0", "7:0", "0:2147483647"))
    type_ = local.resolve(id_)
    if kind in ENUMERATOR_KINDS and isinstance(type_, Enum):
        return str(chance.randrange(len(type_.values) or 1))  # a declared enum has none
    if kind not in FIELD_KINDS:
        return "0"
    indices = [chance.choice((0, 0, 0, 2))]
    while len(indices) < 7 and (len(indices) == 1 or chance.random() < 0.9):
        if isinstance(type_, Composite) and type_.members:
            index = chance.randrange(len(type_.members))
            type_ = local.resolve(type_.members[index].type)
        elif isinstance(type_, Array) and chance.random() < 0.8:
            index = chance.randrange(type_.length) if type_.length else chance.randrange(3)
            type_ = local.resolve(type_.type)
        else:
            break
        indices.append(index)
    return ":".join(map(str, indices))
