"""What differs between the types of two kernels: structs, enums, typedefs and functions, by name, in words.

Types are compared as C declares them, not by their numbers, which differ with every build. Anonymous members count as
their parent's own. Several types of one name are compared as a set. What a pointer to a function takes is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from btf.core.relocate import RelocationOutcome, relocate
from btf.format.index import essential_name
from btf.format.kinds import Composite, Enum, FuncProto, Kind, Reference
from btf.format.types import Btf
from btf.objects.extension import RelocationKind
from btf.objects.object import BpfObject

_TYPE_ID = RelocationKind.TARGET_TYPE_ID.name.lower()
_MAX_UNNAMED = 1024  # anonymous structs and unions of one type, at all depths
_MAX_DEPTH = 16  # anonymous structs inside each other
_SORTS: Mapping[str, tuple[Kind, ...]] = {
    "struct": (Kind.STRUCT,),
    "union": (Kind.UNION,),
    "enum": (Kind.ENUM, Kind.ENUM64),
    "typedef": (Kind.TYPEDEF,),
    "function": (Kind.FUNC,),
}


@dataclass(frozen=True, slots=True)
class Change:
    """One name that differs: ``added``, ``removed`` or ``changed``, and then in ``words`` what, a line each."""

    sort: str  # struct union enum typedef function enumerator
    name: str
    change: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Field:
    """A member of a composite, seen from the outermost: offset and width in bits, 0 when it is no bitfield."""

    name: str
    bit_offset: int
    width: int
    text: str

    @property
    def place(self) -> str:
        """Where it is, in words."""
        at = f"byte {self.bit_offset // 8}" + (f" bit {self.bit_offset % 8}" if self.bit_offset % 8 else "")
        bits = f"{self.width} bit" + ("s" if self.width > 1 else "")
        return f"{at}, {bits}" if self.width else at


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a type counts: size in bytes (None without one), its fields, enumerators, or its declaration as text."""

    size: int | None = None
    fields: tuple[Field, ...] = ()
    values: tuple[tuple[str, int], ...] = ()
    text: str = ""


def difference(old: Btf, new: Btf, names: Collection[str] | None = None) -> list[Change]:
    """Return what differs from *old* to *new*, by sort and name; of the types called one of *names*, or of all."""
    changes: list[Change] = []
    for sort, kinds in _SORTS.items():
        before, after = (_shapes(btf, kinds, names) for btf in (old, new))
        changes += _compare(sort, before, after)
    return changes + list(_anonymous_enumerators(old, new, names))


def summary(changes: Collection[Change]) -> dict[str, dict[str, int]]:
    """Return how many were added, removed and changed, by sort."""
    counts = {sort: {"added": 0, "removed": 0, "changed": 0} for sort in (*_SORTS, "enumerator")}
    for change in changes:
        counts[change.sort][change.change] += 1
    return counts


def _compare(sort: str, before: Mapping[str, set[Shape]], after: Mapping[str, set[Shape]]) -> Iterator[Change]:
    for name in sorted({*before, *after}):
        mine, theirs = before.get(name), after.get(name)
        if mine is None:
            yield Change(sort, name, "added")
        elif theirs is None:
            yield Change(sort, name, "removed")
        elif mine != theirs:
            gone, come = sorted(mine - theirs, key=repr), sorted(theirs - mine, key=repr)
            if gone and come:
                words = tuple(_words(gone[0], come[0]))
            else:  # one of several of the name
                words = (f"{len(mine)} → {len(theirs)} types of this name",)
            yield Change(sort, name, "changed", words)


def _words(old: Shape, new: Shape) -> Iterator[str]:
    if old.size != new.size:
        yield f"size: {old.size} → {new.size} bytes"
    if old.text != new.text:
        yield f"{old.text} → {new.text}"
    mine, theirs = {f.name: f for f in old.fields}, {f.name: f for f in new.fields}
    for field in old.fields:
        if field.name not in theirs:
            yield f"{field.name}: gone ({field.text}, {field.place})"
    for field in new.fields:
        before = mine.get(field.name)
        if before is None:
            yield f"{field.name}: new ({field.text}, {field.place})"
        elif before != field:
            text = f"{before.text} → {field.text}" if before.text != field.text else ""
            place = f"{before.place} → {field.place}" if before.place != field.place else ""
            yield f"{field.name}: {', '.join(filter(None, (text, place)))}"
    said = dict(old.values)
    for name, value in old.values:
        if name not in dict(new.values):
            yield f"{name}: gone (was {value})"
    for name, value in new.values:
        if name not in said:
            yield f"{name}: new ({value})"
        elif said[name] != value:
            yield f"{name}: {said[name]} → {value}"


