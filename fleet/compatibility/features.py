"""The table of features: for each kind of requirement, where its answer comes from and what it is called.

A new feature is one row of :data:`FEATURES`. A row's sources are asked one by one; ``decide`` weighs what they find.
"""

from __future__ import annotations

from dataclasses import dataclass

from fleet.compatibility.host_needs import ask_bpf_syscall, ask_kallsyms, ask_memlock, ask_module_btf
from fleet.compatibility.object_needs import ask_loader, ask_stack
from fleet.compatibility.signs import ATTACH_SIGNS, FEATURE_SIGNS, MAP_FLAG_SIGNS
from fleet.compatibility.sources import (
    Source,
    ask_btf,
    ask_enum,
    ask_fact,
    ask_kconfig_set,
    ask_large,
    ask_listed,
    ask_signs,
    ask_small,
    ask_syscall,
    ask_tracepoint_type,
)
from fleet.compatibility.targets import (
    ask_argument,
    ask_family,
    ask_function,
    ask_kfunc,
    ask_module,
    ask_signature,
    ask_sleepable,
    ask_struct_ops,
    ask_symbol,
    ask_symbols,
)
from fleet.compatibility.verdict import Requirement


@dataclass(frozen=True, slots=True)
class Feature:
    """One kind of requirement. ``code`` begins its reason codes (``helper-absent``); ``per_kernel``: equal on every
    host of one kernel build, so a proof on one of them counts for all."""

    noun: str
    code: str
    sources: tuple[Source, ...] = ()
    per_kernel: bool = True


FEATURES: dict[str, Feature] = {
    "program_type": Feature(
        "program type {subject}",
        "program-type",
        (ask_fact("bpf.prog.{subject}"), ask_enum("bpf_prog_type", "BPF_PROG_TYPE_{SUBJECT}")),
    ),
    "map_type": Feature(
        "map type {subject}",
        "map-type",
        (ask_fact("bpf.map.{subject}"), ask_enum("bpf_map_type", "BPF_MAP_TYPE_{SUBJECT}")),
    ),
    "map_flag": Feature("map flag {subject} of {context}", "map-flag", ask_signs(MAP_FLAG_SIGNS)),
    "helper": Feature(
        "helper {subject} in {context} programs",
        "helper",
        (ask_fact("bpf.helper.{context}.{subject}"), ask_enum("bpf_func_id", "BPF_FUNC_{subject}")),
    ),
    "attach": Feature("attaching to {subject}", "attach", (ask_fact("bpf.attach.{subject}"), *ask_signs(ATTACH_SIGNS))),
    "link": Feature(
        "{subject} links",
        "link",
        (ask_fact("bpf.link.{subject}"), ask_enum("bpf_link_type", "BPF_LINK_TYPE_{SUBJECT}")),
    ),
    "feature": Feature("{subject}", "feature", (ask_fact("bpf.feature.{subject}"), *ask_signs(FEATURE_SIGNS))),
    "isa": Feature(
        "instruction set {subject}",
        "isa",
        (ask_fact("bpf.feature.isa_{subject}"), *ask_signs(FEATURE_SIGNS, "isa_{subject}")),
    ),
    "instructions": Feature(
        "{subject} instructions in one program",
        "instructions",
        (ask_small, *(ask_large(s) for s in (ask_fact("bpf.feature.large_insns"), *ask_signs(FEATURE_SIGNS)))),
    ),
    "stack": Feature("{subject} bytes of stack", "stack", (ask_stack,)),
    "loader": Feature("libbpf {subject} for {context}", "loader", (ask_loader,), per_kernel=False),
    "tracepoint": Feature("tracepoint {subject}", "tracepoint", (ask_listed, ask_tracepoint_type, ask_syscall)),
    "raw_tracepoint": Feature("raw tracepoint {subject}", "raw-tracepoint", (ask_listed, ask_tracepoint_type)),
    "function": Feature(
        "kernel function {subject}", "function", (ask_symbols, ask_function, ask_module, ask_family, ask_signature)
    ),
    "argument": Feature("argument {subject}", "argument", (ask_argument,)),
    "sleepable": Feature("a sleepable program at {subject}", "sleepable", (ask_sleepable,)),
    "kfunc": Feature("kernel function {subject} callable from BPF", "kfunc", (ask_kfunc, ask_module)),
    "struct_ops": Feature("struct_ops {subject}", "struct-ops", (ask_struct_ops,)),
    "ksym": Feature("kernel symbol {subject}", "ksym", (ask_symbol,)),
    "kconfig": Feature("kernel option {subject}", "kconfig", (ask_kconfig_set,)),
    "btf": Feature("{subject} BTF", "btf", (ask_btf,), per_kernel=False),
    "relocation": Feature("{subject}", "relocation"),  # answered by btf.core.relocate, handed to decide as outcomes
    "kallsyms": Feature("{subject} of kernel symbols", "kallsyms", (ask_kallsyms,), per_kernel=False),
    "module_btf": Feature("BTF of modules, to look for {subject}", "module-btf", (ask_module_btf,), per_kernel=False),
    "memlock": Feature("{subject} bytes of memory for maps", "memlock", (ask_memlock,), per_kernel=False),
    "fact": Feature("{subject}", "fact", (ask_fact("{subject}"), ask_bpf_syscall), per_kernel=False),
}


def alternatives(need: Requirement) -> tuple[Requirement, ...]:
    """Return the ways to satisfy *need*: ``headers.path|headers.kheaders`` is satisfied by either."""
    parts = need.subject.split("|")
    if len(parts) == 1:
        return (need,)
    return tuple(Requirement(need.kind, p, need.origin, need.optional, need.program, need.context) for p in parts if p)


def noun(need: Requirement) -> str:
    """Return what *need* is in words."""
    row = FEATURES.get(need.kind)
    if row is None:
        return f"{need.kind} {need.subject}"
    if need.kind == "helper" and not need.context:
        return f"helper {need.subject}"
    hook, _, number = need.subject.rpartition(":")
    if need.kind == "argument" and number.isdecimal():
        return f"argument {int(number) + 1} of {hook}"
    words = NOUNS.get(need.kind, {})
    subject = " or ".join(words.get(p, p) for p in need.subject.split("|"))
    return row.noun.format(subject=subject, context=need.context)


# What a subject is called in a sentence, where its name says too little.
NOUNS: dict[str, dict[str, str]] = {
    "btf": {"vmlinux": "the kernel's own", "kernel": "the kernel's", "archive": "archived"},
    "fact": {
        "python.path": "Python 3 for the agent",
        "bpf.syscall": "the bpf() system call",
        "bcc.usable": "BCC",
        "headers.path": "kernel headers",
        "headers.kheaders": "kheaders",
        "btf.vmlinux": "the kernel's visible BTF",
        "mount.tracefs": "tracefs",
        "mount.bpffs": "bpffs",
        "probe.sock_diag_destroy": "notices of closed sockets (SOCK_DIAG)",
        "probe.af_packet": "packet sockets",
        "tool.iptables": "iptables",
        "tool.ipset": "ipset",
        "tool.tc": "tc",
    },
}
