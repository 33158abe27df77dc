"""Whether a type of an object and a type of a kernel are the same thing for CO-RE: libbpf's three relations.

For a field read, kinds must agree roughly; for type existence, kinds must agree along pointers and signatures; a type
*matches* when every local member, enumerator and parameter has its like in the kernel's.
"""

from __future__ import annotations

from typing import NamedTuple

from btf.core.effort import spend
from btf.format.index import essential_name
from btf.format.kinds import Array, BtfType, Composite, Enum, FuncProto, Fwd, Int, Kind, Ptr, Struct, Union
from btf.format.types import Btf

_MAX_DEPTH = 32


class Unrelocatable(Exception):
    """libbpf refuses the whole object at this relocation; ``errno`` is the name it returns."""

    def __init__(self, errno: str, detail: str) -> None:
        self.errno, self.detail = errno, detail
        super().__init__(f"{errno}: {detail}")


class Refused(NamedTuple):
    """An :class:`Unrelocatable` as it is kept. ``ambiguous``: candidates that have what is asked for disagree."""

    errno: str
    detail: str
    ambiguous: bool = False


def kinds_compatible(local: BtfType, target: BtfType) -> bool:
    """Whether the kinds are the same, taking enum and enum64 for one."""
    return local.kind == target.kind or (isinstance(local, Enum) and isinstance(target, Enum))


class Shape(NamedTuple):
    """All of a local field's type that libbpf compares with a kernel's, below typedefs and qualifiers.

    ``kind`` is ENUM for ENUM64, STRUCT for UNION. ``old``: an integer that starts at another bit than its first.
    """

    kind: int
    name: str = ""  # of an enum or a forward declaration, without its flavour
    old: bool = False
    element: Shape | None = None  # of an array


_ONE_OF: dict[int, int] = {Kind.ENUM64: Kind.ENUM, Kind.UNION: Kind.STRUCT}


def shape_of(local: Btf, id_: int, depth: int = _MAX_DEPTH) -> Shape:
    """Return the shape of a local field's type; arrays of arrays are followed as deep as libbpf follows them."""
    type_ = local.resolve(id_)
    kind = _ONE_OF.get(type_.kind, type_.kind)
    match type_:
        case Array():
            return Shape(kind, element=shape_of(local, type_.type, depth - 1) if depth else None)
        case Enum() | Fwd():
            return Shape(kind, essential_name(type_.name))
        case Int():
            return Shape(kind, old=type_.bit_offset != 0)
        case _:
            return Shape(kind)


def fields_compatible(ours: Shape, target: Btf, target_id: int) -> bool:
    """Whether a field of the kernel's type may be read as the local one."""
    for _ in range(_MAX_DEPTH):
        target_id = target.resolved(target_id)
        theirs = target.kind_of(target_id)
        if _ONE_OF.get(theirs, theirs) != ours.kind:
            return False
        if ours.kind in _ALIKE:
            return True
        if ours.kind in _NAMED:
            name = essential_name(target.name_of(target_id))
            return not name or not ours.name or name == ours.name
        if theirs == Kind.INT:
            return not ours.old and target.integer(target_id)[1] == 0
        type_ = target[target_id]
        if not isinstance(type_, Array) or ours.element is None:
            return False
        ours, target_id = ours.element, type_.type
    raise Unrelocatable("EINVAL", "an array of arrays without end")


_ALIKE = frozenset({Kind.STRUCT, Kind.PTR, Kind.FLOAT})
_NAMED = frozenset({Kind.ENUM, Kind.FWD})


def types_compatible(local: Btf, local_id: int, target: Btf, target_id: int) -> bool:
    """Whether the kernel's type counts as the local one exists; the caller compared their names."""
    return kinds_compatible(local[local_id], target[target_id]) and _compatible(
        local, local_id, target, target_id, _MAX_DEPTH
    )


