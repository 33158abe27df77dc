"""What a CO-RE relocation names: a path from a root type to a field, in the object's types and in a kernel's.

A path is found in the object from its access string, and looked for in a candidate type of the kernel by name, as
libbpf does. What the path is worth (offset, size …) is :mod:`btf.core.relocate`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from btf.core.compatible import Shape, Unrelocatable, fields_compatible, shape_of
from btf.core.effort import spend
from btf.format.index import essential_name
from btf.format.kinds import Array, Composite, Enum
from btf.format.types import Btf, declare

MAX_STEPS = 64
_ACCESS = re.compile(r"\d{1,10}(:\d{1,10})*")
_MAX_INDEX = (1 << 31) - 1
_BITS = (1 << 32) - 1  # libbpf counts bits in 32 bits


class Step(NamedTuple):
    """A named field (number ``at`` of composite ``type``), or an element (number ``at``, of ``type``)."""

    type: int
    at: int
    name: str | None = None


class Wanted(NamedTuple):
    """A step as it is looked for in a kernel: a field by its name and the shape of its type, or an element."""

    at: int
    name: str | None = None
    shape: Shape | None = None


class Path(NamedTuple):
    """A path through the types of ``btf``. ``raw`` also counts the anonymous structs that ``steps`` pass through."""

    btf: Btf
    root: int
    steps: tuple[Step, ...] = ()
    raw: tuple[int, ...] = ()
    bit_offset: int = 0

    @property
    def last(self) -> Step:
        """Where it ends."""
        return self.steps[-1]

    def text(self) -> str:
        """Return it as C would: ``task_struct.comm[3]``, ``enum state::DEAD``, ``struct task_struct``."""
        root = self.btf.resolve(self.root)
        if not self.steps:
            return declare(self.btf[self.root])
        if isinstance(root, Enum):
            return f"{declare(self.btf[self.root])}::{self.steps[0].name}"
        text = self.btf[self.root].name or "{…}"
        for number, step in enumerate(self.steps):
            if step.name is not None:
                text += f".{step.name}"
            elif number or step.at:
                text += f"[{step.at}]"
        return text


def parse_indices(access: str) -> tuple[int, ...]:
    """Return the numbers of an access string such as ``0:1:2``."""
    if not _ACCESS.fullmatch(access):
        raise Unrelocatable("EINVAL", f"access string {access!r} is not numbers between colons")
    indices = tuple(map(int, access.split(":")))
    if len(indices) > MAX_STEPS:
        raise Unrelocatable("EINVAL", f"access string has more than {MAX_STEPS} steps")
    if max(indices) > _MAX_INDEX:
        raise Unrelocatable("EINVAL", f"access string {access!r} has an index past every type")
    return indices


def local_enumerator(btf: Btf, root: int, access: str) -> Path:
    """Return the path to the enumerator that *access* counts to."""
    indices = parse_indices(access)
    type_ = btf.resolve(root)
    if not isinstance(type_, Enum) or len(indices) > 1 or indices[0] >= len(type_.values):
        raise Unrelocatable("EINVAL", f"{access!r} is no enumerator of {btf.text(root)}")
    return Path(btf, root, (Step(type_.id, indices[0], type_.values[indices[0]][0]),), indices)


def local_field(btf: Btf, root: int, access: str) -> Path:
    """Return the path to the field that *access* leads to from type *root*; raise Unrelocatable."""
    indices = parse_indices(access)
    type_ = btf.resolve(root)
    steps = [Step(type_.id, indices[0])]
    bits = indices[0] * _sized(btf, type_.id) * 8
    for index in indices[1:]:
        if isinstance(type_, Composite) and index < len(type_.members):
            member = type_.members[index]
            bits += member.bit_offset
            if member.name:
                steps.append(Step(type_.id, index, member.name))
            type_ = btf.resolve(member.type)
        elif isinstance(type_, Array) and (index < type_.length or _flexible(btf, steps[-1], type_)):
            type_ = btf.resolve(type_.type)
            steps.append(Step(type_.id, index))
            bits += index * _sized(btf, type_.id) * 8
        else:
            raise Unrelocatable("EINVAL", f"access string {access!r} leads out of {btf.text(root)}")
    return Path(btf, root, tuple(steps), indices, bits & _BITS)


def wanted(path: Path) -> tuple[Wanted, ...]:
    """Return the steps of a local *path* to a field as they are looked for: without the object's type ids."""
    btf = path.btf
    return tuple(
        Wanted(s.at) if s.name is None else Wanted(s.at, s.name, shape_of(btf, btf.member(s.type, s.at).type))
        for s in path.steps
    )


