"""The table of features: for each kind of requirement, where its answer comes from and how strong that evidence is.

A new feature is one row of :data:`FEATURES`. A row's sources are asked one by one; each gives a finding or nothing.
Versions only ever *claim*; BTF and kconfig *derive*; facts were *probed* on the host. This module never weighs sources
against each other (``decide`` does) and never acts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fleet.compatibility.signs import (
    ATTACH_SIGNS,
    BACKPORTERS,
    BUILT_IN_CATEGORIES,
    FEATURE_SIGNS,
    Sign,
    release_version,
)
from fleet.compatibility.verdict import Evidence, Requirement
from inventory.facts import Answer, Facts


class KernelTypes(Protocol):
    """What is asked of a kernel's BTF here; ``btf.types.Btf`` gives it."""

    def by_name(self, name: str, /) -> Sequence[int]:
        """Return the ids of all types with this name."""

    def enum_values(self, enum_name: str, /) -> Mapping[str, int]:
        """Return the constants of an enum, empty when there is no such enum."""

    def functions(self) -> Collection[str]:
        """Return the names of all functions."""


class CachedTypes:
    """A kernel's BTF that remembers what it was asked: one per kernel build serves all its hosts."""

    __slots__ = ("_enums", "_functions", "_names", "btf")

    def __init__(self, btf: KernelTypes) -> None:
        self.btf = btf
        self._enums: dict[str, Mapping[str, int]] = {}
        self._names: dict[str, Sequence[int]] = {}
        self._functions: Collection[str] | None = None

    def by_name(self, name: str, /) -> Sequence[int]:
        """See :class:`KernelTypes`."""
        if name not in self._names:
            self._names[name] = self.btf.by_name(name)
        return self._names[name]

    def enum_values(self, enum_name: str, /) -> Mapping[str, int]:
        """See :class:`KernelTypes`."""
        if enum_name not in self._enums:
            self._enums[enum_name] = self.btf.enum_values(enum_name)
        return self._enums[enum_name]

    def functions(self) -> Collection[str]:
        """See :class:`KernelTypes`."""
        if self._functions is None:
            self._functions = frozenset(self.btf.functions())
        return self._functions


@dataclass(frozen=True, slots=True)
class Known:
    """All that is known of one host when one variant is assessed; ``btf`` is of exactly its kernel build or None."""

    facts: Facts = field(default_factory=lambda: Facts({}))
    btf: KernelTypes | None = None
    external_btf: bool = False  # the variant brings that BTF along: core-btf
    off_host: bool = False  # asked about a kernel, not a machine: its BTF counts as visible


@dataclass(frozen=True, slots=True)
class Finding:
    """What one source says about one requirement."""

    answer: Answer
    evidence: Evidence
    detail: str
    source: str = ""
    errno: str | None = None


Source = Callable[[Requirement, Known], Finding | None]


@dataclass(frozen=True, slots=True)
class Feature:
    """One kind of requirement. ``code`` begins its reason codes (``helper-absent``); ``per_kernel``: equal on every
    host of one kernel build, so a proof on one of them counts for all."""

    noun: str
    code: str
    sources: tuple[Source, ...] = ()
    per_kernel: bool = True


def _filled(template: str, need: Requirement) -> str:
    return template.format(subject=need.subject, SUBJECT=need.subject.upper(), context=need.context)


def kconfig(facts: Facts, symbol: str) -> str | None:
    """Return the value of a kconfig symbol (``y``, ``m``, ``n`` or text), ``n`` when not set, None when unreadable."""
    options = facts.value("kconfig")
    if not isinstance(options, dict) or not options:
        return None
    bare = symbol.removeprefix("CONFIG_")
    value = options.get(f"CONFIG_{bare}", options.get(bare))
    return "n" if value is None else str(value)


def _fact(template: str) -> Source:
    """The fact of this name. A probe whose controls failed is not believed, whatever it says."""

    def source(need: Requirement, known: Known) -> Finding | None:
        name = _filled(template, need)
        fact = known.facts.by_name.get(name)
        if fact is None:
            return None
        if name.startswith("bpf.") and name != "bpf.syscall" and known.facts.answer("bpf.reliable") is Answer.NO:
            return Finding(Answer.UNKNOWN, Evidence.PROBED, "the probe's controls failed, so it is not believed", name)
        return Finding(fact.answer, Evidence.PROBED, _FACT_WORDS[fact.answer], name, fact.errno)

    return source


_FACT_WORDS = {
    Answer.YES: "there",
    Answer.NO: "not there",
    Answer.BLOCKED: "denied",
    Answer.UNKNOWN: "no clear answer",
}


def _enum(enum: str, constant: str) -> Source:
    """A constant of a kernel enum: missing means the kernel cannot; present means it was built knowing it."""

    def source(need: Requirement, known: Known) -> Finding | None:
        constants = known.btf.enum_values(enum) if known.btf else {}
        if not constants:
            return None
        wanted = _filled(constant, need)
        found = wanted in constants
        words = f"{wanted} is {'' if found else 'not '}in the kernel's enum {enum}"
        return Finding(Answer.YES if found else Answer.NO, Evidence.DERIVED, words, f"btf:{enum}")

    return source