def _compatible(local: Btf, local_id: int, target: Btf, target_id: int, level: int) -> bool:
    spend(1, target_id)
    for _ in range(_MAX_DEPTH):
        ours, theirs = local.resolve(local_id), target.resolve(target_id)
        if not kinds_compatible(ours, theirs):
            return False
        match ours, theirs:
            case Int(), Int():
                return ours.bit_offset == 0 == theirs.bit_offset
            case Ptr(), Ptr():
                local_id, target_id = ours.type, theirs.type
            case Array(), Array():
                local_id, target_id = ours.type, theirs.type
            case FuncProto(), FuncProto():
                if len(ours.parameters) != len(theirs.parameters):
                    return False
                if ours.parameters and level <= 0:
                    break
                for (_, one), (_, other) in zip(ours.parameters, theirs.parameters, strict=True):
                    if not _compatible(local, one, target, other, level - 1):
                        return False
                local_id, target_id = ours.type, theirs.type
            case _:
                return ours.kind in _NAMED_OR_VOID
    raise Unrelocatable("EINVAL", "types nest too deeply to compare")


_NAMED_OR_VOID = frozenset({Kind.VOID, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.FWD})


def types_match(local: Btf, local_id: int, target: Btf, target_id: int) -> bool:
    """Whether the kernel's type has all that the local one has; the caller compared the root names."""
    return _matches(local, local_id, target, target_id, _MAX_DEPTH, behind_pointer=False)


def _matches(local: Btf, local_id: int, target: Btf, target_id: int, level: int, *, behind_pointer: bool) -> bool:
    spend(1, target_id)
    if level <= 0:
        raise Unrelocatable("EINVAL", "types nest too deeply to match")
    for _ in range(_MAX_DEPTH):
        ours, theirs = local.resolve(local_id), target.resolve(target_id)
        if not _same_name(ours.name, theirs.name):
            return False
        match ours, theirs:
            case Fwd(), Fwd():
                return ours.is_union == theirs.is_union
            case Fwd(), (Struct() | Union()):
                return behind_pointer and ours.is_union == (theirs.kind == Kind.UNION)
            case ((Struct() | Union()), Fwd()):
                return behind_pointer and theirs.is_union == (ours.kind == Kind.UNION)
            case Composite(), Composite():
                return ours.kind == theirs.kind and (
                    behind_pointer or _composites_match(local, ours, target, theirs, level)
                )
            case Enum(), Enum():
                return _enums_match(ours, theirs)
            case Int(), Int():
                return ours.size == theirs.size and ours.signed == theirs.signed
            case Ptr(), Ptr():
                behind_pointer = True
                local_id, target_id = ours.type, theirs.type
            case Array(), Array():
                if ours.length != theirs.length:
                    return False
                local_id, target_id = ours.type, theirs.type
            case FuncProto(), FuncProto():
                if len(ours.parameters) != len(theirs.parameters):
                    return False
                for (_, one), (_, other) in zip(ours.parameters, theirs.parameters, strict=True):
                    if not _matches(local, one, target, other, level - 1, behind_pointer=behind_pointer):
                        return False
                local_id, target_id = ours.type, theirs.type
            case _:
                return ours.kind == Kind.VOID == theirs.kind
    raise Unrelocatable("EINVAL", "types nest too deeply to match")


def _same_name(local: str, target: str) -> bool:
    return essential_name(local) == essential_name(target)


def _composites_match(local: Btf, ours: Composite, target: Btf, theirs: Composite, level: int) -> bool:
    if len(ours.members) > len(theirs.members):
        return False
    spend(len(ours.members) * len(theirs.members) // 8, theirs.id)
    return all(
        any(
            _same_name(m.name, n.name) and _matches(local, m.type, target, n.type, level - 1, behind_pointer=False)
            for n in theirs.members
        )
        for m in ours.members
    )


def _enums_match(ours: Enum, theirs: Enum) -> bool:
    if ours.size != theirs.size or len(ours.values) > len(theirs.values):
        return False
    spend(len(theirs.values), theirs.id)
    names = {essential_name(name) for name, _ in theirs.values}
    return all(essential_name(name) in names for name, _ in ours.values)
