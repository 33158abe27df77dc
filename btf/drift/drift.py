"""Silent wrongness: an object relocates on a kernel, and yet what it reads there is not what it was written for.

CO-RE moves offsets and sizes of loads; it does not mind that a field means something else now, nor that a helper is
told to read as many bytes as the field had. Each :class:`Drift` is such a change that the object's own instructions
show to matter; what merely looks different (a typedef, a qualifier, a struct whose members moved) is none.

``consequence``, in the words of the field: ``stray read`` (other bytes, or the same with another meaning), ``missed
hook`` (attaches, but the event does not pass there), ``load error`` (the verifier counts arguments: a verdict has that
among its requirements).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from btf.core.access import Path
from btf.core.relocate import RelocationOutcome, relocate, relocated
from btf.drift.arguments import mismatches
from btf.drift.field_change import Scene, change_of, differs, renumbered
from btf.format.index import essential_name
from btf.format.kinds import Composite, Enum, Kind, Member
from btf.format.types import Btf
from btf.objects.object import BpfObject
from btf.reach.guard import Reach
from btf.reach.memory import VERSION, Given
from btf.reach.step import Place

STRAY_READ, MISSED_HOOK, LOAD_ERROR = "stray read", "missed hook", "load error"
_LINE = 400  # characters of a source line that are looked at
_MOST = 1000  # fields that differ whose reads are looked for


@dataclass(frozen=True, slots=True)
class Drift:
    """One thing that was, where the object was built, and is something else on the kernel.

    ``what``: ``task_struct.state``; ``was`` and ``now`` in C or in words; ``function``, ``section`` and ``insn`` (byte
    offset) say where the object relies on it.
    """

    # Stable: field-size field-sign field-type array-length bitfield layout union enumerator argument record copies.
    code: str
    what: str
    was: str
    now: str
    consequence: str
    detail: str
    function: str
    section: str
    insn: int

    @property
    def named(self) -> str:
        """The word by which the source names it: the field, the constant; empty for an argument."""
        words = re.findall(r"\w+", re.split(r"\.|::", self.what)[-1])
        return words[0] if words and self.code not in ("argument", "copies") else ""

    def text(self) -> str:
        """Return it in one line: ``relocates, but task_struct.state was long, is unsigned int: …``."""
        verb = "attaches" if self.code in ("argument", "record", "copies") else "relocates"
        start = "" if self.consequence == LOAD_ERROR else f"{verb}, but "
        return f"{start}{self.what} was {self.was}, is {self.now}: {self.detail}"


def drifts(
    obj: BpfObject,
    target: Btf,
    outcomes: Sequence[RelocationOutcome],
    given: Given | None = None,
    *,
    modules: Mapping[str, Btf] | None = None,
    reference: Btf | None = None,
) -> tuple[Drift, ...]:
    """Return where *obj* silently goes wrong on *target*; *outcomes* are its relocations there, in their order.

    *given* and *modules* are what they were resolved with: what a guard leaves out there reads nothing. *reference* is
    the BTF of the kernel the object was made for, when that is at hand: it shows what the object's own types do not,
    such as signatures. Each field is named once per function.
    """
    if obj.btf is None:
        return ()
    rows = [
        *_fields(obj, outcomes),
        *_enumerators(obj, target, outcomes),
        *_arguments(obj, target, outcomes, reference, versioned=bool(given and re.match(r"\d+\.\d", given.release))),
        *(_unions(outcomes, relocate(obj, reference)) if reference else ()),
    ]
    if not rows:
        return ()
    alive = _alive(obj, target, given, modules, {(d.section, d.insn) for d in rows})
    found: dict[tuple[str, str, str], Drift] = {}
    for drift in rows:
        if (drift.section, drift.insn) in alive:
            found.setdefault((drift.code, drift.function, drift.what), drift)
    return tuple(found.values())


def _alive(
    obj: BpfObject, target: Btf, given: Given | None, modules: Mapping[str, Btf] | None, places: Collection[Place]
) -> set[Place]:
    """Return which of *places* some program reaches."""
    if given and given.release and VERSION not in given.constants:
        # A warning may trust the third number, which the verdict on a load does not.
        numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", given.release)
        if numbers:
            version = int.from_bytes(bytes(min(int(n or 0), 255) for n in numbers.groups()), "big")
            given = replace(given, constants={**given.constants, VERSION: version})
    reach = Reach(obj, relocated(obj, target, given, modules=modules)[1], target, given)
    found: set[Place] = set()
    for program in obj.programs:
        own = {place for place in places if any(f.holds(*place) for f in program.functions)}
        if own:
            found.update(reach.alive(program, own))
    return found


def _fields(obj: BpfObject, outcomes: Sequence[RelocationOutcome]) -> Iterator[Drift]:
    places: dict[str, set[int]] = {}
    for outcome in outcomes:
        places.setdefault(outcome.section, set()).add(outcome.insn)
    roots = frozenset(essential_name(o.ours.btf[o.ours.root].name) for o in outcomes if o.ours)
    shifted = frozenset((o.program, o.local) for o in outcomes if o.kind == "lshift_u64")
    found = ((o, o.ours, o.theirs) for o in outcomes if o.kind == "byte_off" and o.outcome == "value")
    differing = ((o, ours, theirs) for o, ours, theirs in found if ours and theirs and differs(ours, theirs))
    for outcome, ours, theirs in islice(differing, _MOST):
        scene = Scene(obj, outcome, places[outcome.section], roots, (outcome.program, outcome.local) in shifted)
        change = change_of(ours, theirs, scene)
        if change:
            yield Drift(
                change.code, outcome.local, change.was, change.now, STRAY_READ, change.detail,
                outcome.program, outcome.section, outcome.insn,
            )  # fmt: skip


def _arguments(
    obj: BpfObject,
    target: Btf,
    outcomes: Sequence[RelocationOutcome],
    reference: Btf | None,
    *,
    versioned: bool,
) -> Iterator[Drift]:
    """Arguments that a hook no longer hands over, or hands over as something else."""
    for program, bad in mismatches(obj, outcomes, target, reference):
        if not versioned and any(VERSION in f.externs for f in program.functions):
            continue  # it may choose by the version, which nobody told
        # The verifier counts the arguments of what it checks by type; others are read wherever they would be.
        strict = bad.missing and program.meaning.kind not in ("kprobe", "kprobe.session")
        words = "there is no such argument" if bad.missing else "what it points to is another thing"
        yield Drift(
            "record" if bad.record else "argument", bad.what, bad.was, bad.now,
            LOAD_ERROR if strict else STRAY_READ, "the load is not relocated" if bad.record else words,
            program.name, program.section, bad.insn,
        )  # fmt: skip


def _unions(outcomes: Sequence[RelocationOutcome], before: Sequence[RelocationOutcome]) -> Iterator[Drift]:
    """Fields that share their bytes with others now, and did not where the object was made."""
    for outcome, was in zip(outcomes, before, strict=True):
        if outcome.kind == "byte_off" and outcome.theirs and was.theirs and not _sharing(was.theirs):
            others = _sharing(outcome.theirs)
            if others:
                yield Drift(
                    "union", outcome.local, "on its own", f"in a union with {others}", STRAY_READ,
                    "it may hold the other's value", outcome.program, outcome.section, outcome.insn,
                )  # fmt: skip


def _sharing(path: Path) -> str:
    """Return with what the field shares its bytes, empty when with nothing.

    A union of structs that repeat each other's members (the kernel's struct_group) is a way to name them, no more.
    """
    type_ = path.btf.resolve(path.root)
    for index in path.raw[1:]:
        if not isinstance(type_, Composite) or index >= len(type_.members):
            return ""
        if type_.kind == Kind.UNION:
            names = [_names(path.btf, m) for m in type_.members]
            if any(n != names[index] for n in names):
                other = next(n for n in names if n != names[index])
                return next(iter(other), "another")
        type_ = path.btf.resolve(type_.members[index].type)
    return ""


def _names(btf: Btf, member: Member) -> tuple[str, ...]:
    """Return the names of what *member* holds, its own when it is no struct."""
    type_ = btf.resolve(member.type)
    inner = tuple(m.name for m in type_.members) if isinstance(type_, Composite) else ()
    return inner or (member.name,)


def _enumerators(obj: BpfObject, target: Btf, outcomes: Sequence[RelocationOutcome]) -> Iterator[Drift]:
    """Constants of the object's own enums that the kernel numbers otherwise, where the source names them."""
    assert obj.btf is not None
    asked = {o.ours.last.name for o in outcomes if o.kind == "enumval_value" and o.ours and o.ours.steps}
    for id_ in (*obj.btf.ids_of(Kind.ENUM), *obj.btf.ids_of(Kind.ENUM64)):
        ours = obj.btf[id_]
        if not ours.name or not isinstance(ours, Enum):
            continue
        others = [t for i in target.flavours(essential_name(ours.name)) if isinstance(t := target[i], Enum)]
        if len(others) != 1:
            continue
        for name, was, now in renumbered(ours, others[0]):
            if name not in asked:
                yield from _named(obj, ours, name, was, now)


def _words(obj: BpfObject) -> frozenset[str]:
    """Return every word of the source lines."""
    return frozenset(word for text in {line.text[:_LINE] for line in obj.lines} for word in re.findall(r"\w+", text))


def _named(obj: BpfObject, enum: Enum, name: str, was: int, now: int) -> Iterator[Drift]:
    """Yield the first line of each function that names the constant."""
    if name not in obj.remember("words", lambda: _words(obj)):
        return
    word = re.compile(rf"\b{re.escape(name)}\b")
    for line in obj.lines:
        function = obj.function_at(line.section, line.insn) if word.search(line.text[:_LINE]) else None
        if function:
            yield Drift(
                "enumerator", f"enum {enum.name}::{name}", str(was), str(now), STRAY_READ,
                "the object has the old number built in", function.name, line.section, line.insn,
            )  # fmt: skip
