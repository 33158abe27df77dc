"""Where answers come from: each source asks one kind of evidence about one requirement and gives a finding or nothing.

Versions only ever *claim*; BTF and kconfig *derive*; facts were *probed* on the host. Sources are not weighed here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from btf.fault import printable
from fleet.compatibility.signs import BACKPORTERS, BUILT_IN_CATEGORIES, Sign, release_version
from fleet.compatibility.symbols import Symbols
from fleet.compatibility.verdict import Evidence, Requirement
from inventory.facts import Answer, Fact, Facts


class KernelTypes(Protocol):
    """What is asked of a kernel's BTF here; ``btf.format.types.Btf`` gives it."""

    def by_name(self, name: str, /) -> Sequence[int]:
        """Return the ids of all types with this name."""

    def enum_values(self, enum_name: str, /) -> Mapping[str, int]:
        """Return the constants of an enum, empty when there is no such enum."""

    def functions(self) -> Collection[str]:
        """Return the names of all functions."""

    def tagged(self, tag: str, /) -> Collection[str]:
        """Return the names of what carries a declaration tag, such as ``bpf_kfunc``."""


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
            self._functions = self.btf.functions()
        return self._functions

    def tagged(self, tag: str, /) -> Collection[str]:
        """See :class:`KernelTypes`."""
        return self.btf.tagged(tag)


@dataclass(frozen=True, slots=True)
class Known:
    """All that is known of one host when one variant is assessed; ``btf`` is of exactly its kernel build or None."""

    facts: Facts = field(default_factory=lambda: Facts({}))
    btf: KernelTypes | None = None
    external_btf: bool = False  # the variant brings that BTF along: core-btf
    near_btf: str = ""  # what the archive has that is nearly this build's, and so is of no use
    off_host: bool = False  # asked about a kernel, not a machine: its BTF counts as visible
    symbols: Callable[[], Symbols | None] = lambda: None  # the kernel's own list of its functions, read when asked for
    modules: Callable[[], Mapping[str, str]] = dict  # function → the module in whose BTF it is


@dataclass(frozen=True, slots=True)
class Finding:
    """What one source says about one requirement."""

    answer: Answer
    evidence: Evidence
    detail: str
    source: str = ""
    errno: str | None = None
    because: str = ""  # the fact that decided a denied one: mount.tracefs for what needs tracefs


Source = Callable[[Requirement, Known], Finding | None]


def _filled(template: str, need: Requirement) -> str:
    return template.format(subject=need.subject, SUBJECT=need.subject.upper(), context=need.context)


def holds(facts: Facts, capability: str) -> bool | None:
    """Return whether the agent holds a capability (``sys_admin``), None when it is not known what it holds."""
    held = facts.value("caps.effective")
    return capability in {str(c).lower().removeprefix("cap_") for c in held} if isinstance(held, list) else None


def kconfig(facts: Facts, symbol: str) -> str | None:
    """Return the value of a kconfig symbol (``y``, ``m``, ``n`` or text), ``n`` when not set, None when unreadable."""
    options = facts.value("kconfig")
    if not isinstance(options, dict) or not options:
        return None
    bare = symbol.removeprefix("CONFIG_")
    value = options.get(f"CONFIG_{bare}", options.get(bare))
    return "n" if value is None else str(value)


def ask_fact(template: str) -> Source:
    """The fact of this name. A probe whose controls failed is not believed, whatever it says."""

    def source(need: Requirement, known: Known) -> Finding | None:
        name = _filled(template, need)
        fact = known.facts.by_name.get(name)
        if fact is None:
            return None
        if name.startswith("bpf.") and name != "bpf.syscall" and known.facts.answer("bpf.reliable") is Answer.NO:
            return Finding(Answer.UNKNOWN, Evidence.PROBED, "the probe's controls failed, so it is not believed", name)
        return _as_found(fact)

    return source


def _as_found(fact: Fact) -> Finding:
    """What the host itself said of a fact, with its own words where it had any."""
    words = _FACT_WORDS[fact.answer]
    if fact.answer is not Answer.YES:
        words += f" ({fact.errno})" if fact.errno else ""
        words += f": {printable(fact.raw, 120)}" if fact.raw and fact.raw not in (fact.errno, words) else ""
    return Finding(fact.answer, Evidence.PROBED, words, fact.name, fact.errno, fact.source)


_FACT_WORDS = {
    Answer.YES: "there",
    Answer.NO: "not there",
    Answer.BLOCKED: "denied",
    Answer.UNKNOWN: "no clear answer",
}


def ask_enum(enum: str, constant: str) -> Source:
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


def ask_listed(need: Requirement, known: Known) -> Finding | None:
    """A tracepoint in the host's own list; ``category:name``, or a bare name for raw tracepoints."""
    fact = known.facts.by_name.get("hook.tracepoints")
    if fact is None:
        return None
    if fact.answer is not Answer.YES and need.kind == "tracepoint" and _locked(known):
        # A kernel locked down at boot mounts tracefs and puts no files into it; raw tracepoints do without them.
        words = "lockdown=confidentiality keeps tracefs empty"
        return Finding(Answer.BLOCKED, Evidence.PROBED, words, fact.name, fact.errno)
    if fact.answer is not Answer.YES or not isinstance(fact.value, list):
        words = f"the host's list of tracepoints could not be read{f', {fact.raw}' if fact.raw else ''}"
        return Finding(Answer.UNKNOWN, Evidence.PROBED, words, fact.name, fact.errno, fact.source)
    names = set(fact.value) if ":" in need.subject else {str(n).partition(":")[2] for n in fact.value}
    found = need.subject in names
    words = "in the host's list of tracepoints" if found else "not in the host's list of tracepoints"
    return Finding(Answer.YES if found else Answer.NO, Evidence.PROBED, words, fact.name)


