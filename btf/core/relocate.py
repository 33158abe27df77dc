"""What libbpf would make of every CO-RE relocation of an object on a kernel with given BTF. Loads nothing.

For each relocation: candidates are the kernel's types of the same essential name and kind; each is searched for the
path; those that have it must agree on offset and value. No candidate left: existence is 0, anything else poisons the
instruction, which is harmless as long as nothing reaches it. Candidates that lacked one path are out for later
relocations of the same type, as in libbpf, which keeps one list per type for the whole object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from btf.core.access import Path
from btf.core.candidates import Answer, Candidates, candidates
from btf.core.compatible import Refused, Unrelocatable
from btf.core.effort import bounded_effort
from btf.core.patch import POISON, patch, poison
from btf.core.question import Asked, Question, asked_by
from btf.core.value import ABSENT
from btf.format.types import Btf
from btf.objects.extension import RelocationKind
from btf.objects.insn import Insn
from btf.objects.object import BpfObject
from btf.reach.guard import Guard, Reach, fates
from btf.reach.memory import Given


class RelocationOutcome(NamedTuple):
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
    ours: Path | None = None  # what is named, in the object's types
    theirs: Path | None = None  # what it was resolved by, in the kernel's
    guard: Guard | None = None  # of a guarded one: the branch that leads around it
    reached_by: tuple[str, ...] = ()  # of a poisoned one: the programs that reach it
    module: str = ""  # the module whose type it was resolved by, empty for the kernel's own

    @property
    def fatal(self) -> bool:
        """Whether libbpf refuses the whole object because of it."""
        return self.outcome in ("ambiguous", "failed")


def relocate(
    obj: BpfObject, target: Btf, given: Given | None = None, *, modules: Mapping[str, Btf] | None = None
) -> tuple[RelocationOutcome, ...]:
    """Return the outcome of every CO-RE relocation of *obj* against *target*, in the order of ``.BTF.ext``.

    *given* is what else is known of the kernel and the load; it decides what of the poison is guarded. *modules* are
    the kernel's loaded ones, by name and in the order of loading, each parsed on top of *target*; leave them out for
    external BTF, as libbpf does.
    """
    return relocated(obj, target, given, modules=modules)[0]


def relocated(
    obj: BpfObject, target: Btf, given: Given | None = None, *, modules: Mapping[str, Btf] | None = None
) -> tuple[tuple[RelocationOutcome, ...], dict[tuple[str, int], tuple[Insn, ...]]]:
    """As :func:`relocate`, and the changed instruction slots by (section, byte offset)."""
    outcomes: dict[int, RelocationOutcome] = {}
    patches: dict[tuple[str, int], tuple[Insn, ...]] = {}
    with bounded_effort():
        for number, asked, search in _in_turn(obj, target, modules or {}):
            answer = search.answer(asked, asked.question) if asked.question else None
            if number in outcomes:
                continue
            outcomes[number], slots = search.applied(asked, answer)
            if slots:
                patches[asked.row.section, asked.row.insn] = slots
    in_order = [outcomes[number] for number in range(len(outcomes))]
    places = {(o.section, o.insn) for o in in_order if o.outcome == "poisoned"}
    if places:
        named = {(o.section, o.insn): (o.kind, o.local) for o in in_order}
        fate = fates(Reach(obj, patches, target, given), obj, places, named)
        in_order = [
            o._replace(guarded=not f.reached_by, guard=f.guard, reached_by=f.reached_by)
            if o.outcome == "poisoned" and (f := fate[o.section, o.insn])
            else o
            for o in in_order
        ]
    return tuple(in_order), patches


def _in_turn(obj: BpfObject, target: Btf, modules: Mapping[str, Btf]) -> Iterator[tuple[int, Asked, _Search]]:
    """Yield number, relocation and search in the order in which libbpf resolves them.

    Programs that are not loaded leave no trace on the others. So those of optional programs are left out, and all are
    resolved once more with them; what is new then is what becomes of the optional ones when they are loaded, too.
    """
    rows = list(enumerate(asked_by(obj)))
    for turn in (False, True) if any(row.optional for _, row in rows) else (False,):
        search = _Search(target, modules)
        yield from ((number, row, search) for number, row in rows if turn or not row.optional)


class _Search:
    """The search for one object's types: which candidates are left for each of them."""

    __slots__ = ("_left", "_modules", "_names", "_target")

    def __init__(self, target: Btf, modules: Mapping[str, Btf]) -> None:
        self._target, self._modules, self._names = target, tuple(modules.values()), tuple(modules)
        self._left: dict[int, tuple[Sequence[Btf], Candidates]] = {}

    def candidates(self, asked: Asked) -> tuple[Sequence[Btf], Candidates]:
        """Return those that are left for the type of *asked*, and what their numbers count."""
        return self._left.get(asked.row.type) or candidates(self._target, *asked.root, self._modules)

    def answer(self, asked: Asked, question: Question) -> Answer:
        """Ask the candidates that are left, and leave those that have what *question* asks for."""
        targets, here = self.candidates(asked)
        answer = here.ask(question, targets)
        self._left[asked.row.type] = targets, answer.left or here
        return answer

    def applied(self, asked: Asked, answer: Answer | None) -> tuple[RelocationOutcome, tuple[Insn, ...]]:
        """Put *answer* into the instruction; return what became of the relocation and the changed slots."""
        path, module = None, ""
        if answer and answer.where:
            targets, _ = self.candidates(asked)
            number, root, steps, raw, bits = answer.where
            path = Path(targets[number], root, steps, raw, bits)
            module = self._names[number] if targets is self._modules else ""
        outcome, slots = _applied(asked, answer, path)
        return (outcome._replace(module=module) if module else outcome), slots


