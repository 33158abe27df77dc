"""A kernel's BTF cut down to what given objects need: libbpf relocates them with it exactly as with the whole.

Kept are the types and members that relocations resolve to, in every candidate that has them; qualifiers, typedefs on
the way and what pointers point to are left out, since libbpf looks through them. Valid for this kernel build and these
objects only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from btf.access import Path
from btf.encode import encode_btf
from btf.extension import RelocationKind
from btf.kinds import Array, BtfType, Composite, Enum, FuncProto, Kind, Ptr, Reference
from btf.object import BpfObject
from btf.relocate import matched_paths
from btf.types import Btf


def minimise(objects: Iterable[BpfObject], target: Btf) -> bytes:
    """Return BTF, in the byte order of *target*, that serves the relocations of *objects* as *target* does.

    Type ids are positions: when an object asks for one (``target_type_id``), nothing can be left out.
    """
    kept = _Kept(target)
    for obj in objects:
        for kind, path in matched_paths(obj, target):
            if kind == RelocationKind.TARGET_TYPE_ID:
                return encode_btf(target[1:], big_endian=target.big_endian)
            kept.path(kind, path)
    return encode_btf(kept.types(), big_endian=target.big_endian)


class _Kept:
    """What is kept of one BTF: types, and of composites and enums the members kept."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._members: dict[int, set[int]] = {}  # by type id; the members' indices, where the type has members
        self._whole: set[tuple[int, bool]] = set()
        if btf.pointer_size == 4:  # told by the size of long, which must stay for that
            self._members.update(
                (id_, set()) for id_ in btf.by_name("long int", Kind.INT) + btf.by_name("long", Kind.INT)
            )

    def path(self, kind: RelocationKind, path: Path) -> None:
        """Keep what *path* passes, and as much of its end as *kind* looks at."""
        self._root(path.root)
        if kind == RelocationKind.TYPE_MATCHES:
            self._all(path.root, behind_pointer=False)
        elif kind in (RelocationKind.ENUMVAL_EXISTS, RelocationKind.ENUMVAL_VALUE):
            self._members[path.last.type].add(path.last.at)
        elif not path.steps:
            self._shape(path.root)
        else:
            self._walk(path)

    def _root(self, id_: int) -> None:
        self._members.setdefault(id_, set())
        self._keep(id_)

    def _keep(self, id_: int) -> int:
        """Keep the type below typedefs and qualifiers, without members; return its id."""
        type_ = self._btf.resolve(id_)
        self._members.setdefault(type_.id, set())
        if isinstance(type_, Array):
            self._keep(type_.type)
            self._keep(type_.index_type)
        return type_.id

    def _walk(self, path: Path) -> None:
        id_ = self._keep(path.root)
        for index in path.raw[1:]:
            type_ = self._btf[id_]
            if isinstance(type_, Composite):
                id_ = self._member(type_, index)
            elif isinstance(type_, Array):
                id_ = self._keep(type_.type)

    def _member(self, composite: Composite, index: int) -> int:
        kept = self._members.setdefault(composite.id, set())
        kept.add(index)
        id_ = self._keep(composite.members[index].type)
        type_ = self._btf[id_]
        # An array without length counts as open-ended when it is the last member: it must not become that.
        if isinstance(type_, Array) and type_.length == 0 and index + 1 < len(composite.members):
            kept.add(index + 1)
            self._keep(composite.members[index + 1].type)
        return id_

    def _shape(self, id_: int) -> None:
        """Keep what the existence of a type is told by: kinds along pointers, arrays and signatures."""
        seen = set()
        waiting = [id_]
        while waiting:
            type_ = self._btf[self._keep(waiting.pop())]
            if type_.id in seen:
                continue
            seen.add(type_.id)
            if isinstance(type_, Ptr | Array):
                self._whole.add((type_.id, True))
                waiting.append(type_.type)
            elif isinstance(type_, FuncProto):
                waiting += [type_.type, *(parameter for _, parameter in type_.parameters)]

    def _all(self, id_: int, *, behind_pointer: bool) -> None:
        """Keep all that a match of whole types looks at; behind a pointer only names count."""
        waiting = [(id_, behind_pointer)]
        while waiting:
            id_, behind = waiting.pop()
            type_ = self._btf[self._keep(id_)]
            if (type_.id, behind) in self._whole:
                continue
            self._whole.add((type_.id, behind))
            match type_:
                case Ptr():
                    waiting.append((type_.type, True))
                case Array():
                    waiting.append((type_.type, behind))
                case FuncProto():
                    waiting += [(type_.type, behind), *((parameter, behind) for _, parameter in type_.parameters)]
                case Composite() if not behind:
                    self._members[type_.id] |= set(range(len(type_.members)))
                    waiting += [(member.type, False) for member in type_.members]
                case Enum():
                    self._members[type_.id] |= set(range(len(type_.values)))
                case _:
                    pass

    def types(self) -> list[BtfType]:
        """Return the kept types in their old order, referring to each other by their new numbers."""
        old = sorted(id_ for id_ in self._members if id_)
        new = {id_: number for number, id_ in enumerate(old, 1)}

        def renamed(id_: int) -> int:
            return new.get(self._btf.resolve(id_).id, 0)

        return [self._cut(self._btf[id_], renamed) for id_ in old]

    def _cut(self, type_: BtfType, renamed: Callable[[int], int]) -> BtfType:
        kept = self._members[type_.id]
        match type_:
            case Composite():
                members = (m._replace(type=renamed(m.type)) for i, m in enumerate(type_.members) if i in kept)
                return replace(type_, members=tuple(members))
            case Enum():
                return replace(type_, values=tuple(v for i, v in enumerate(type_.values) if i in kept))
            case Array():
                return replace(type_, type=renamed(type_.type), index_type=renamed(type_.index_type))
            case Ptr():
                followed = {(type_.id, True), (type_.id, False)} & self._whole
                return replace(type_, type=renamed(type_.type) if followed else 0)
            case FuncProto():
                parameters = tuple((name, renamed(id_)) for name, id_ in type_.parameters)
                return replace(type_, type=renamed(type_.type), parameters=parameters)
            case Reference():
                return replace(type_, type=renamed(type_.type))
            case _:
                return type_
