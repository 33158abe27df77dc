"""What the relocations of an object ask, worked out once: the object's side of CO-RE, with no kernel in sight.

A :class:`Question` is in names, not in the object's type ids, so that objects which ask the same share the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from btf.core.access import Path, Wanted, local_enumerator, local_field, match_enumerator, match_field, wanted
from btf.core.compatible import Refused, Unrelocatable, types_compatible, types_match
from btf.core.value import ENUMERATOR_KINDS, FIELD_KINDS, Value, value_of
from btf.format.index import BtfMalformed, essential_name
from btf.format.kinds import Kind
from btf.format.types import Btf, declare
from btf.objects.extension import CoreRelocation, RelocationKind
from btf.objects.insn import SIZE, Insn
from btf.objects.object import BpfObject
from btf.objects.sections import section_meaning

_MAX_TEXT = 1 << 26  # of what all relocations of one object name; a hundred bytes each is usual
# Types that exist wherever one of their name and kind does; others are compared in depth.
_SHALLOW = frozenset({Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.FWD})


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to find in every candidate type of a kernel. Equal ``key``: the same answer from every kernel."""

    key: str
    kind: RelocationKind
    local: Path
    steps: tuple[Wanted, ...] = ()

    @property
    def big_endian(self) -> bool:
        """The byte order of the object."""
        return self.local.btf.big_endian

    def match(self, target: Btf, candidate: int) -> Path | None:
        """Return the path to it in type *candidate*, None when it is not there; raise Unrelocatable."""
        if self.kind in FIELD_KINDS:
            return match_field(self.steps, target, candidate)
        if self.kind in ENUMERATOR_KINDS:
            return match_enumerator(essential_name(self.local.last.name or ""), target, candidate)
        same = types_match if self.kind == RelocationKind.TYPE_MATCHES else types_compatible
        return Path(target, candidate) if same(self.local.btf, self.local.root, target, candidate) else None


@dataclass(frozen=True, slots=True)
class Asked:
    """One relocation of an object. Without a ``question`` it needs no kernel: it is ``refused``, or gets ``old``."""

    row: CoreRelocation
    program: str  # the function that has the instruction
    kind: str  # libbpf's name
    local: str = ""  # what it names, as C would
    path: Path | None = None  # the same in the object's types
    insn: Insn | None = None
    following: Insn | None = None  # the next slot
    old: Value | None = None  # what the instruction has, by the object's types
    root: tuple[str, int] = ("", 0)  # essential name and kind of the candidates
    question: Question | None = None
    refused: Refused | None = None
    optional: bool = False  # of a program that is loaded only when asked for


def asked_by(obj: BpfObject) -> tuple[Asked, ...]:
    """Return what every relocation of *obj* asks of any kernel, in the order of ``.BTF.ext``; worked out once.

    Raise BtfMalformed when they name too much.
    """
    return obj.remember("asked", lambda: _every(obj))


def _every(obj: BpfObject) -> tuple[Asked, ...]:
    if obj.btf is None:
        return ()
    found: list[Asked] = []
    left = _MAX_TEXT
    for row in obj.relocations:
        found.append(_asked(obj, obj.btf, row))
        left -= len(found[-1].local) + (len(question.key) if (question := found[-1].question) else 0)
        if left < 0:
            where = f"relocation {len(found) - 1}, of type {row.type}"
            raise BtfMalformed(f"the names of {where}, and those before are too long")
    return tuple(found)


def _asked(obj: BpfObject, btf: Btf, row: CoreRelocation) -> Asked:
    function = obj.function_at(row.section, row.insn)
    known: dict[str, object] = {"row": row, "program": function.name if function else "", "kind": str(row.kind)}
    known["optional"] = section_meaning(row.section).optional
    try:
        if function is None or row.insn % SIZE:
            raise Unrelocatable("EINVAL", "no function has this instruction")
        kind = _kind(row.kind)
        known["kind"] = kind.name.lower()
        path = _local(btf, row, kind)
        known |= {"path": path, "local": path.text()}
        at = (row.insn - function.start) // SIZE
        slots: Sequence[Insn] = function.instructions
        known |= {"insn": slots[at], "following": slots[at + 1] if at + 1 < len(slots) else None}
        known["old"] = value_of(kind, path, big_endian=btf.big_endian)
        if kind != RelocationKind.LOCAL_TYPE_ID:
            type_ = btf[row.type]
            if not type_.name or row.type == 0:
                raise Unrelocatable("EINVAL", f"{declare(type_)} has no name to look for")
            steps = wanted(path) if kind in FIELD_KINDS else ()
            known["root"] = essential_name(type_.name), int(type_.kind)
            known["question"] = Question(_key(btf, row.type, kind, path, steps), kind, path, steps)
    except Unrelocatable as error:
        known["refused"] = Refused(error.errno, error.detail)
    return Asked(**known)  # type: ignore[arg-type]  # what was learned before the refusal, if there was one


def _kind(number: int) -> RelocationKind:
    try:
        return RelocationKind(number)
    except ValueError:
        raise Unrelocatable("EINVAL", f"relocation kind {number} is unknown") from None


def _local(btf: Btf, row: CoreRelocation, kind: RelocationKind) -> Path:
    """Return what *row* names in the object's own types."""
    if not 0 <= row.type < len(btf):
        raise Unrelocatable("EINVAL", f"the object has no type {row.type}")
    if kind in FIELD_KINDS:
        return local_field(btf, row.type, row.access)
    if kind in ENUMERATOR_KINDS:
        return local_enumerator(btf, row.type, row.access)
    if row.access != "0":
        raise Unrelocatable("EINVAL", f"access string {row.access!r} of a whole type is not 0")
    return Path(btf, row.type)


def _key(btf: Btf, root: int, kind: RelocationKind, path: Path, steps: tuple[Wanted, ...]) -> str:
    """Return all that the answer depends on, given the candidates; text, whose hash is worked out once."""
    if kind in FIELD_KINDS:
        return f"{kind:d} {btf.big_endian:d} {[(s.at, s.name, s.shape and tuple(s.shape)) for s in steps]}"
    if kind in ENUMERATOR_KINDS:
        return f"{kind:d} {essential_name(path.last.name or '')}"
    below = btf.resolve(root).kind
    if kind != RelocationKind.TYPE_MATCHES and below in _SHALLOW:
        return f"{kind:d} {below:d}"
    return f"{kind:d} of object {btf.serial}, type {root}"