def _function(need: Requirement, known: Known) -> Finding | None:
    """A kernel function by its BTF. Absence proves nothing: it may be inlined, or live in a module."""
    if known.btf is None or need.subject not in known.btf.functions():
        return None
    return Finding(Answer.YES, Evidence.DERIVED, "the kernel's BTF has the function", "btf:FUNC")


def _symbol(need: Requirement, known: Known) -> Finding | None:
    """A kernel variable or symbol with a type in BTF; others are only in kallsyms, which nobody here has read."""
    if known.btf is None or not known.btf.by_name(need.subject):
        return None
    return Finding(Answer.YES, Evidence.DERIVED, "the kernel's BTF has the symbol", "btf:VAR")


def _listed(need: Requirement, known: Known) -> Finding | None:
    """A tracepoint in the host's own list; ``category:name``, or a bare name for raw tracepoints."""
    fact = known.facts.by_name.get("hook.tracepoints")
    if fact is None:
        return None
    if fact.answer is not Answer.YES or not isinstance(fact.value, list):
        return Finding(
            Answer.UNKNOWN, Evidence.PROBED, "the host's list of tracepoints could not be read", fact.name, fact.errno
        )
    names = set(fact.value) if ":" in need.subject else {str(n).partition(":")[2] for n in fact.value}
    found = need.subject in names
    words = "in the host's list of tracepoints" if found else "not in the host's list of tracepoints"
    return Finding(Answer.YES if found else Answer.NO, Evidence.PROBED, words, fact.name)


def _tracepoint_type(need: Requirement, known: Known) -> Finding | None:
    """A tracepoint by the ``btf_trace_NAME`` typedef that every event leaves in BTF."""
    category, _, name = need.subject.rpartition(":")
    if known.btf is None or category == "syscalls":  # all syscalls share two events
        return None
    if known.btf.by_name(f"btf_trace_{name}"):
        return Finding(Answer.YES, Evidence.DERIVED, "the kernel's BTF has the event", f"btf:btf_trace_{name}")
    if category in BUILT_IN_CATEGORIES and known.btf.by_name("btf_trace_sched_switch"):
        return Finding(Answer.NO, Evidence.DERIVED, "the kernel's BTF has no such event", f"btf:btf_trace_{name}")
    return None


def _syscall(need: Requirement, known: Known) -> Finding | None:
    """A syscall tracepoint (``syscalls:sys_enter_openat``): FTRACE_SYSCALLS and the syscall itself."""
    category, _, name = need.subject.partition(":")
    syscall = re.fullmatch(r"sys_(?:enter|exit)_(\w+)", name)
    if category != "syscalls" or not syscall:
        return None
    if kconfig(known.facts, "FTRACE_SYSCALLS") == "n":
        return Finding(Answer.NO, Evidence.DERIVED, "FTRACE_SYSCALLS is not set", "kconfig")
    functions = known.btf.functions() if known.btf else ()
    # Since Linux commit fa697140f9a2 ("syscalls/x86: Use 'struct pt_regs' based syscall calling convention") (v4.17)
    # the entry point carries the architecture's prefix.
    known_as = [f"{prefix}sys_{syscall[1]}" for prefix in ("__x64_", "__arm64_", "__s390x_", "__riscv_", "__se_", "")]
    traced = (
        "init_syscall_trace" in functions or "perf_sysenter_enable" in functions or "ftrace_syscall_enter" in functions
    )
    if traced and any(n in functions for n in known_as):
        return Finding(Answer.YES, Evidence.DERIVED, "the kernel traces syscalls and has this one", "btf:FUNC")
    return None


def _sign(signs: Mapping[str, Sign], subject: str = "{subject}") -> tuple[Source, ...]:
    """The sources that read a row of signs, each its own evidence."""

    def row(need: Requirement) -> Sign:
        return signs.get(_filled(subject, need), Sign())

    def by_enum(need: Requirement, known: Known) -> Finding | None:
        enum = row(need).enum
        return _enum(*enum)(need, known) if enum else None

    def by_kconfig(need: Requirement, known: Known) -> Finding | None:
        values = {s: kconfig(known.facts, s) for s in row(need).kconfig}
        if not values or None in values.values():
            return None
        missing = [s for s, v in values.items() if v == "n"]
        words = f"{', '.join(missing)} not set" if missing else f"{', '.join(values)} set"
        return Finding(Answer.NO if missing else Answer.YES, Evidence.DERIVED, words, "kconfig")

    def by_name(need: Requirement, known: Known) -> Finding | None:
        sign = row(need)
        if known.btf is None:
            return None
        if (sign.member_of and known.btf.by_name(sign.member_of)) or (
            sign.function and sign.function in known.btf.functions()
        ):
            name = sign.member_of or sign.function
            return Finding(Answer.YES, Evidence.DERIVED, f"the kernel's BTF has {name}", f"btf:{name}")
        return None

    def by_version(need: Requirement, known: Known) -> Finding | None:
        since = row(need).since
        release = str(known.facts.value("kernel.release", ""))
        version = release_version(release)
        if since is None or version is None or (version < since and BACKPORTERS.search(release)):
            return None
        words = f"upstream since {since[0]}.{since[1]}; this kernel says {release}"
        return Finding(Answer.YES if version >= since else Answer.NO, Evidence.CLAIMED, words, "kernel.release")

    return (by_enum, by_kconfig, by_name, by_version)