def match_enumerator(name: str, target: Btf, candidate: int) -> Path | None:
    """Return the path to the enumerator of *candidate* with the essential name *name*, or None."""
    type_ = target.resolve(candidate)
    if isinstance(type_, Enum):
        spend(len(type_.values), candidate)
        for index, (theirs, _) in enumerate(type_.values):
            if essential_name(theirs) == name:
                return Path(target, candidate, (Step(type_.id, index, theirs),), (index,))
    return None


def match_field(steps: Sequence[Wanted], target: Btf, candidate: int) -> Path | None:
    """Return the path in *candidate* with the names and indices of *steps*, or None; raise Unrelocatable."""
    search = _Search(target)
    return search.path(candidate) if search.follow(steps, candidate) else None


class _Search:
    """One walk through a candidate type; keeps libbpf's book of raw steps, which a failed branch takes back."""

    __slots__ = ("_bits", "_lacking", "_raw", "_steps", "_target")

    def __init__(self, target: Btf) -> None:
        self._target = target
        self._steps: list[Step] = []
        self._raw: list[int] = []
        self._bits = 0
        self._lacking: set[tuple[int, int]] = set()  # (type, depth) where the member at hand is not

    def path(self, root: int) -> Path:
        return Path(self._target, root, tuple(self._steps), tuple(self._raw), self._bits & _BITS)

    def follow(self, steps: Sequence[Wanted], id_: int) -> bool:
        target = self._target
        for number, step in enumerate(steps):
            id_ = target.resolved(id_)
            if step.shape is not None:
                self._lacking.clear()
                found = self._member(step, step.shape, id_)
                if found is None:
                    return False
                id_ = found
                continue
            if number > 0:  # the first index is into an imagined array of the root itself
                type_ = target[id_]
                if not isinstance(type_, Array):
                    return False
                if step.at >= type_.length and not _flexible(target, self._steps[-1], type_):
                    return False
                id_ = target.resolved(type_.type)
            self._room()
            self._steps.append(Step(id_, step.at))
            self._raw.append(step.at)
            if step.at or target.members(id_) is None:  # a struct or union always has a size
                self._bits += step.at * _sized(target, id_) * 8
        return True

    def _member(self, wanted: Wanted, shape: Shape, id_: int) -> int | None:
        """Find the member called as *wanted* in *id_* and its anonymous members; return its type, or None."""
        target = self._target
        id_ = target.resolved(id_)
        if (id_, len(self._raw)) in self._lacking:
            return None
        spend(1, id_)
        members = target.members(id_)
        if members is None or not (members.named or members.unnamed):
            return None
        self._room()
        index = members.named.get(wanted.name or "")
        for unnamed in members.unnamed:
            if index is not None and unnamed > index:
                break
            member = target.member(id_, unnamed)
            self._bits += member.bit_offset
            self._raw.append(unnamed)
            found = self._member(wanted, shape, member.type)
            if found is not None:
                return found
            self._bits -= member.bit_offset
            self._raw.pop()
        if index is None:
            self._lacking.add((id_, len(self._raw)))
            return None
        # The first member of that name decides: an incompatible one ends the search of this struct. libbpf leaves it in
        # the book, should a struct around this one have the name again, which C does not allow.
        member = target.member(id_, index)
        self._bits += member.bit_offset
        self._raw.append(index)
        if not fields_compatible(shape, target, member.type):
            return None
        self._steps.append(Step(id_, index, member.name))
        return member.type

    def _room(self) -> None:
        if len(self._raw) >= MAX_STEPS:
            raise Unrelocatable("E2BIG", f"the kernel's type nests deeper than {MAX_STEPS} steps")


def _sized(btf: Btf, id_: int) -> int:
    size = btf.size_of(id_)
    if size is None:
        raise Unrelocatable("EINVAL", f"{btf.text(id_)} has no size")
    return size


def _flexible(btf: Btf, before: Step, array: Array) -> bool:
    """Whether *array*, reached by step *before*, is a struct's last member without a length: any index is in it."""
    holder = btf.resolve(before.type)
    return (
        before.name is not None
        and array.length == 0
        and isinstance(holder, Composite)
        and before.at == len(holder.members) - 1
    )
