"""An object as a load on one kernel finds it: what its relocations come to, and what only its dead code needs.

The verifier does not look at dead code: what is asked for there and nowhere else, a program does without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from btf.core.relocate import relocated
from btf.format.types import Btf
from btf.objects.object import BpfObject
from btf.reach.guard import Reach
from btf.reach.memory import Given
from fleet.compatibility.requirements import used_at
from fleet.compatibility.verdict import Evidence, Reason, Requirement
from inventory.facts import Answer


class Outcome(Protocol):
    """One CO-RE relocation resolved against a kernel; ``btf.core.relocate.RelocationOutcome`` is one."""

    @property
    def program(self) -> str:
        """The BPF program."""

    @property
    def local(self) -> str:
        """What is accessed, C-like."""

    @property
    def outcome(self) -> str:
        """``value``, ``poisoned``, ``ambiguous`` or ``failed``."""

    @property
    def guarded(self) -> bool | None:
        """Whether the instruction is dead code on this kernel; None when that cannot be told."""

    @property
    def detail(self) -> str:
        """Why."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load finds: ``outcomes`` of its relocations; ``dead`` tells of a need whether only dead code has it."""

    outcomes: Sequence[Outcome] = ()
    dead: Callable[[Requirement], bool] = lambda _need: False


def load(obj: BpfObject, btf: Btf, release: str = "") -> Loaded:
    """Hold *obj* against a kernel's BTF; *release*, as of ``uname -r``, lets guards that ask for the version count.

    The kernel's options stay out: of those only a part is among the facts, and a missing one need not be unset.
    """
    given = Given(release=release)
    outcomes, patches = relocated(obj, btf, given)
    return Loaded(outcomes, DeadCode(obj, Reach(obj, patches, btf, given)).holds)


# What a program uses at places of its own, so that they may be dead.
_USED = frozenset({"helper", "kfunc", "ksym", "argument"})


@dataclass(frozen=True, slots=True)
class DeadCode:
    """What of an object is dead on one kernel, asked need by need; each is looked for once."""

    obj: BpfObject
    reach: Reach
    _known: dict[tuple[str, str, str], bool] = field(default_factory=dict)

    def holds(self, need: Requirement) -> bool:
        """Whether the program of *need* uses a helper, kernel symbol or argument, and in dead code only."""
        if need.kind not in _USED:
            return False
        key = need.program, need.kind, need.subject
        if key not in self._known:
            self._known[key] = self._holds(need)
        return self._known[key]

    def _holds(self, need: Requirement) -> bool:
        programs = [p for p in self.obj.programs if p.name == need.program]
        used = [(p, places) for p in programs if (places := used_at(self.obj, p, need))]
        return bool(used) and not any(self.reach.alive(p, places) for p, places in used)


def spared(reason: Reason, dead: Callable[[Requirement], bool]) -> Reason:
    """Return *reason* as met where only dead code needs what is missing: derived, however the answer was got."""
    need = reason.requirement
    if reason.answer is Answer.YES or not dead(need):
        return reason
    evidence = min(reason.evidence, Evidence.DERIVED, key=lambda e: e.strength)
    detail = f"{reason.detail}; only code that is dead on this kernel uses it"
    return replace(
        reason, answer=Answer.YES, evidence=evidence, code=f"{need.kind}-guarded", detail=detail, unlock=None
    )
