"""What an object loses on a kernel without breaking: reads that a guard leaves out, where nothing is read instead.

``if (exists(new)) v = new; else v = old;`` loses nothing: the side that is taken reads something of its own. Where it
goes straight on, the feature falls away.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from btf.core.relocate import RelocationOutcome
from btf.objects.flow import successors
from btf.objects.insn import SIZE
from btf.objects.object import BpfFunction, BpfObject

# What a guard asks of a kernel; other guards (of configuration, of a constant) leave out what nobody wanted.
_ASKED = frozenset({"field_exists", "type_exists", "type_matches", "enumval_exists", "type_size"})

_MOST = 1000  # guarded reads that are looked at


def lost(obj: BpfObject, outcomes: Sequence[RelocationOutcome]) -> tuple[RelocationOutcome, ...]:
    """Return the guarded ones of *outcomes* that nothing is read in place of, each field once per function."""
    guarded = [o for o in outcomes if o.guarded and o.guard and o.guard.kind in _ASKED][:_MOST]
    if not guarded:
        return ()
    there = {
        (o.section, o.insn) for o in outcomes if o.outcome == "value" and o.found and not o.kind.endswith("exists")
    }
    found: dict[tuple[str, str], RelocationOutcome] = {}
    for outcome in guarded:
        assert outcome.guard is not None
        branch = outcome.guard.section, outcome.guard.insn
        section, insn = outcome.section, outcome.insn
        own = obj.remember(("instead", branch, section, insn), partial(_instead, obj, branch, section, insn))
        if own is not None and not own & there:
            found.setdefault((outcome.program, outcome.local), outcome)
    return tuple(found.values())


def _instead(obj: BpfObject, branch: tuple[str, int], section: str, insn: int) -> frozenset[tuple[str, int]] | None:
    """Return the places that only the side of *branch* leads to which does not lead to byte *insn* of *section*.

    None when the branch and the instruction are not in one function.
    """
    function = obj.function_at(*branch)
    if function is None or not function.holds(section, insn):
        return None
    wanted = (insn - function.start) // SIZE
    at = (branch[1] - function.start) // SIZE
    sides = [_reached(function, side) for side in successors(function.instructions, at)]
    away = frozenset[int]().union(*(side for side in sides if wanted in side))
    taken = frozenset[int]().union(*(side for side in sides if wanted not in side))
    return frozenset((section, function.start + SIZE * index) for index in taken - away)


def _reached(function: BpfFunction, start: int) -> frozenset[int]:
    """Return the numbers of all instructions that control may come to from number *start* on."""
    seen: set[int] = set()
    waiting: list[int] = [start]
    while waiting:
        index = waiting.pop()
        if index not in seen and 0 <= index < len(function.instructions):
            seen.add(index)
            waiting += successors(function.instructions, index)
    return frozenset(seen)