def _applied(asked: Asked, answer: Answer | None, theirs: Path | None) -> tuple[RelocationOutcome, tuple[Insn, ...]]:
    row, old, insn = asked.row, asked.old, asked.insn
    refused = answer.refused if answer else asked.refused
    found = answer is None or answer.value is not None or refused is not None
    place = asked.program, row.section, row.insn, asked.kind, asked.local

    def outcome(word: str, value: int | None = None, detail: str = "", errno: str | None = None) -> RelocationOutcome:
        return RelocationOutcome(*place, word, value, found, detail=detail, errno=errno, ours=asked.path, theirs=theirs)

    if refused or insn is None or old is None:
        refused = refused or Refused("EINVAL", "")
        return outcome("ambiguous" if refused.ambiguous else "failed", None, refused.detail, refused.errno), ()
    if answer is None:  # a type id of the object's own
        new = old
    elif answer.value is not None:
        new = answer.value
    elif row.kind in ABSENT:
        new = old._replace(number=ABSENT[RelocationKind(row.kind)])
    else:
        return outcome("poisoned", None, answer.missing), poison(insn, asked.following)
    # Pointers and unsigned integers are zero-extended, so a load stays right in the kernel's size.
    resizable = old.size == new.size or (old.extends == new.extends != "")
    try:
        slots = patch(insn, asked.following, old, new, resizable=resizable)
    except Unrelocatable as error:
        return outcome("failed", None, error.detail, error.errno), ()
    if slots[0] is POISON:
        return outcome("poisoned", None, f"{old.size} bytes in the object, {new.size} in the kernel"), slots
    return outcome("value", new.number), slots


def matched_paths(obj: BpfObject, target: Btf) -> Iterator[tuple[RelocationKind, Path]]:
    """Yield what of *target* the relocations of *obj* are resolved by: every path of every candidate that has it."""
    for _, asked, search in _in_turn(obj, target, {}):
        if asked.question is None or asked.refused:  # libbpf needs no kernel for it, or refuses it with whatever BTF
            continue
        targets, here = search.candidates(asked)
        try:
            paths = here.paths(asked.question, targets)
        except Unrelocatable:
            continue
        search.answer(asked, asked.question)
        yield from ((asked.question.kind, path) for _, path in paths)
