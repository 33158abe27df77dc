"""Whether a field that relocates is still what an object reads it as: one rule per way in which it may not be.

A rule sees the field in the object's types, in the kernel's, and how the object's instructions read it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from btf.core.access import Path
from btf.core.relocate import RelocationOutcome
from btf.drift.reads import Read, uses
from btf.format.index import essential_name
from btf.format.kinds import Array, BtfType, Composite, Enum, Fwd, Int, Member, Ptr
from btf.format.types import Btf
from btf.objects.insn import ALU, ALU64, CLASS_MASK, LD_IMM64, SIZE
from btf.objects.object import BpfObject

_MOST_PAIRS = 200  # of types nested in each other; deeper and more is not compared


class _Side(NamedTuple):
    """What a path ends at, in one BTF. ``bits`` is None unless it is a bitfield: where it begins in its load, how
    many there are."""

    btf: Btf
    id: int
    type: BtfType
    size: int
    bits: tuple[int, int] | None

    def text(self) -> str:
        words = self.btf.text(self.id)
        return f"{words} : {self.bits[1]}" if self.bits else words


class Change(NamedTuple):
    """What a rule found: (code, was, now, detail)."""

    code: str
    was: str
    now: str
    detail: str


def change_of(ours: Path, theirs: Path, scene: Scene) -> Change | None:
    """Return how the field at the end of *theirs* is not what *ours* reads it as, None when nothing shows that."""
    one, other = _side(ours), _side(theirs)
    if one is None or other is None:
        return None
    return next((change for rule in _RULES if (change := rule(one, other, scene))), None)


def differs(ours: Path, theirs: Path) -> bool:
    """Whether anything can be wrong: for most fields it cannot, which is told without looking at instructions."""
    one, other = _side(ours), _side(theirs)
    return one is not None and other is not None and not _plainly_equal(one, other)


def _side(path: Path) -> _Side | None:
    """Return what *path* ends at, None when that has no size."""
    btf, step = path.btf, path.last
    holder = btf[step.type]
    if step.name is None or not isinstance(holder, Composite):
        id_, bits = step.type, None
    else:
        member = holder.members[step.at]
        id_, bits = member.type, _bits(btf, path, member)
    type_ = btf.resolve(id_)
    size = btf.size_of(type_.id)
    return None if size is None else _Side(btf, id_, type_, size, bits)


def _bits(btf: Btf, path: Path, member: Member) -> tuple[int, int] | None:
    size = btf.size_of(member.type)
    if not member.bit_size or not size:
        return None
    return path.bit_offset % (8 * size), member.bit_size


def _plainly_equal(ours: _Side, theirs: _Side) -> bool:
    """Whether nothing can be wrong: by far the most frequent case, told without looking at instructions."""
    if ours.size != theirs.size or ours.bits != theirs.bits:
        return False
    one, other = ours.type, theirs.type
    return isinstance(one, Int) and isinstance(other, Int) and one.signed == other.signed


@dataclass(frozen=True, slots=True)
class Scene:
    """Where the object uses a field: looked at only when the field differs."""

    obj: BpfObject
    outcome: RelocationOutcome
    relocated: Collection[int]  # all relocated instructions of the section
    roots: Collection[str]  # the structs the object takes fields of
    shifted: bool  # the function also asks where the bits of this field are

    def reading(self, size: int) -> Read | None:
        """Return a read of exactly *size* bytes, the object's own, from the field's first byte on.

        There is none where the load itself is relocated: that one is in the kernel's size.
        """
        return next((r for r in self._reads() if r.offset == 0 and r.size == size), None)

    def _reads(self) -> Iterator[Read]:
        outcome = self.outcome
        function = self.obj.function_at(outcome.section, outcome.insn)
        if function is None:
            return
        index = (outcome.insn - function.start) // SIZE
        insn = function.instructions[index]
        if insn.code & CLASS_MASK in (ALU, ALU64) or insn.code == LD_IMM64:
            after = index + (2 if insn.code == LD_IMM64 else 1)
            yield from (u for u in uses(function, after, insn.dst, self.relocated) if isinstance(u, Read))


def _pointer(ours: _Side, theirs: _Side, scene: Scene) -> Change | None:
    """A pointer to another struct, whose fields the object then looks for at that address."""
    if not isinstance(ours.type, Ptr) or not isinstance(theirs.type, Ptr):
        return None
    one, other = ours.btf.resolve(ours.type.type), theirs.btf.resolve(theirs.type.type)
    names = essential_name(one.name), essential_name(other.name)
    if not isinstance(one, Composite | Fwd) or not isinstance(other, Composite | Fwd):
        return None
    if not all(names) or names[0] == names[1] or names[0] not in scene.roots:
        return None
    return Change("field-type", ours.text(), theirs.text(), f"what it points to is no {names[0]}")


def _bitfield(ours: _Side, theirs: _Side, scene: Scene) -> Change | None:
    """A bitfield on one side, or other bits of the load: read as if nothing had happened."""
    if ours.bits == theirs.bits:
        return None
    if ours.bits is None:
        read = scene.reading(ours.size)
        if read is None:
            return None
        return Change("bitfield", ours.text(), theirs.text(), f"{_by(read)} takes its neighbours' bits along")
    if scene.shifted:
        return None
    return Change("bitfield", ours.text(), theirs.text(), "it is cut out of the load where it was")


def _scalar(ours: _Side, theirs: _Side, scene: Scene) -> Change | None:
    """An integer, enum or pointer of another size, read in the object's; or an integer with another sign."""
    if not isinstance(ours.type, Int | Enum | Ptr) or ours.bits or theirs.bits:
        return None
    was, now = ours.text(), theirs.text()
    if ours.size != theirs.size:
        read = scene.reading(ours.size)
        if read is None:
            return None
        if was == now:
            was, now = f"{was} of {ours.size} bytes", f"of {theirs.size}"
        return Change("field-size", was, now, _measured(read, theirs.size))
    if isinstance(ours.type, Int) and isinstance(theirs.type, Int) and _signs_differ(ours.type, theirs.type):
        return Change("field-sign", was, now, "large values change their sign")
    return None


