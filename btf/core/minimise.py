"""A kernel's BTF cut down to what given objects need: libbpf relocates them with it exactly as with the whole.

Kept are the types and members that relocations resolve to. Candidates that answer every question alike need only one
of them; qualifiers, typedefs on the way and what pointers point to are left out, since libbpf looks through them. Types
that came out the same are written once, so a kernel's BTF that was never deduplicated gives no more than one that was.
Valid for this kernel build and these objects only.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import replace

from btf.core.access import Path
from btf.core.candidates import candidates
from btf.core.compatible import Unrelocatable
from btf.core.effort import bounded_effort
from btf.core.question import Question, asked_by
from btf.core.relocate import matched_paths
from btf.core.value import value_of
from btf.format.encode import encode_btf
from btf.format.kinds import Array, BtfType, Composite, Const, Enum, FuncProto, Ptr, Reference, Unknown
from btf.format.types import Btf
from btf.objects.extension import RelocationKind
from btf.objects.object import BpfObject


def minimise(objects: Iterable[BpfObject], target: Btf) -> bytes:
    """Return BTF, in the byte order of *target*, that serves the relocations of *objects* as *target* does.

    Type ids are positions: when an object asks for one (``target_type_id``), nothing can be left out. Nor where a
    struct has a name twice, which C does not allow: libbpf then counts members that are not on the way.
    """
    kept = _Kept(target)
    objects = list(objects)
    with bounded_effort(2 * len(objects)):
        spare = _spare(objects, target)
        for obj in objects:
            for kind, path in matched_paths(obj, target):
                if kind == RelocationKind.TARGET_TYPE_ID or not _leads(path):
                    return encode_btf(_in_place(target), big_endian=target.big_endian)
                if path.root not in spare:
                    kept.path(kind, path)
    return encode_btf(kept.types(), big_endian=target.big_endian)


def _leads(path: Path) -> bool:
    """Whether the indices that libbpf counted lead where *path* ends."""
    btf, id_ = path.btf, path.btf.resolved(path.root)
    end = None
    for index in path.raw[1:]:
        type_ = btf[id_]
        if isinstance(type_, Composite) and index < len(type_.members):
            end, id_ = (id_, index), btf.resolved(type_.members[index].type)
        elif isinstance(type_, Array):
            id_ = btf.resolved(type_.type)
            end = id_, index
        else:
            return False
    return end is None or end == (path.last.type, path.last.at)


def _in_place(target: Btf) -> Iterator[BtfType]:
    """Yield every type at its number; what cannot be written, because its kind is not known, becomes ``const void``."""
    for type_ in target[1:]:
        yield Const(type_.id, "", 0) if isinstance(type_, Unknown) else type_


def _spare(objects: Iterable[BpfObject], target: Btf) -> set[int]:
    """Return the candidates that answer whatever *objects* ask as one with a lower id does."""
    wanted: dict[tuple[str, int], dict[str, Question]] = {}
    for obj in objects:
        for row in asked_by(obj):
            if row.question:
                wanted.setdefault(row.root, {})[row.question.key] = row.question
    spare: set[int] = set()
    for root, questions in wanted.items():
        told: set[tuple[object, ...]] = set()
        for _, id_ in candidates(target, *root)[1].types:
            answers = tuple(_answer(question, target, id_) for question in questions.values())
            if answers in told:
                spare.add(id_)
            told.add(answers)
    return spare


def _answer(question: Question, target: Btf, candidate: int) -> object:
    try:
        path = question.match(target, candidate)
        if path is None or question.kind == RelocationKind.TARGET_TYPE_ID:
            return path
        return path.bit_offset, value_of(question.kind, path, big_endian=question.big_endian)
    except Unrelocatable as error:
        return error.errno


def _stable(name: str) -> str:
    """Return *name* without the number that the kernel's ``__UNIQUE_ID`` gives it in each compilation anew."""
    return name.rstrip("0123456789") if name.startswith("__UNIQUE_ID_") else name