def _locked(known: Known) -> bool:
    return bool(known.facts.value("lockdown.mode") == "confidentiality")


def ask_tracepoint_type(need: Requirement, known: Known) -> Finding | None:
    """A tracepoint by the ``btf_trace_NAME`` typedef that every event leaves in BTF."""
    category, _, name = need.subject.rpartition(":")
    if known.btf is None or category == "syscalls":  # all syscalls share two events
        return None
    for sign in (f"btf_trace_{name}", f"trace_event_raw_{name}"):  # the second also where the first is too new
        if known.btf.by_name(sign):
            return Finding(Answer.YES, Evidence.DERIVED, "the kernel's BTF has the event", f"btf:{sign}")
    built_in = category in BUILT_IN_CATEGORIES or kconfig(known.facts, "MODULES") == "n"
    if built_in and known.btf.by_name("btf_trace_sched_switch"):
        return Finding(Answer.NO, Evidence.DERIVED, "the kernel's BTF has no such event", f"btf:btf_trace_{name}")
    return None


def ask_syscall(need: Requirement, known: Known) -> Finding | None:
    """A syscall tracepoint (``syscalls:sys_enter_openat``): FTRACE_SYSCALLS and the syscall itself."""
    category, _, name = need.subject.partition(":")
    syscall = re.fullmatch(r"sys_(?:enter|exit)_(\w+)", name)
    if category != "syscalls" or not syscall:
        return None
    if kconfig(known.facts, "FTRACE_SYSCALLS") == "n":
        return Finding(Answer.NO, Evidence.DERIVED, "FTRACE_SYSCALLS is not set", "kconfig")
    functions = known.btf.functions() if known.btf else ()
    # Since Linux commit d5a00528b58c ("syscalls/core, syscalls/x86: Rename struct pt_regs-based sys_*() to
    # __x64_sys_*()") (v4.17) the entry point carries the architecture's prefix.
    known_as = [f"{prefix}sys_{syscall[1]}" for prefix in ("__x64_", "__arm64_", "__s390x_", "__riscv_", "__se_", "")]
    # A struct of the code that hands a syscall to programs; the functions there are static, and in BTF only at times.
    traced = known.btf is not None and bool(known.btf.by_name("syscall_tp_t") or "init_syscall_trace" in functions)
    if traced and any(n in functions for n in known_as):
        return Finding(Answer.YES, Evidence.DERIVED, "the kernel traces syscalls and has this one", "btf:FUNC")
    return None


def ask_signs(signs: Mapping[str, Sign], subject: str = "{subject}") -> tuple[Source, ...]:
    """The sources that read a row of signs, each its own evidence."""

    def row(need: Requirement) -> Sign:
        return signs.get(_filled(subject, need), Sign())

    def by_enum(need: Requirement, known: Known) -> Finding | None:
        enum = row(need).enum
        return ask_enum(*enum)(need, known) if enum else None

    def by_later(need: Requirement, known: Known) -> Finding | None:
        later = row(need).later
        found = ask_enum(*later)(need, known) if later else None
        return found if found and found.answer is Answer.YES else None

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

    return (by_enum, by_later, by_kconfig, by_name, by_version)


def ask_btf(need: Requirement, known: Known) -> Finding | None:
    """BTF of exactly this kernel build: ``kernel`` from anywhere the variant takes it, ``vmlinux`` only its own."""
    if need.subject == "archive" or (need.subject == "kernel" and known.external_btf):
        if known.btf is not None:
            return Finding(Answer.YES, Evidence.DERIVED, "the archive has BTF of exactly this build", "archive")
        has = f"; it has {known.near_btf}" if known.near_btf else ""
        words = f"the archive has no BTF of exactly this build{has}"
        return Finding(Answer.BLOCKED, Evidence.DERIVED, words, "archive")
    fact = known.facts.by_name.get("btf.vmlinux")
    if fact is None:
        if not known.off_host or known.btf is None:
            return None
        return Finding(Answer.YES, Evidence.DERIVED, "this is the kernel's own BTF", "btf")  # asked about BTF alone
    if fact.answer is Answer.NO and kconfig(known.facts, "DEBUG_INFO_BTF") == "y":
        words = "the kernel was built with BTF, but /sys/kernel/btf is hidden here"
        return Finding(Answer.BLOCKED, Evidence.PROBED, words, fact.name, fact.errno)
    found = _as_found(fact)
    if need.subject == "vmlinux" and need.context and found.answer is not Answer.YES:
        found = replace(found, detail=f"{found.detail}; {need.context} looks there, external BTF does not serve it")
    return found


def ask_small(need: Requirement, known: Known) -> Finding | None:  # noqa: ARG001  one signature for all sources
    """A program of at most 4,096 instructions loads on every kernel."""
    count = int(need.subject) if need.subject.isdecimal() else None
    if count is None or count > 4096:
        return None
    return Finding(Answer.YES, Evidence.DERIVED, "within the limit of every kernel", "object")


def ask_kconfig_set(need: Requirement, known: Known) -> Finding | None:
    """A kernel option by the kernel's configuration: y and m are there, everything else is not."""
    value = kconfig(known.facts, need.subject)
    if value is None:
        return None
    words = f"{need.subject}={value}"
    return Finding(Answer.NO if value == "n" else Answer.YES, Evidence.DERIVED, words, "kconfig")


_LARGE = Requirement("feature", "large_insns")


def ask_large(source: Source) -> Source:
    """Ask *source* whether more than 4,096 instructions load, whatever their number."""
    return lambda _need, known: source(_LARGE, known)
