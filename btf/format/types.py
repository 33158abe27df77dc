"""A BTF as a sequence of types: decoded on demand, asked by id or by name, never changed."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence, Set
from itertools import count
from typing import NamedTuple, TypeVar, cast, overload

from btf.format.codec import KIND_FLAG, KIND_MASK, KIND_SHIFT, VLEN_MASK, decode
from btf.format.index import BtfMalformed, NameIndex, essential_name
from btf.format.kinds import (
    Array,
    BtfType,
    Composite,
    Datasec,
    DeclTag,
    Enum,
    FuncProto,
    Kind,
    Member,
    Modifier,
    Ptr,
    Reference,
    Void,
)
from btf.format.strings import Strings

_MAX_DEPTH = 32  # how far references are followed, as libbpf does; a longer chain is a cycle or an attack
_MAX_CHAIN = 1024  # libbpf follows typedefs and qualifiers without end; a kernel refuses more than 32
_VOID = Void(0, "void")
_LONGS = ("long", "long int", "int long", "unsigned long", "long unsigned", "unsigned long int", "unsigned int long",
          "long unsigned int", "long int unsigned", "int unsigned long", "int long unsigned")  # fmt: skip
# What size and resolution look through, and what says its own size.
_QUALIFIERS = frozenset({Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG})
_PASSED = _QUALIFIERS | {Kind.VAR, Kind.DECL_TAG}
_SIZED = frozenset({Kind.INT, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.FLOAT, Kind.DATASEC})
_COMPOSITES = frozenset({Kind.STRUCT, Kind.UNION})
_MAX_REMEMBERED = 1 << 16
_SERIALS = count(1)

_T = TypeVar("_T")


class MemberIndex(NamedTuple):
    """The members of a composite: the first of each name, and those without a name, by their place."""

    named: dict[str, int]
    unnamed: tuple[int, ...]


class Btf(Sequence[BtfType]):
    """The types of one kernel, module or object. ``btf[id]`` is a type; id 0 is void; ``len`` counts void, too."""

    __slots__ = (
        "_cache", "_columns", "_count", "_first_byte", "_first_id", "_flavours", "_index", "_members", "_offsets",
        "_pointer", "_remembered", "_strings", "_words", "base", "big_endian", "serial",
    )  # fmt: skip

    def __init__(
        self, words: array[int], offsets: array[int], strings: bytes, *, big_endian: bool, base: Btf | None,
        first_byte: int, pointer_size: int | None = None,
    ) -> None:  # fmt: skip
        """Use :func:`btf.format.parse.parse_btf`, which checks what it hands over."""
        self._words, self._offsets = words, offsets
        self._first_id = len(base) if base else 1
        self._count = self._first_id + len(offsets)
        self._strings: Strings = Strings(strings, base._strings if base else None)
        self._first_byte = first_byte
        self._cache: dict[int, BtfType] = {}
        self._flavours: dict[str, list[int]] = {}
        self._index: NameIndex | None = None
        self._columns: dict[bytes, MemberIndex] = {}
        self._members: dict[int, MemberIndex] = {}
        self._remembered: dict[Hashable, object] = {}
        self._pointer = pointer_size
        self.base, self.big_endian = base, big_endian
        self.serial = next(_SERIALS)  # tells this one from every other, also from those that are gone

    def __len__(self) -> int:
        return self._count

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

    def __iter__(self) -> Iterator[BtfType]:
        # Who walks all types looks at each once: nothing is kept.
        for id_ in range(len(self)):
            yield self._cache.get(id_) or self._decode(id_)

    def _decode(self, id_: int) -> BtfType:
        if id_ == 0:
            return _VOID
        if id_ < self._first_id and self.base:
            return self.base[id_]
        at = self._offsets[self._number(id_)]
        type_ = decode(id_, self._words, at, self._strings.__getitem__)
        for referred in _referred(type_):
            self._check(referred, id_)
        return type_

    def _number(self, id_: int) -> int:
        """Return the place of *id_*, which is not void, among the own records."""
        if not 0 < id_ < len(self):
            raise IndexError(f"there is no type {id_} among {len(self)}")
        return id_ - self._first_id

    def _check(self, referred: int, id_: int) -> int:
        if referred >= len(self):
            where = self._first_byte + 4 * self._offsets[id_ - self._first_id]
            raise BtfMalformed(f"type {id_} at byte {where} refers to type {referred} of only {len(self)}")
        return referred

    @property
    def string_end(self) -> int:
        """One past the last string offset; the strings of a BTF on top of this one start here."""
        return self._strings.end

    def string(self, offset: int) -> str:
        """Return the string at *offset* or raise BtfMalformed. Bytes that are not UTF-8 become surrogates."""
        return self._strings[offset]

    def stands_on_base(self) -> bool:
        """Whether every name that the base has starts where one of the base's strings does; on another it would not."""
        words = self._words
        return self.base is None or self.base._strings.are_starts(words[at] for at in self._offsets)

    def kind_of(self, id_: int) -> int:
        """Return the kind number of *id_* without decoding it."""
        if id_ >= self._first_id:
            return self._words[self._offsets[id_ - self._first_id] + 1] >> KIND_SHIFT & KIND_MASK
        return self.base.kind_of(id_) if self.base and id_ else Kind.VOID

    def name_of(self, id_: int) -> str:
        """Return the name of *id_* without decoding the rest, empty for the anonymous."""
        if id_ >= self._first_id:
            return self._strings[self._words[self._offsets[id_ - self._first_id]]]
        return self.base.name_of(id_) if self.base and id_ else _VOID.name

    def members(self, id_: int) -> MemberIndex | None:
        """Return where the members of *id_* are by name, None when it is neither struct nor union; remembered."""
        found = self._members.get(id_)
        if found is None:
            if self.kind_of(id_) not in _COMPOSITES:
                return None
            if id_ < self._first_id and self.base:
                return self.base.members(id_)
            at = self._offsets[id_ - self._first_id]
            count = self._words[at + 1] & VLEN_MASK
            column = self._words[at + 3 : at + 3 + 3 * count : 3]
            # Where types were never deduplicated, hundreds of copies have the same names.
            found = self._columns.get(key := column.tobytes())
            if found is None:
                found = self._columns[key] = self._member_index(column)
            self._members[id_] = found
        return found

    def _member_index(self, column: array[int]) -> MemberIndex:
        names = list(map(self._strings.__getitem__, column))
        # Backwards, so that the first of a name is the last to be put in and stays.
        named = dict(zip(reversed(names), range(len(names) - 1, -1, -1), strict=True))
        nameless = named.pop("", None) is not None
        unnamed = tuple(i for i, name in enumerate(names) if not name) if nameless else ()
        return MemberIndex(named, unnamed)

    def member(self, id_: int, index: int) -> Member:
        """Return one member of composite *id_* without decoding the others."""
        if id_ < self._first_id and self.base:
            return self.base.member(id_, index)
        words, at = self._words, self._offsets[id_ - self._first_id]
        info = words[at + 1]
        if index >= info & VLEN_MASK:
            raise IndexError(f"type {id_} has no member {index}")
        at += 3 + 3 * index
        name, type_, offset = words[at], words[at + 1], words[at + 2]
        if type_ >= self._count:
            self._check(type_, id_)
        if info & KIND_FLAG:
            return Member(self._strings[name], type_, offset & 0xFFFFFF, offset >> 24)
        return Member(self._strings[name], type_, offset)

    def integer(self, id_: int) -> tuple[int, int]:
        """Return encoding and bit offset of integer *id_* without decoding the rest."""
        if id_ < self._first_id and self.base:
            return self.base.integer(id_)
        word = self._words[self._offsets[id_ - self._first_id] + 3]
        return word >> 24 & 0xF, word >> 16 & 0xFF

    def remember(self, key: Hashable, work_out: Callable[[], _T]) -> _T:
        """Return what *work_out* returned when first asked for *key*: for what others learn of these types."""
        if key not in self._remembered:
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = work_out()
        return cast(_T, self._remembered[key])

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
            # By text, which many types may share: each is compared once.
            same: dict[str, bool] = {}
            for text in map(self.name_of, own):
                if text not in same:
                    same[text] = essential_name(text) == name
            self._flavours[name] = inherited + [id_ for id_ in own if same[self.name_of(id_)]]
        return list(self._flavours[name])

    def _names(self) -> NameIndex:
        if self._index is None:
            self._index = NameIndex(self._words, self._offsets, self._strings, first_id=self._first_id)
        return self._index

    def enum_values(self, enum_name: str) -> dict[str, int]:
        """Return name → value of every enum called *enum_name*, remembered; empty when there is none."""
        return self.remember(("enum", enum_name), lambda: self._enum_values(enum_name))

    def _enum_values(self, enum_name: str) -> dict[str, int]:
        values: dict[str, int] = {}
        for id_ in self.by_name(enum_name):
            type_ = self[id_]
            if isinstance(type_, Enum):
                values.update(type_.values)
        return values

    def functions(self) -> Set[str]:
        """Return the names of all functions. To ask for one is quick; to walk through them reads each name."""
        return _Functions(self)

    def tagged(self, tag: str) -> frozenset[str]:
        """Return the names of the types that carry the declaration tag *tag*, such as ``bpf_kfunc``; remembered."""
        return self.remember(("tagged", tag), lambda: self._tagged(tag))

    def _tagged(self, tag: str) -> frozenset[str]:
        tags = (self[id_] for id_ in self.by_name(tag, Kind.DECL_TAG))
        return frozenset(self[t.type].name for t in tags if isinstance(t, DeclTag) and t.component == -1)

    def resolved(self, id_: int) -> int:
        """Return the id below typedefs and qualifiers, without decoding anything."""
        count = 0
        while (kind := self.kind_of(id_)) in _QUALIFIERS:
            count += 1
            if count > _MAX_CHAIN:
                raise BtfMalformed(f"type {id_} refers to itself, or lies below {_MAX_CHAIN} typedefs and qualifiers")
            id_ = self._third(id_, kind)
        return id_

    def resolve(self, id_: int) -> BtfType:
        """Return what *id_* is below typedefs and qualifiers; its own ``id`` says where that is."""
        return self[self.resolved(id_)]

    def _third(self, id_: int, kind: int) -> int:
        """Return the third word of *id_*: its size, or what it refers to."""
        if id_ < self._first_id and self.base:
            return self.base._third(id_, kind)
        third = self._words[self._offsets[id_ - self._first_id] + 2]
        return third if third < self._count or kind in _SIZED else self._check(third, id_)

    def size_of(self, id_: int) -> int | None:
        """Return the size of *id_* in bytes, or None for what has none (void, functions, endless references)."""
        count = 1
        for _ in range(_MAX_DEPTH):
            kind = self.kind_of(id_)
            if kind in _SIZED:
                size = count * self._third(id_, kind)
            elif kind == Kind.PTR:
                size = count * self.pointer_size
            elif kind == Kind.ARRAY:
                type_ = self[id_]
                assert isinstance(type_, Array)
                count, id_ = count * type_.length, type_.type
                continue
            elif kind in _PASSED:
                id_ = self._third(id_, kind)
                continue
            else:
                return None
            return size if size < 1 << 32 else None
        return None

    @property
    def pointer_size(self) -> int:
        """The size of a pointer in bytes, told by that of the first ``long``; 8 when there is none."""
        if self._pointer is None:
            self._pointer = size if (first := self.first_long) and (size := self.size_of(first)) else 8
        return self._pointer

    @property
    def first_long(self) -> int | None:
        """The id of the first ``long`` of four or eight bytes, by any of its names in C."""
        named = sorted(id_ for name in _LONGS for id_ in self.by_name(name, Kind.INT))
        return next((id_ for id_ in named if self.size_of(id_) in (4, 8)), None)

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


class _Functions(Set[str]):
    """The names of the functions of a BTF, looked up when asked for."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self._btf.by_name(name, Kind.FUNC))

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(map(self._btf.name_of, self._btf.ids_of(Kind.FUNC))))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @classmethod
    def _from_iterable(cls, it: Iterable[_T]) -> frozenset[_T]:  # what | and & give
        return frozenset(it)


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
