"""The types of a kernel that may stand for a type of an object, and the answers they agreed on: found once per kernel.

libbpf keeps one list of candidates per type of the object and thins it as it resolves relocations: those that lacked a
field that others have are out. So an answer belongs to a list, and names the list that is left after it. Modules are
searched when the kernel itself has no candidate; then those of all modules make one list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from btf.core.access import Path, Step
from btf.core.compatible import Refused, Unrelocatable
from btf.core.question import Question
from btf.core.value import ENUMERATOR_KINDS, Value, value_of
from btf.format.kinds import Kind
from btf.format.types import Btf
from btf.objects.extension import RelocationKind

_MAX_ANSWERS = 1 << 13


class Answer(NamedTuple):
    """What a list of candidates says: the ``value`` they agree on, None when none has it, or why libbpf ``refused``.

    ``left`` are the candidates for the next question about the same type, None when that is all of them;
    ``missing`` says what there is not; ``where`` is the path in the first that has it, with the number of the BTF in
    place of the BTF: a kernel's types hold what they answered, so an answer must not hold them.
    """

    value: Value | None
    left: Candidates | None = None
    refused: Refused | None = None
    missing: str = ""
    where: tuple[int, int, tuple[Step, ...], tuple[int, ...], int] | None = None


class Candidates:
    """Types, each as (number of its BTF, id), in the order in which libbpf finds them; and what they answered so far.

    The BTFs are one kernel's, or those of its modules: who asks gives them, always the same.
    """

    __slots__ = ("_answers", "types")

    def __init__(self, types: tuple[tuple[int, int], ...]) -> None:
        """Use :func:`candidates`, so that equal lists share their answers."""
        self.types = types
        self._answers: dict[str, Answer] = {}

    def ask(self, question: Question, targets: Sequence[Btf]) -> Answer:
        """Return what these types of *targets* answer to *question*; remembered."""
        found = self._answers.get(question.key)
        if found is None:
            if len(self._answers) >= _MAX_ANSWERS:
                self._answers.clear()
            found = self._answers[question.key] = self._answer(question, targets)
        return found

    def paths(self, question: Question, targets: Sequence[Btf]) -> list[tuple[int, Path]]:
        """Return the path to what is asked for in every candidate that has it; raise Unrelocatable."""
        found = ((number, question.match(targets[number], id_)) for number, id_ in self.types)
        return [(number, path) for number, path in found if path is not None]

    def _answer(self, question: Question, targets: Sequence[Btf]) -> Answer:
        left = None
        try:
            found = self.paths(question, targets)
            if not found:
                return Answer(None, missing=self._missing(question.kind))
            if len(found) < len(self.types):
                left = _these(targets, tuple((number, path.root) for number, path in found))
            paths = [path for _, path in found]
            first, value = paths[0], value_of(question.kind, paths[0], big_endian=question.big_endian)
            for path in paths[1:]:
                other = value_of(question.kind, path, big_endian=question.big_endian)
                if path.bit_offset != first.bit_offset:
                    there, here = first.bit_offset / 8, path.bit_offset / 8
                    return _ambiguous(f"types of that name have it at {there:g} and at {here:g}", left)
                if other.number != value.number:
                    return _ambiguous(f"types of that name say {value.number} and {other.number}", left)
        except Unrelocatable as error:
            return Answer(None, left, Refused(error.errno, error.detail))
        return Answer(value, left, where=(found[0][0], *first[1:]))

    def _missing(self, kind: RelocationKind) -> str:
        if not self.types:
            return "no such type"
        if kind in ENUMERATOR_KINDS:
            return "no such enumerator"
        return "no such field, or one of another kind of type"


def _ambiguous(detail: str, left: Candidates | None) -> Answer:
    return Answer(None, left, Refused("EINVAL", detail, ambiguous=True))


def candidates(target: Btf, name: str, kind: int, modules: Sequence[Btf] = ()) -> tuple[Sequence[Btf], Candidates]:
    """Return the types with the essential *name* and of *kind*, taking enum and enum64 for one, and what they are of.

    That is *target*, or its *modules* (each parsed on top of it) when it has none.
    """
    own = target.remember((name, kind), lambda: _these((target,), _found((target,), name, kind)))
    if own.types or not modules:
        return (target,), own
    key = name, kind, *(module.serial for module in modules)
    return modules, modules[0].remember(key, lambda: _these(modules, _found(modules, name, kind)))


def _found(targets: Sequence[Btf], name: str, kind: int) -> tuple[tuple[int, int], ...]:
    kinds = _ENUMS if kind in _ENUMS else (kind,)
    return tuple(
        (number, id_)
        for number, target in enumerate(targets)
        for id_ in target.flavours(name)
        if target.kind_of(id_) in kinds
    )


_ENUMS = (Kind.ENUM, Kind.ENUM64)


def _these(targets: Sequence[Btf], types: tuple[tuple[int, int], ...]) -> Candidates:
    key = "candidates", types, *(target.serial for target in targets)
    return targets[0].remember(key, lambda: Candidates(types))
