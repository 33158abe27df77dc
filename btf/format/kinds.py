"""The kinds of BTF: one row and one dataclass each, as plain values that refer to each other by id.

To add a kind: a number in :class:`Kind`, a dataclass, a row in :data:`RECORDS`, an arm in ``codec.py``. Nothing here
reads bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, NamedTuple


class Kind(IntEnum):
    """The kind numbers of ``include/uapi/linux/btf.h``."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


class RecordSize(NamedTuple):
    """What follows the three common words of a record: ``fixed`` words, and ``each`` word ``vlen`` times."""

    fixed: int
    each: int


# In words of four bytes. FUNC keeps its linkage where others keep their vlen.
RECORDS: dict[int, RecordSize] = {
    Kind.INT: RecordSize(1, 0),
    Kind.PTR: RecordSize(0, 0),
    Kind.ARRAY: RecordSize(3, 0),
    Kind.STRUCT: RecordSize(0, 3),
    Kind.UNION: RecordSize(0, 3),
    Kind.ENUM: RecordSize(0, 2),
    Kind.FWD: RecordSize(0, 0),
    Kind.TYPEDEF: RecordSize(0, 0),
    Kind.VOLATILE: RecordSize(0, 0),
    Kind.CONST: RecordSize(0, 0),
    Kind.RESTRICT: RecordSize(0, 0),
    Kind.FUNC: RecordSize(0, 0),
    Kind.FUNC_PROTO: RecordSize(0, 2),
    Kind.VAR: RecordSize(1, 0),
    Kind.DATASEC: RecordSize(0, 3),
    Kind.FLOAT: RecordSize(0, 0),
    Kind.DECL_TAG: RecordSize(1, 0),
    Kind.TYPE_TAG: RecordSize(0, 0),
    Kind.ENUM64: RecordSize(0, 3),
}


# Kinds for where inlined functions keep their parameters. Their records differ from proposal to proposal and no release
# has them, so only a layout section is believed about them.
UNSETTLED = {20: " (LOC_PARAM)", 21: " (LOC_PROTO)", 22: " (LOCSEC)"}


@dataclass(frozen=True, slots=True)
class BtfType:
    """What every type has. ``name`` is empty for the anonymous."""

    kind: ClassVar[Kind]
    id: int
    name: str


@dataclass(frozen=True, slots=True)
class Void(BtfType):
    """Type 0, which no record describes."""

    kind = Kind.VOID


@dataclass(frozen=True, slots=True)
class Int(BtfType):
    """An integer. ``size`` in bytes; ``bit_offset`` and ``bits`` differ from 0 and 8 × size only in old bitfields."""

    kind = Kind.INT
    size: int
    encoding: int  # 1 signed, 2 char, 4 bool
    bit_offset: int
    bits: int

    @property
    def signed(self) -> bool:
        """Whether the value is signed."""
        return bool(self.encoding & 1)


@dataclass(frozen=True, slots=True)
class Float(BtfType):
    """A floating-point number; ``size`` in bytes. Since Linux v5.13."""

    kind = Kind.FLOAT
    size: int


@dataclass(frozen=True, slots=True)
class Reference(BtfType):
    """A kind that stands on one other type, ``type``; 0 is void."""

    type: int


@dataclass(frozen=True, slots=True)
class Ptr(Reference):
    """A pointer."""

    kind = Kind.PTR


@dataclass(frozen=True, slots=True)
class Typedef(Reference):
    """A name for a type."""

    kind = Kind.TYPEDEF


@dataclass(frozen=True, slots=True)
class Modifier(Reference):
    """A qualifier that changes neither size nor layout."""


@dataclass(frozen=True, slots=True)
class Volatile(Modifier):
    """``volatile``."""

    kind = Kind.VOLATILE


@dataclass(frozen=True, slots=True)
class Const(Modifier):
    """``const``."""

    kind = Kind.CONST


@dataclass(frozen=True, slots=True)
class Restrict(Modifier):
    """``restrict``."""

    kind = Kind.RESTRICT


@dataclass(frozen=True, slots=True)
class TypeTag(Modifier):
    """An attribute such as ``__user`` on a pointed-to type. Since Linux v5.17."""

    kind = Kind.TYPE_TAG


@dataclass(frozen=True, slots=True)
class Array(BtfType):
    """``length`` elements of ``type``."""

    kind = Kind.ARRAY
    type: int
    index_type: int
    length: int


class Member(NamedTuple):
    """A field at ``bit_offset``; ``bit_size`` is 0 unless it is a bitfield."""

    name: str
    type: int
    bit_offset: int
    bit_size: int = 0


@dataclass(frozen=True, slots=True)
class Composite(BtfType):
    """A struct or union of ``size`` bytes. ``kind_flag``: its offsets carry bitfield sizes."""

    size: int
    members: tuple[Member, ...]
    kind_flag: bool = False


@dataclass(frozen=True, slots=True)
class Struct(Composite):
    """A struct."""

    kind = Kind.STRUCT


@dataclass(frozen=True, slots=True)
class Union(Composite):
    """A union."""

    kind = Kind.UNION


@dataclass(frozen=True, slots=True)
class Enum(BtfType):
    """An enum of ``size`` bytes; ``values`` in declaration order, as signed numbers where ``signed``."""

    kind = Kind.ENUM
    size: int
    signed: bool
    values: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Enum64(Enum):
    """An enum with 64-bit values. Since Linux v6.0."""

    kind = Kind.ENUM64


@dataclass(frozen=True, slots=True)
class Fwd(BtfType):
    """A declaration without a body."""

    kind = Kind.FWD
    is_union: bool


@dataclass(frozen=True, slots=True)
class FuncProto(BtfType):
    """A function's signature: ``type`` is what it returns, ``parameters`` are (name, type)."""

    kind = Kind.FUNC_PROTO
    type: int
    parameters: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Func(Reference):
    """A function; ``linkage`` 0 static, 1 global, 2 extern; ``type`` is its FuncProto."""

    kind = Kind.FUNC
    linkage: int


@dataclass(frozen=True, slots=True)
class Var(Reference):
    """A variable; ``linkage`` 0 static, 1 global, 2 extern."""

    kind = Kind.VAR
    linkage: int


@dataclass(frozen=True, slots=True)
class Datasec(BtfType):
    """An ELF section of variables: (type, offset, size) each."""

    kind = Kind.DATASEC
    size: int
    variables: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class DeclTag(Reference):
    """An attribute on ``type``, or on its member or parameter ``component`` (-1: the whole). Since Linux v5.16."""

    kind = Kind.DECL_TAG
    component: int
    kind_flag: bool = False


@dataclass(frozen=True, slots=True)
class Unknown(BtfType):
    """A record of a kind newer than this table, skipped by the sizes in the BTF's own layout section."""

    kind = Kind.VOID
    number: int
