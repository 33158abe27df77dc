"""What hosts of one kernel said, side by side: a glance at the kernel, and the facts that make outcomes differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fleet.compatibility.verdict import Assessment
from inventory.facts import Answer, Facts


@dataclass(frozen=True, slots=True)
class Difference:
    """A fact that is not the same for all groups: its value for each, in the groups' order; ``more`` differ alike."""

    fact: str
    more: int
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KernelFact:
    """One fact about a kernel at a glance; ``varies``: its hosts do not all say so."""

    label: str
    value: str
    varies: bool


def differences(groups: Sequence[tuple[Sequence[Assessment], Facts | None]]) -> tuple[Difference, ...]:
    """Which facts behind the reasons are not the same for all groups: same kernel, other verdict.

    A group is what was assessed and the facts of one of its hosts; without facts of each, nothing is compared.
    """
    shown = [facts for _, facts in groups]
    if len(groups) < 2 or any(f is None for f in shown):
        return ()
    names = {r.source for done, _ in groups for a in done for r in a.reasons if r.answer is not Answer.YES}
    names |= {"seccomp.mode", "lockdown.mode", "lsm.active"}
    alike: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(names, key=lambda n: (n.startswith("bpf.") and n != "bpf.syscall", n)):
        values = tuple(_shown(f, name) for f in shown if f is not None)
        if len(set(values)) > 1:
            alike.setdefault(values, []).append(name)
    return tuple(Difference(names[0], len(names) - 1, values) for values, names in alike.items())


def _shown(facts: Facts, name: str) -> str:
    fact = facts.by_name.get(name)
    if fact is None:
        return "unknown"
    if fact.answer is not Answer.YES:
        return f"{fact.answer}{f' ({fact.errno})' if fact.errno else ''}"
    value = fact.value
    if isinstance(value, list):
        return f"{len(value)} entries" if len(value) > 8 else ", ".join(map(str, value))
    if isinstance(value, dict):
        return f"{value['size']:,} bytes" if isinstance(value.get("size"), int) else f"{len(value)} entries"
    return "yes" if value is None else str(value)


# What a reader wants to know of a kernel at a glance, in this order.
_KERNEL_FACTS = (
    ("btf.vmlinux", "BTF"),
    ("bpf.syscall", "bpf()"),
    ("lockdown.mode", "Lockdown"),
    ("lsm.active", "Security modules"),
    ("bpf.attach.kprobe", "Kprobes"),
    ("bpf.attach.fentry", "fentry"),
    ("bpf.map.ringbuf", "Ring buffer"),
    ("cgroup.mode", "Cgroups"),
    ("netfilter.backend", "Netfilter"),
    ("system.cpus", "CPUs"),
)


_TELLING = (Answer.YES, Answer.NO, Answer.BLOCKED, Answer.UNKNOWN)  # of one kernel's hosts, who says most about it


def kernel_facts(seen: Sequence[Facts]) -> tuple[KernelFact, ...]:
    """What the most telling host of a kernel says, and whether others say something else."""
    rows = []
    for name, label in _KERNEL_FACTS:
        said = [facts for facts in seen if name in facts]
        if said:
            best = min(said, key=lambda facts: _TELLING.index(facts.answer(name)))
            values = {_shown(facts, name) for facts in said}
            rows.append(KernelFact(label, _shown(best, name), len(values) > 1))
    return tuple(rows)