class _Kept:
    """What is kept of one BTF: types, and of composites and enums the members kept."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._members: dict[int, set[int]] = {}  # by type id; the members' indices, where the type has members
        self._whole: set[tuple[int, bool]] = set()
        if btf.pointer_size == 4 and btf.first_long:  # which tells it, and must stay for that
            self._members[btf.first_long] = set()

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
        first = self._btf.resolved(id_)
        waiting = [first]
        while waiting:
            id_ = self._btf.resolved(waiting.pop())
            type_ = self._btf[id_]
            if isinstance(type_, Array) and id_ not in self._members:
                waiting += [type_.type, type_.index_type]
            self._members.setdefault(id_, set())
        return first

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
        """Return the kept types in their old order, the same ones once, referring to each other by new numbers."""
        same = self._same()
        new = {first: number for number, first in enumerate(sorted(set(same.values())), 1)}

        def renamed(id_: int) -> int:
            below = self._btf.resolved(id_)
            return new[same[below]] if below in same else 0

        return [self._cut(self._btf[id_], renamed) for id_ in new]

    def _same(self) -> dict[int, int]:
        """Return for each kept type the first that came out the same; those have the same members."""
        while self._share(groups := _grouped({id_: self._alone(self._btf[id_]) for id_ in self._members if id_})):
            pass
        while True:  # the same until they are seen to consist of what is not
            finer = _grouped({id_: (group, self._parts(self._btf[id_], groups)) for id_, group in groups.items()})
            if finer == groups:
                return groups
            groups = finer

    def _share(self, groups: Mapping[int, int]) -> bool:
        """Give the types of each group one another's members; return whether any was new."""
        every: dict[int, set[int]] = {}
        for id_, group in groups.items():
            every.setdefault(group, set()).update(self._members[id_])
        lacking = [(id_, index) for id_, group in groups.items() for index in every[group] - self._members[id_]]
        for id_, index in lacking:
            type_ = self._btf[id_]
            if isinstance(type_, Composite):
                self._member(type_, index)
            else:
                self._members[id_].add(index)
        return bool(lacking)

    def _alone(self, type_: BtfType) -> Hashable:
        """Return what *type_* is apart from the types it consists of."""
        match type_:
            case Composite():
                members = tuple((_stable(m.name), m.bit_offset, m.bit_size) for m in type_.members)
                return type_.kind, type_.name, type_.size, members
            case Array():
                return type_.kind, type_.length
            case Ptr():
                return type_.kind, self._followed(type_)
            case FuncProto():
                return type_.kind, tuple(name for name, _ in type_.parameters)
            case Reference():
                return type_.kind, replace(type_, id=0, type=0)
            case _:
                return type_.kind, replace(type_, id=0)

    def _parts(self, type_: BtfType, groups: Mapping[int, int]) -> tuple[int | None, ...]:
        """Return the groups of the types that *type_* is written with."""
        match type_:
            case Composite():
                used = [type_.members[index].type for index in sorted(self._members[type_.id])]
            case Array():
                used = [type_.type, type_.index_type]
            case Ptr():
                used = [type_.type] if self._followed(type_) else []
            case FuncProto():
                used = [type_.type, *(parameter for _, parameter in type_.parameters)]
            case Reference():
                used = [type_.type]
            case _:
                used = []
        return tuple(groups.get(self._btf.resolved(id_)) for id_ in used)

    def _followed(self, pointer: Ptr) -> bool:
        return bool({(pointer.id, True), (pointer.id, False)} & self._whole)

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
                return replace(type_, type=renamed(type_.type) if self._followed(type_) else 0)
            case FuncProto():
                parameters = tuple((name, renamed(id_)) for name, id_ in type_.parameters)
                return replace(type_, type=renamed(type_.type), parameters=parameters)
            case Reference():
                return replace(type_, type=renamed(type_.type))
            case _:
                return type_


def _grouped(keys: Mapping[int, Hashable]) -> dict[int, int]:
    """Return for each id the first with the same key."""
    first: dict[Hashable, int] = {}
    return {id_: first.setdefault(keys[id_], id_) for id_ in sorted(keys)}