def _btf(need: Requirement, known: Known) -> Finding | None:
    """BTF of exactly this kernel build: ``kernel`` from anywhere the variant takes it, ``vmlinux`` only its own."""
    if need.subject == "archive" or (need.subject == "kernel" and known.external_btf):
        if known.btf is not None:
            return Finding(Answer.YES, Evidence.DERIVED, "the archive has BTF of exactly this build", "archive")
        return Finding(Answer.BLOCKED, Evidence.DERIVED, "the archive has no BTF of exactly this build", "archive")
    fact = known.facts.by_name.get("btf.vmlinux")
    if fact is None:
        if not known.off_host or known.btf is None:
            return None
        return Finding(Answer.YES, Evidence.DERIVED, "this is the kernel's own BTF", "btf")  # asked about BTF alone
    if fact.answer is Answer.NO and kconfig(known.facts, "DEBUG_INFO_BTF") == "y":
        words = "the kernel was built with BTF, but /sys/kernel/btf is hidden here"
        return Finding(Answer.BLOCKED, Evidence.PROBED, words, fact.name, fact.errno)
    return Finding(fact.answer, Evidence.PROBED, _FACT_WORDS[fact.answer], fact.name, fact.errno)


def _small(need: Requirement, known: Known) -> Finding | None:  # noqa: ARG001  one signature for all sources
    """A program of at most 4,096 instructions loads on every kernel."""
    count = int(need.subject) if need.subject.isdecimal() else None
    if count is None or count > 4096:
        return None
    return Finding(Answer.YES, Evidence.DERIVED, "within the limit of every kernel", "object")


def _kconfig(need: Requirement, known: Known) -> Finding | None:
    value = kconfig(known.facts, need.subject)
    if value is None:
        return None
    words = f"{need.subject}={value}"
    return Finding(Answer.NO if value == "n" else Answer.YES, Evidence.DERIVED, words, "kconfig")


_LARGE = Requirement("feature", "large_insns")


def _large(source: Source) -> Source:
    return lambda _need, known: source(_LARGE, known)


FEATURES: dict[str, Feature] = {
    "program_type": Feature(
        "program type {subject}",
        "program-type",
        (_fact("bpf.prog.{subject}"), _enum("bpf_prog_type", "BPF_PROG_TYPE_{SUBJECT}")),
    ),
    "map_type": Feature(
        "map type {subject}",
        "map-type",
        (_fact("bpf.map.{subject}"), _enum("bpf_map_type", "BPF_MAP_TYPE_{SUBJECT}")),
    ),
    "helper": Feature(
        "helper {subject} in {context} programs",
        "helper",
        (_fact("bpf.helper.{context}.{subject}"), _enum("bpf_func_id", "BPF_FUNC_{subject}")),
    ),
    "attach": Feature("attaching to {subject}", "attach", (_fact("bpf.attach.{subject}"), *_sign(ATTACH_SIGNS))),
    "link": Feature(
        "{subject} links",
        "link",
        (_fact("bpf.link.{subject}"), _enum("bpf_link_type", "BPF_LINK_TYPE_{SUBJECT}")),
    ),
    "feature": Feature("{subject}", "feature", (_fact("bpf.feature.{subject}"), *_sign(FEATURE_SIGNS))),
    "isa": Feature(
        "instruction set {subject}",
        "isa",
        (_fact("bpf.feature.isa_{subject}"), *_sign(FEATURE_SIGNS, "isa_{subject}")),
    ),
    "instructions": Feature(
        "{subject} instructions in one program",
        "instructions",
        (_small, *(_large(s) for s in (_fact("bpf.feature.large_insns"), *_sign(FEATURE_SIGNS)))),
    ),
    "tracepoint": Feature("tracepoint {subject}", "tracepoint", (_listed, _tracepoint_type, _syscall)),
    "raw_tracepoint": Feature("raw tracepoint {subject}", "raw-tracepoint", (_listed, _tracepoint_type)),
    "function": Feature("kernel function {subject}", "function", (_function,)),
    "kfunc": Feature("kernel function {subject} callable from BPF", "kfunc", (_function,)),
    "ksym": Feature("kernel symbol {subject}", "ksym", (_symbol,)),
    "kconfig": Feature("kernel option {subject}", "kconfig", (_kconfig,)),
    "btf": Feature("{subject} BTF", "btf", (_btf,), per_kernel=False),
    "relocation": Feature("{subject}", "relocation"),  # answered by btf.relocate, handed to decide as outcomes
    "fact": Feature("{subject}", "fact", (_fact("{subject}"),), per_kernel=False),
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
