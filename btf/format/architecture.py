"""Which processor architecture a kernel's BTF is of, told by the registers it saves. To add one: a row."""

from __future__ import annotations

from btf.format.kinds import Composite, Kind, Member
from btf.format.types import Btf

# (name as uname -m has it, members of struct pt_regs or user_pt_regs that only it has)
_REGISTERS: tuple[tuple[str, frozenset[str]], ...] = (
    ("x86_64", frozenset({"r15", "cs"})),
    ("aarch64", frozenset({"pstate"})),
    ("s390x", frozenset({"psw", "gprs"})),
    ("ppc64le", frozenset({"nip", "msr"})),
    ("riscv64", frozenset({"epc", "a0"})),
    ("loongarch64", frozenset({"csr_era"})),
    ("armv7l", frozenset({"uregs"})),
    ("i686", frozenset({"bx", "cs"})),
)


def architecture(btf: Btf) -> str | None:
    """Return the architecture, or None when its registers are not in *btf* (BTF of a module, or minimised)."""
    members = {
        member.name
        for name in ("pt_regs", "user_pt_regs")
        for id_ in btf.by_name(name, Kind.STRUCT)
        if isinstance(struct := btf[id_], Composite)
        for member in _flat(btf, struct)
    }
    return next((name for name, own in _REGISTERS if own <= members), None)


def _flat(btf: Btf, struct: Composite) -> list[Member]:
    found: list[Member] = []
    seen: set[int] = set()
    waiting = [struct]
    while waiting and len(seen) < 64:
        holder = waiting.pop()
        if holder.id in seen:
            continue
        seen.add(holder.id)
        for member in holder.members:
            inner = btf.resolve(member.type)
            if member.name:
                found.append(member)
            elif isinstance(inner, Composite):
                waiting.append(inner)
    return found
