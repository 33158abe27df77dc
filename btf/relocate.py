"""What libbpf would make of every CO-RE relocation of an object on a kernel with given BTF. Loads nothing.

For each relocation: candidates are the kernel's types of the same essential name and kind; each is searched for the
path; those that have it must agree on offset and value. No candidate left: existence is 0, anything else poisons the
instruction, which is harmless as long as nothing reaches it. Candidates that lacked one path are out for later
relocations of the same type, as in libbpf, which keeps one list per type for the whole object.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from btf.access import Path, local_enumerator, local_field, match_enumerator, match_field
from btf.compatible import Unrelocatable, kinds_compatible, types_compatible, types_match
from btf.extension import CoreRelocation, RelocationKind
from btf.index import essential_name
from btf.insn import SIZE, Insn
from btf.kinds import Int, Ptr
from btf.object import BpfObject
from btf.patch import POISON, patch, poison
from btf.reach import reached
from btf.sections import section_meaning
from btf.types import Btf, declare
from btf.value import ABSENT, ENUMERATOR_KINDS, FIELD_KINDS, Value, value_of


@dataclass(frozen=True, slots=True)
class RelocationOutcome:
    """What became of one relocation.

    ``outcome``: ``value``; ``poisoned``: the kernel lacks it, or reads it in another size; ``ambiguous``: candidates
    disagree; ``failed``: libbpf refuses for another reason. The last two refuse the whole object.
    ``guarded``: a poisoned instruction that no path through the program reaches on this kernel.
    """

    program: str  # the function that has the instruction
    section: str
    insn: int  # byte offset in the section
    kind: str  # libbpf's name
    local: str  # what the program names, as C would: task_struct.comm[3]
    outcome: str
    value: int | None = None  # what the instruction gets, as libbpf counts: 64 bits, unsigned
    found: bool = True  # whether the kernel has what is named; a missing field that is asked about is a value, too
    guarded: bool = False
    detail: str = ""
    errno: str | None = None
    ours: Path | None = field(default=None, repr=False, compare=False)  # what is named, in the object's types
    theirs: Path | None = field(default=None, repr=False, compare=False)  # what it was resolved by, in the kernel's

    @property
    def fatal(self) -> bool:
        """Whether libbpf refuses the whole object because of it."""
        return self.outcome in ("ambiguous", "failed")


def relocate(obj: BpfObject, target: Btf) -> tuple[RelocationOutcome, ...]:
    """Return the outcome of every CO-RE relocation of *obj* against *target*, in the order of ``.BTF.ext``."""
    return relocated(obj, target)[0]


def relocated(
    obj: BpfObject, target: Btf
) -> tuple[tuple[RelocationOutcome, ...], dict[tuple[str, int], tuple[Insn, ...]]]:
    """As :func:`relocate`, and the changed instruction slots by (section, byte offset)."""
    if obj.btf is None or not obj.relocations:
        return (), {}
    search = _Candidates(obj.btf, target)
    outcomes: dict[int, RelocationOutcome] = {}
    patches: dict[tuple[str, int], tuple[Insn, ...]] = {}
    for number, row in _in_turn(obj):
        outcomes[number], slots = _one(obj, row, search)
        if slots:
            patches[row.section, row.insn] = slots
    in_order = [outcomes[number] for number in range(len(outcomes))]
    if any(o.outcome == "poisoned" for o in in_order):
        alive = reached(obj, patches)
        in_order = [
            replace(o, guarded=True) if o.outcome == "poisoned" and (o.section, o.insn) not in alive else o
            for o in in_order
        ]
    return tuple(in_order), patches


def _one(obj: BpfObject, row: CoreRelocation, search: _Candidates) -> tuple[RelocationOutcome, tuple[Insn, ...]]:
    """Resolve and apply one relocation; return what became of it and the changed slots."""
    function = obj.function_at(row.section, row.insn)
    name = function.name if function else ""
    local_text = ""
    kind_text = str(row.kind)
    local: Path | None = None

    def outcome(word: str, **more: object) -> RelocationOutcome:
        return RelocationOutcome(name, row.section, row.insn, kind_text, local_text, word, ours=local, **more)  # type: ignore[arg-type]  # keywords of the dataclass, passed through

    try:
        if function is None or row.insn % SIZE:
            raise Unrelocatable("EINVAL", "no function has this instruction")
        kind = _kind(row.kind)
        kind_text = kind.name.lower()
        local = search.local(row, kind)
        local_text = local.text()
        at = (row.insn - function.start) // SIZE
        insn = function.instructions[at]
        following = function.instructions[at + 1] if at + 1 < len(function.instructions) else None
        old = value_of(kind, local)
        if kind == RelocationKind.LOCAL_TYPE_ID:
            return outcome("value", value=old.number), patch(insn, following, old, old, resizable=True)
        found = _agreed(kind, search.matching(row.type, kind, local))
        if found is None:
            if kind not in ABSENT:
                return outcome("poisoned", found=False, detail=search.missing(local, kind)), poison(insn, following)
            new, resizable = Value(ABSENT[kind]), True
        else:
            path, new = found
            resizable = _resizable(local.btf, old, path.btf, new)
        slots = patch(insn, following, old, new, resizable=resizable)
    except _Ambiguous as error:
        return outcome("ambiguous", detail=error.detail, errno=error.errno), ()
    except Unrelocatable as error:
        return outcome("failed", detail=error.detail, errno=error.errno), ()
    if slots[0] is POISON:
        detail = f"{old.size} bytes in the object, {new.size} in the kernel"
        return outcome("poisoned", detail=detail, theirs=found and found[0]), slots
    return outcome("value", value=new.number, found=found is not None, theirs=found and found[0]), slots


def _agreed(kind: RelocationKind, paths: list[Path]) -> tuple[Path, Value] | None:
    """Return the path and value that all of *paths* agree on, None when there is none; raise when they do not."""
    if not paths:
        return None
    first, value = paths[0], value_of(kind, paths[0])
    for path in paths[1:]:
        other = value_of(kind, path)
        if path.bit_offset != first.bit_offset:
            there, here = first.bit_offset / 8, path.bit_offset / 8
            raise _Ambiguous("EINVAL", f"types of that name have it at {there:g} and at {here:g}")
        if other.number != value.number:
            raise _Ambiguous("EINVAL", f"types of that name say {value.number} and {other.number}")
    return first, value


def matched_paths(obj: BpfObject, target: Btf) -> Iterator[tuple[RelocationKind, Path]]:
    """Yield what of *target* the relocations of *obj* are resolved by: every path of every candidate that has it."""
    if obj.btf is None:
        return
    search = _Candidates(obj.btf, target)
    for _, row in _in_turn(obj):
        try:
            kind = _kind(row.kind)
            if kind == RelocationKind.LOCAL_TYPE_ID:
                continue
            paths = search.matching(row.type, kind, search.local(row, kind))
        except Unrelocatable:  # libbpf refuses the object here, with whatever BTF
            continue
        yield from ((kind, path) for path in paths)


def _in_turn(obj: BpfObject) -> list[tuple[int, CoreRelocation]]:
    # libbpf passes over programs that are not loaded: optional ones come last and leave no trace on the others.
    return sorted(enumerate(obj.relocations), key=lambda row: section_meaning(row[1].section).optional)


def _kind(number: int) -> RelocationKind:
    try:
        return RelocationKind(number)
    except ValueError:
        raise Unrelocatable("EOPNOTSUPP", f"relocation kind {number} is unknown") from None


def _resizable(local: Btf, old: Value, target: Btf, new: Value) -> bool:
    """Whether a load stays right in the kernel's size: pointers and unsigned integers are zero-extended."""
    if old.size == new.size:
        return True
    ours, theirs = local[old.type], target[new.type]
    if isinstance(ours, Ptr) and isinstance(theirs, Ptr):
        return True
    # libbpf compares the whole encoding with "signed": a bool or char counts as unsigned.
    return isinstance(ours, Int) and isinstance(theirs, Int) and ours.encoding != 1 != theirs.encoding


