"""A BTF as a sequence of types: decoded on demand, asked by id or by name, never changed."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import overload

from btf.codec import KIND_MASK, KIND_SHIFT, decode
from btf.index import BtfMalformed, NameIndex, essential_name
from btf.kinds import (
    Array,
    BtfType,
    Composite,
    Datasec,
    DeclTag,
    Enum,
    Float,
    FuncProto,
    Int,
    Kind,
    Modifier,
    Ptr,
    Reference,
    Typedef,
    Var,
    Void,
)

_MAX_DEPTH = 32  # how far references are followed, as libbpf does; a longer chain is a cycle or an attack
_VOID = Void(0, "void")
_LONGS = frozenset({"long", "long int", "int long", "unsigned long", "long unsigned", "unsigned long int",
                    "long unsigned int", "int long unsigned", "unsigned int long"})  # fmt: skip


class Btf(Sequence[BtfType]):
    """The types of one kernel, module or object. ``btf[id]`` is a type; id 0 is void; ``len`` counts void, too."""

    __slots__ = (
        "_cache", "_first_byte", "_first_id", "_flavours", "_index", "_offsets", "_pointer", "_strings", "_words",
        "base", "big_endian",
    )  # fmt: skip

    def __init__(
        self, words: array[int], offsets: array[int], strings: bytes, *, big_endian: bool, base: Btf | None,
        first_byte: int,
    ) -> None:  # fmt: skip
        """Use :func:`btf.parse.parse_btf`, which checks what it hands over."""
        self._words, self._offsets = words, offsets
        self._first_id = len(base) if base else 1
        own = base.string_end if base else 0
        self._strings: tuple[tuple[int, bytes], ...] = (*(base._strings if base else ()), (own, strings))
        self._first_byte = first_byte
        self._cache: dict[int, BtfType] = {}
        self._flavours: dict[str, list[int]] = {}
        self._index: NameIndex | None = None
        self._pointer: int | None = None
        self.base, self.big_endian = base, big_endian

    def __len__(self) -> int:
        return self._first_id + len(self._offsets)

    @overload
    def __getitem__(self, id_: int) -> BtfType: ...
    @overload
    def __getitem__(self, id_: slice) -> Sequence[BtfType]: ...
    def __getitem__(self, id_: int | slice) -> BtfType | Sequence[BtfType]:
        if isinstance(id_, slice):
            return [self[i] for i in range(*id_.indices(len(self)))]
        found = self._cache.get(id_)
        if found is None:
            found = self._cache[id_] = self._decode(id_)
        return found

    def _decode(self, id_: int) -> BtfType:
        if id_ == 0:
            return _VOID
        if not 0 < id_ < len(self):
            raise IndexError(f"there is no type {id_} among {len(self)}")
        if id_ < self._first_id:
            assert self.base is not None
            return self.base[id_]
        at = self._offsets[id_ - self._first_id]
        type_ = decode(id_, self._words, at, self.string)
        for referred in _referred(type_):
            if referred >= len(self):
                where = self._first_byte + 4 * at
                raise BtfMalformed(f"type {id_} at byte {where} refers to type {referred} of only {len(self)}")
        return type_

    @property
    def string_end(self) -> int:
        """One past the last string offset; the strings of a BTF on top of this one start here."""
        first, strings = self._strings[-1]
        return first + len(strings)

    def string(self, offset: int) -> str:
        """Return the string at *offset* or raise BtfMalformed. Bytes that are not UTF-8 become surrogates."""
        if offset == 0:
            return ""
        for first, strings in reversed(self._strings):
            if offset >= first:
                end = strings.find(b"\0", offset - first)
                if end >= 0:
                    return strings[offset - first : end].decode("utf-8", "surrogateescape")
                break
        raise BtfMalformed(f"there is no string at offset {offset}: the strings end at {self.string_end}")

    def kind_of(self, id_: int) -> int:
        """Return the kind number of *id_* without decoding it."""
        if id_ >= self._first_id:
            return self._words[self._offsets[id_ - self._first_id] + 1] >> KIND_SHIFT & KIND_MASK
        return self.base.kind_of(id_) if self.base else Kind.VOID

    def ids_of(self, kind: Kind) -> list[int]:
        """Return the ids of every type of *kind*, ascending."""
        inherited = self.base.ids_of(kind) if self.base else []
        words, wanted = self._words, int(kind)
        return inherited + [
            id_ for id_, at in enumerate(self._offsets, self._first_id)
            if words[at + 1] >> KIND_SHIFT & KIND_MASK == wanted
        ]  # fmt: skip

    def by_name(self, name: str, kind: Kind | None = None) -> list[int]:
        """Return the ids of the types called exactly *name*, ascending; of one *kind*, or of all."""
        inherited = self.base.by_name(name, kind) if self.base else []
        own = self._names().exact(_bytes(name)) if name else []
        return inherited + [id_ for id_ in own if kind is None or self.kind_of(id_) == kind]

    def flavours(self, name: str) -> list[int]:
        """Return the ids of the types whose essential name is *name*, ascending; remembered, as objects share types."""
        if name not in self._flavours:
            inherited = self.base.flavours(name) if self.base else []
            own = self._names().flavours(_bytes(name)) if name else []
            self._flavours[name] = inherited + [id_ for id_ in own if essential_name(self[id_].name) == name]
        return list(self._flavours[name])

    def _names(self) -> NameIndex:
        if self._index is None:
            self._index = NameIndex(self._words, self._offsets, self._strings, first_id=self._first_id)
        return self._index

    def enum_values(self, enum_name: str) -> dict[str, int]:
        """Return name → value of every enum called *enum_name*; empty when there is none."""
        values: dict[str, int] = {}
        for id_ in self.by_name(enum_name):
            type_ = self[id_]
            if isinstance(type_, Enum):
                values.update(type_.values)
        return values

    def functions(self) -> frozenset[str]:
        """Return the names of all functions."""
        words = self._words
        own = frozenset(
            self.string(words[at]) for at in self._offsets if words[at + 1] >> KIND_SHIFT & KIND_MASK == Kind.FUNC
        )
        return own | self.base.functions() if self.base else own

    def resolve(self, id_: int) -> BtfType:
        """Return what *id_* is below typedefs and qualifiers; its own ``id`` says where that is."""
        type_ = self[id_]
        seen = 0
        while isinstance(type_, Typedef | Modifier):
            seen += 1
            if seen > len(self):
                raise BtfMalformed(f"type {id_} refers to itself")
            type_ = self[type_.type]
        return type_

    def size_of(self, id_: int) -> int | None:
        """Return the size of *id_* in bytes, or None for what has none (void, functions, endless references)."""
        count = 1
        for _ in range(_MAX_DEPTH):
            type_ = self[id_]
            match type_:
                case Composite() | Enum() | Int() | Float() | Datasec():
                    size = count * type_.size
                case Ptr():
                    size = count * self.pointer_size
                case Array():
                    count, id_ = count * type_.length, type_.type
                    continue
                case Typedef() | Modifier() | Var() | DeclTag():
                    id_ = type_.type
                    continue
                case _:
                    return None
            return size if size < 1 << 32 else None
        return None

    @property
    def pointer_size(self) -> int:
        """The size of a pointer in bytes, told by the size of ``long``; 8 when there is none."""
        if self._pointer is None:
            own = (self[id_] for name in _LONGS for id_ in self.by_name(name, Kind.INT))
            sizes = {t.size for t in own if isinstance(t, Int)}
            self._pointer = 4 if sizes == {4} else 8
        return self._pointer

    def text(self, id_: int) -> str:
        """Return the type as C would write it in a cast: ``struct task_struct *``, ``unsigned int[4]``."""
        suffix = ""
        for _ in range(_MAX_DEPTH):
            type_ = self[id_]
            if isinstance(type_, Ptr):
                suffix = f"*{suffix}"
            elif isinstance(type_, Array):
                suffix = f"{suffix}[{type_.length}]"
            elif isinstance(type_, Modifier):
                if type_.kind != Kind.TYPE_TAG:
                    suffix = f"{type_.kind.name.lower()} {suffix}".rstrip()
            else:
                gap = "" if suffix.startswith("[") or not suffix else " "
                return f"{declare(type_)}{gap}{suffix}"
            id_ = type_.type
        return f"…{suffix}"


def declare(type_: BtfType) -> str:
    """Return how C names *type_* itself: ``struct task_struct``, ``enum pid_type``, ``unsigned int``."""
    match type_.kind:
        case Kind.STRUCT | Kind.UNION | Kind.ENUM | Kind.ENUM64:
            keyword = type_.kind.name.lower().removesuffix("64")
        case Kind.FWD:
            keyword = "union" if getattr(type_, "is_union", False) else "struct"
        case Kind.FUNC_PROTO:
            return "function"
        case _:
            return type_.name or "void"
    return f"{keyword} {type_.name or '{…}'}"


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _referred(type_: BtfType) -> tuple[int, ...]:
    """Return the ids *type_* refers to."""
    match type_:
        case Reference():
            return (type_.type,)
        case Composite():
            return tuple(m.type for m in type_.members)
        case Array():
            return (type_.type, type_.index_type)
        case Datasec():
            return tuple(row[0] for row in type_.variables)
        case FuncProto():
            return (type_.type, *(p[1] for p in type_.parameters))
        case _:
            return ()
