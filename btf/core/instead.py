"""What a kernel has instead of what an object asks for and does not get: the hint behind a poisoned relocation."""

from __future__ import annotations

from difflib import get_close_matches
from typing import NamedTuple

from btf.core.compatible import kinds_compatible
from btf.core.relocate import RelocationOutcome
from btf.format.index import essential_name
from btf.format.kinds import Array, Composite, Enum
from btf.format.types import Btf, declare

_MOST = 3
_FEW = 8  # so many are all named where none is like what was asked for
_BY_ARCHITECTURE = frozenset({"pt_regs", "user_pt_regs"})
_MAX_MEMBERS = 1024
_MAX_LENGTH = 128  # of a name; likeness of long ones takes the square of their length


class Instead(NamedTuple):
    """``holder`` (``struct task_struct``) has no ``missing``, but the ``near`` names; or has it, as type ``other``.

    Without a ``holder`` the kernel has no type of that name at all.
    """

    holder: str
    missing: str
    near: tuple[str, ...] = ()
    other: str = ""

    @property
    def by_architecture(self) -> bool:
        """Whether the struct is another on every architecture."""
        return self.holder.rpartition(" ")[2] in _BY_ARCHITECTURE

    def text(self) -> str:
        """Return it in one line."""
        if not self.holder:
            return f"this BTF has no {self.missing}: the kernel was built without it, or it is in a module's BTF"
        if self.by_architecture:
            return f"{self.holder} is another on every architecture: build the object for this kernel's"
        if self.other:
            return f"{self.holder} has {self.missing} as {self.other}"
        return f"{self.holder} has: {', '.join(self.near)}" if self.near else f"{self.holder} has nothing like it"


def instead(outcome: RelocationOutcome, target: Btf) -> Instead | None:
    """Return what *target* has instead of what *outcome* did not find; None when it found it."""
    path = outcome.ours
    if path is None or outcome.outcome != "poisoned" or outcome.found:
        return None
    root = path.btf[path.root]
    ids = target.flavours(essential_name(root.name)) if root.name else []
    ids = [id_ for id_ in ids if kinds_compatible(root, target[id_])]
    if not ids:
        return Instead("", declare(root).removesuffix(root.name) + essential_name(root.name))
    type_ = target.resolve(ids[0])
    if isinstance(type_, Enum):
        wanted = path.last.name or ""
        return Instead(declare(type_), wanted, _near(wanted, [name for name, _ in type_.values]))
    holder, place, id_ = declare(type_), type_.name, type_.id
    for step in path.steps[1:]:
        here = target.resolve(id_)
        if step.name is None:
            id_ = here.type if isinstance(here, Array) else id_
            continue
        members = _members(target, id_)
        if step.name not in members:
            return Instead(holder, step.name, _near(step.name, list(members)))
        id_ = members[step.name]
        if step is path.last:
            return Instead(holder, step.name, other=target.text(id_))
        holder = place = f"{place}.{step.name}"
    return None


def _members(btf: Btf, id_: int) -> dict[str, int]:
    """Return name → type of the members of *id_* and of its anonymous members, each type looked at once."""
    found: dict[str, int] = {}
    waiting, seen = [btf.resolve(id_).id], {0}
    while waiting and len(found) < _MAX_MEMBERS:
        type_ = btf.resolve(waiting.pop())
        if type_.id in seen or not isinstance(type_, Composite):
            continue
        seen.add(type_.id)
        for member in type_.members[:_MAX_MEMBERS]:
            if member.name:
                found.setdefault(member.name, member.type)
            else:
                waiting.append(member.type)
    return found


def _near(name: str, names: list[str]) -> tuple[str, ...]:
    """Return the names most like *name*: those that hold it whole first."""
    if len(name) > _MAX_LENGTH:
        return ()
    names = [n for n in names[:_MAX_MEMBERS] if len(n) <= _MAX_LENGTH]
    holding = sorted((n for n in names if name in n), key=len)[:_MOST] if len(name) > 2 else []
    like = get_close_matches(name, names, n=_MOST, cutoff=0.6)
    found = tuple(dict.fromkeys([*holding, *like]))[:_MOST]
    return found or (tuple(names) if len(names) <= _FEW else ())