def _signs_differ(one: Int, other: Int) -> bool:
    """Whether a number may be read with the wrong sign; char is whatever the compiler likes, bool has none."""
    return one.signed != other.signed and one.size > 1


def _array(ours: _Side, theirs: _Side, scene: Scene) -> Change | None:
    """An array read whole in the object's length."""
    if not isinstance(ours.type, Array) or ours.size == theirs.size or not ours.size:
        return None
    # An array without a length has as many elements as were made room for: any may be read.
    read = scene.reading(ours.size) if theirs.size else None
    if read is None:
        return None
    return Change("array-length", ours.text(), theirs.text(), _measured(read, theirs.size))


def _composite(ours: _Side, theirs: _Side, scene: Scene) -> Change | None:
    """A struct read whole, whose members lie elsewhere on the kernel."""
    if not isinstance(ours.type, Composite) or not isinstance(theirs.type, Composite) or not ours.size:
        return None
    if scene.reading(ours.size) is None:
        return None
    moved = _moved(ours.btf, ours.type, theirs.btf, theirs.type)
    if moved is None:
        return None
    name, was, now = moved
    return Change("layout", f"{ours.text()} with {name} at {was}", f"{theirs.text()} with {now}", "it is read whole")


def _moved(
    ours: Btf, one: Composite, theirs: Btf, other: Composite, seen: set[tuple[int, int]] | None = None
) -> tuple[str, str, str] | None:
    """Return the first member of *one* that lies elsewhere in *other*: (name, byte offset there, where it is here).

    *seen* are the pairs of types compared before: each is compared once, however often it is nested.
    """
    seen = set() if seen is None else seen
    if (one.id, other.id) in seen or len(seen) > _MOST_PAIRS:
        return None
    seen.add((one.id, other.id))
    here = {m.name: m for m in other.members if m.name}
    if any(not m.name for m in (*one.members, *other.members)):
        return None  # through anonymous members names alone do not tell
    for member in one.members:
        like = here.get(member.name)
        if like is None:
            return member.name, f"byte {member.bit_offset // 8}", "no such member"
        if like.bit_offset != member.bit_offset:
            return member.name, f"byte {member.bit_offset // 8}", f"it at {like.bit_offset // 8}"
        inner = ours.resolve(member.type), theirs.resolve(like.type)
        if isinstance(inner[0], Composite) and isinstance(inner[1], Composite):
            found = _moved(ours, inner[0], theirs, inner[1], seen)
            if found:
                return f"{member.name}.{found[0]}", *found[1:]
        elif ours.size_of(member.type) != theirs.size_of(like.type):
            sizes = ours.size_of(member.type), theirs.size_of(like.type)
            return member.name, f"{member.bit_offset // 8} in {sizes[0]} bytes", f"it in {sizes[1]} bytes"
    return None


def _enum(ours: _Side, theirs: _Side, scene: Scene) -> Change | None:  # noqa: ARG001  one signature for all rules
    """An enum whose constants were renumbered."""
    if not isinstance(ours.type, Enum) or not isinstance(theirs.type, Enum):
        return None
    changed = next(iter(renumbered(ours.type, theirs.type)), None)
    if changed is None:
        return None
    name, was, now = changed
    return Change("enumerator", f"{ours.text()} with {name} = {was}", f"with {name} = {now}", "its values mean others")


def renumbered(one: Enum, other: Enum) -> list[tuple[str, int, int]]:
    """Return (name, was, now) of every constant that both have, with another value; counters of constants are none."""
    here = {essential_name(name): value for name, value in other.values}
    rows = ((name, value, here.get(essential_name(name))) for name, value in one.values)
    return [(name, was, now) for name, was, now in rows if now is not None and now != was and not _counts(name)]


def _counts(name: str) -> bool:
    """Whether a constant only says how many there are: that it grows is no change of meaning."""
    words = name.upper().strip("_").split("_")
    return bool({"MAX", "NR", "LAST", "COUNT", "NUM", "END"} & set(words))


_Rule = Callable[[_Side, _Side, Scene], Change | None]
_RULES: tuple[_Rule, ...] = (_bitfield, _pointer, _scalar, _enum, _array, _composite)


def _measured(read: Read, size: int) -> str:
    """Say what a read of another length than the field's *size* gets."""
    if read.size > size:
        return f"{_by(read)} reads {read.size} bytes where it has {size}, the rest is another's"
    return f"{_by(read)} reads only {read.size} of its {size} bytes"


def _by(read: Read) -> str:
    return "a load" if read.by == "load" else read.by