class _Ambiguous(Unrelocatable):
    pass


class _Candidates:
    """The kernel's types that may stand for each of the object's, thinned out as relocations are resolved."""

    def __init__(self, local: Btf, target: Btf) -> None:
        self._local, self._target = local, target
        self._by_root: dict[int, list[int]] = {}

    def local(self, row: CoreRelocation, kind: RelocationKind) -> Path:
        """Return what *row* names in the object's own types."""
        if not 0 <= row.type < len(self._local):
            raise Unrelocatable("EINVAL", f"the object has no type {row.type}")
        if kind in FIELD_KINDS:
            return local_field(self._local, row.type, row.access)
        if kind in ENUMERATOR_KINDS:
            return local_enumerator(self._local, row.type, row.access)
        if row.access != "0":
            raise Unrelocatable("EINVAL", f"access string {row.access!r} of a whole type is not 0")
        return Path(self._local, row.type)

    def matching(self, root: int, kind: RelocationKind, local: Path) -> list[Path]:
        """Return the path in every candidate that has it; when any has, the others are out from now on."""
        paths = [path for id_ in self._of(root) if (path := self._match(kind, local, id_)) is not None]
        if paths:
            self._by_root[root] = [path.root for path in paths]
        return paths

    def _of(self, root: int) -> list[int]:
        found = self._by_root.get(root)
        if found is None:
            type_ = self._local[root]
            if not type_.name:
                raise Unrelocatable("EOPNOTSUPP", f"{declare(type_)} has no name to look for")
            ids = self._target.flavours(essential_name(type_.name))
            found = self._by_root[root] = [id_ for id_ in ids if kinds_compatible(type_, self._target[id_])]
        return found

    def _match(self, kind: RelocationKind, local: Path, candidate: int) -> Path | None:
        if kind in FIELD_KINDS:
            return match_field(local, self._target, candidate)
        if kind in ENUMERATOR_KINDS:
            return match_enumerator(local, self._target, candidate)
        same = types_match if kind == RelocationKind.TYPE_MATCHES else types_compatible
        return Path(self._target, candidate) if same(self._local, local.root, self._target, candidate) else None

    def missing(self, local: Path, kind: RelocationKind) -> str:
        """Return what the kernel lacks, in words."""
        if not self._of(local.root):
            return "no such type"
        if kind in ENUMERATOR_KINDS:
            return "no such enumerator"
        return "no such field, or one of another kind of type"