def _shapes(btf: Btf, kinds: tuple[Kind, ...], names: Collection[str] | None) -> dict[str, set[Shape]]:
    found: dict[str, set[Shape]] = {}
    wanted = None if names is None else frozenset(names)
    texts: dict[int, str] = {}

    def text(id_: int) -> str:
        if id_ not in texts:
            texts[id_] = btf.text(id_)
        return texts[id_]

    for kind in kinds:
        if wanted is None:
            ids: Collection[int] = btf.ids_of(kind)
        else:
            ids = [id_ for name in wanted for id_ in btf.by_name(name, kind)]
        for id_ in ids:
            name = btf.name_of(id_)
            if name:
                found.setdefault(name, set()).add(_shape(btf, id_, text))
    return found


def _shape(btf: Btf, id_: int, text: Callable[[int], str]) -> Shape:
    type_ = btf[id_]
    if isinstance(type_, Composite):
        return Shape(type_.size, tuple(_fields(btf, id_, text, [_MAX_UNNAMED])))
    if isinstance(type_, Enum):
        return Shape(type_.size, values=tuple(type_.values))
    assert isinstance(type_, Reference)
    if type_.kind == Kind.FUNC:
        return Shape(text=_prototype(btf, type_.type, text))
    target = btf[type_.type]
    if isinstance(target, Composite | Enum) and not target.name:  # typedef struct {…} name
        return _shape(btf, type_.type, text)
    return Shape(text=_prototype(btf, type_.type, text) if isinstance(target, FuncProto) else text(type_.type))


def _fields(
    btf: Btf, id_: int, text: Callable[[int], str], left: list[int], base: int = 0, depth: int = 0
) -> Iterator[Field]:
    type_ = btf[id_]
    assert isinstance(type_, Composite)
    for number, member in enumerate(type_.members):
        inner = btf.resolve(member.type)
        if not member.name and isinstance(inner, Composite) and depth < _MAX_DEPTH and left[0] > 0:
            left[0] -= 1
            yield from _fields(btf, inner.id, text, left, base + member.bit_offset, depth + 1)
        else:
            name = member.name or f"(unnamed {number})"
            yield Field(name, base + member.bit_offset, member.bit_size, text(member.type))


def _prototype(btf: Btf, id_: int, text: Callable[[int], str]) -> str:
    """Return a prototype as C has it; names of parameters do not count."""
    proto = btf[id_]
    if not isinstance(proto, FuncProto):
        return text(id_)
    parameters = [text(type_) if type_ else "..." for _, type_ in proto.parameters]
    return f"{text(proto.type)} ({', '.join(parameters) or 'void'})"


def _anonymous_enumerators(old: Btf, new: Btf, names: Collection[str] | None) -> Iterator[Change]:
    """Compare the enumerators of enums without a name, which have nothing else to go by."""
    before, after = _loose(old), _loose(new)
    for name in sorted({*before, *after}):
        if before.get(name) == after.get(name) or (names is not None and name not in names):
            continue
        if name not in before:
            yield Change("enumerator", name, "added", (f"{after[name]}",))
        elif name not in after:
            yield Change("enumerator", name, "removed", (f"was {before[name]}",))
        else:
            yield Change("enumerator", name, "changed", (f"{before[name]} → {after[name]}",))


def _loose(btf: Btf) -> dict[str, int]:
    enums = (btf[id_] for kind in (Kind.ENUM, Kind.ENUM64) for id_ in btf.ids_of(kind) if not btf.name_of(id_))
    return {name: value for enum in enums if isinstance(enum, Enum) for name, value in enum.values}


@dataclass(frozen=True, slots=True)
class Touched:
    """One thing that an object asks of its kernel and that becomes something else: outcome and value before, after."""

    local: str
    kind: str
    function: str
    before: str
    after: str
    worse: bool


def touched(obj: BpfObject, old: Btf, new: Btf) -> tuple[list[Touched], int, frozenset[str]]:
    """Return what *obj* asks of both kernels and gets answered otherwise; how many asks stay; the types it names."""
    found: dict[tuple[str, str, str], Touched] = {}
    same, named = set(), set()
    for one, other in zip(relocate(obj, old), relocate(obj, new), strict=True):
        if one.ours is not None:
            named.add(essential_name(one.ours.btf.resolve(one.ours.root).name))
        if one.kind == RelocationKind.LOCAL_TYPE_ID.name.lower():
            continue
        before, after = _became(one), _became(other)
        # A type's number is another in every build, and means the same.
        if before == after or (one.kind, one.outcome) == (_TYPE_ID, other.outcome):
            same.add((one.local, one.kind, one.program))
        else:
            worse = one.outcome == "value" and one.found and not (other.outcome == "value" and other.found)
            found[one.local, one.kind, one.program] = Touched(
                one.local, one.kind, one.program, before, after, worse
            )  # fmt: skip
    return sorted(found.values(), key=lambda t: (not t.worse, t.local, t.kind)), len(same), frozenset(named)


def _became(outcome: RelocationOutcome) -> str:
    if outcome.outcome == "value":
        return f"{outcome.value}" if outcome.found else "absent"
    return f"{outcome.outcome} ({outcome.detail})" if outcome.detail else outcome.outcome
