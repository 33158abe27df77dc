"""The types of a kernel that may stand for a type of an object, and the answers they agreed on: found once per kernel.

libbpf keeps one list of candidates per type of the object and thins it as it resolves relocations: those that lacked a
field that others have are out. So an answer belongs to a list, and names the list that is left after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from btf.access import Path, Step
from btf.compatible import Refused, Unrelocatable
from btf.extension import RelocationKind
from btf.kinds import Kind
from btf.question import Question
from btf.types import Btf
from btf.value import ENUMERATOR_KINDS, Value, value_of

_MAX_ANSWERS = 1 << 13


class Answer(NamedTuple):
    """What a list of candidates says: the ``value`` they agree on, None when none has it, or why libbpf ``refused``.

    ``left`` are the candidates for the next question about the same type, None when that is all of them;
    ``missing`` says what there is not; ``where`` is the path in the first that has it, without the types it leads
    through: a kernel's types hold what they answered, so an answer must not hold them.
    """

    value: Value | None
    left: Candidates | None = None
    refused: Refused | None = None
    missing: str = ""
    where: tuple[int, tuple[Step, ...], tuple[int, ...], int] | None = None


class Candidates:
    """Types of one kernel by ascending id, and what they answered so far."""

    __slots__ = ("_answers", "ids")

    def __init__(self, ids: tuple[int, ...]) -> None:
        """Use :func:`candidates`, so that equal lists share their answers."""
        self.ids = ids
        self._answers: dict[str, Answer] = {}

    def ask(self, question: Question, target: Btf) -> Answer:
        """Return what these types of *target* answer to *question*; remembered."""
        found = self._answers.get(question.key)
        if found is None:
            if len(self._answers) >= _MAX_ANSWERS:
                self._answers.clear()
            found = self._answers[question.key] = self._answer(question, target)
        return found

    def paths(self, question: Question, target: Btf) -> list[Path]:
        """Return the path to what is asked for in every candidate that has it; raise Unrelocatable."""
        found = (question.match(target, id_) for id_ in self.ids)
        return [path for path in found if path is not None]

    def _answer(self, question: Question, target: Btf) -> Answer:
        left = None
        try:
            paths = self.paths(question, target)
            if not paths:
                return Answer(None, missing=self._missing(question.kind))
            if len(paths) < len(self.ids):
                left = _these(target, tuple(path.root for path in paths))
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
        return Answer(value, left, where=first[1:])

    def _missing(self, kind: RelocationKind) -> str:
        if not self.ids:
            return "no such type"
        if kind in ENUMERATOR_KINDS:
            return "no such enumerator"
        return "no such field, or one of another kind of type"


def _ambiguous(detail: str, left: Candidates | None) -> Answer:
    return Answer(None, left, Refused("EINVAL", detail, ambiguous=True))


def candidates(target: Btf, name: str, kind: int) -> Candidates:
    """Return the types of *target* with the essential *name* and of *kind*, taking enum and enum64 for one."""
    return target.remember((name, kind), lambda: _these(target, tuple(_found(target, name, kind))))


def _found(target: Btf, name: str, kind: int) -> Sequence[int]:
    kinds = _ENUMS if kind in _ENUMS else (kind,)
    return [id_ for id_ in target.flavours(name) if target.kind_of(id_) in kinds]


_ENUMS = (Kind.ENUM, Kind.ENUM64)


def _these(target: Btf, ids: tuple[int, ...]) -> Candidates:
    return target.remember(("candidates", ids), lambda: Candidates(ids))
