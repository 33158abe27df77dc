"""What would have to change, in words: the smallest change for one denied requirement, and for a whole fleet.

A missing package, mount or module is not "this kernel cannot": with a row here it is ``blocked`` and named. A row only
applies when it would really help. Nothing here changes a host.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fleet.compatibility.features import alternatives, noun
from fleet.compatibility.signs import release_version
from fleet.compatibility.sources import Finding, Known, kconfig
from fleet.compatibility.verdict import Assessment, Choice, Requirement, Unlock, Verdict
from inventory.facts import Answer, Facts
from probes.manifest import LADDER


@dataclass(frozen=True, slots=True)
class Missing:
    """What makes a fact that says ``no`` say ``yes`` without another kernel. ``kconfig`` must not be known unset."""

    unlock: Unlock
    kconfig: str = ""


MISSING = {
    "python.path": Missing(Unlock("install-python3", "install python3")),
    "bcc.usable": Missing(Unlock("install-bcc", "install BCC for the system's Python (python3-bpfcc or python3-bcc)")),
    "headers.path": Missing(Unlock("install-headers", "install the headers of exactly the running kernel")),
    "mount.tracefs": Missing(Unlock("mount-tracefs", "mount tracefs at /sys/kernel/tracing"), "TRACING"),
    "mount.debugfs": Missing(Unlock("mount-debugfs", "mount debugfs at /sys/kernel/debug"), "DEBUG_FS"),
    "mount.bpffs": Missing(Unlock("mount-bpffs", "mount bpffs at /sys/fs/bpf"), "BPF_SYSCALL"),
    "mount.securityfs": Missing(Unlock("mount-securityfs", "mount securityfs at /sys/kernel/security"), "SECURITYFS"),
    "cgroup.v2_path": Missing(Unlock("mount-cgroup2", "mount a cgroup2 hierarchy"), "CGROUPS"),
    "tool.iptables": Missing(Unlock("install-iptables", "install iptables")),
    "tool.ipset": Missing(Unlock("install-ipset", "install ipset"), "IP_SET"),
    "tool.nft": Missing(Unlock("install-nftables", "install nftables")),
    "tool.tc": Missing(Unlock("install-iproute2", "install iproute2")),
    "tool.ip": Missing(Unlock("install-iproute2", "install iproute2")),
}


# What the playbook corollout.fleet.bootstrap installs, by the word it takes for it.
BOOTSTRAPS = {
    "install-python3": "python", "install-iptables": "fallback", "install-ipset": "fallback",
    "install-iproute2": "fallback", "install-bcc": "bcc", "install-headers": "bcc",
}  # fmt: skip


def bootstrap(unlocks: Iterable[Unlock]) -> str | None:
    """Return the command that does those of *unlocks* that are packages, or None when none is."""
    wants = dict.fromkeys(BOOTSTRAPS[u.code] for u in unlocks if u.code in BOOTSTRAPS)
    return f"ansible-playbook corollout.fleet.bootstrap -e corollout_wants={','.join(wants)}" if wants else None


def _lists(facts: Facts, name: str, wanted: str) -> bool | None:
    """Whether the list fact *name* has *wanted*, ignoring case and CAP_; None when the list is not known."""
    value = facts.value(name)
    return wanted in {str(v).lower().removeprefix("cap_") for v in value} if isinstance(value, list) else None


def _is_bpf(need: Requirement) -> bool:
    return need.kind in _BPF_KINDS or (need.kind == "fact" and need.subject.startswith("bpf."))


_BPF_KINDS = frozenset({"program_type", "map_type", "helper", "attach", "link", "feature", "isa", "instructions"})
_WRITES = frozenset({"probe_write_user", "override_return"})


@dataclass(frozen=True, slots=True)
class Denial:
    """Who denies, and the change that ends it."""

    unlock: Unlock
    applies: Callable[[Requirement, Finding, Facts], bool]


# First row that applies wins; ordered by how surely the facts name the culprit.
DENIALS = (
    Denial(
        Unlock("expose-btf", "let the agent see /sys/kernel/btf: unmask it in its mount namespace"),
        lambda need, _f, _facts: need.kind == "btf" and need.subject != "archive",
    ),
    Denial(
        Unlock("relax-lockdown", "boot without lockdown=confidentiality"),
        lambda need, _f, facts: (
            facts.value("lockdown.mode") == "confidentiality"
            and (
                "probe_read" in need.subject
                or need.subject in {"kprobe", "fentry", "tracefs"}
                or need.kind == "tracepoint"
            )
        ),
    ),
    Denial(
        Unlock("relax-lockdown-integrity", "boot without kernel lockdown"),
        lambda need, _f, facts: (
            facts.value("lockdown.mode") in ("integrity", "confidentiality") and need.subject in _WRITES
        ),
    ),
    Denial(
        Unlock("allow-bpf-seccomp", "allow bpf() in the service's seccomp profile"),
        lambda need, found, facts: (
            _is_bpf(need)
            and facts.value("seccomp.mode") == 2
            and facts.answer("bpf.syscall") is Answer.BLOCKED
            and found.errno in ("EPERM", "ENOSYS", "EACCES", None)
        ),
    ),
    Denial(
        Unlock("allow-bpf-selinux", "allow class bpf for the agent's domain in the SELinux policy"),
        lambda need, found, facts: (
            _is_bpf(need) and found.errno == "EACCES" and bool(_lists(facts, "lsm.active", "selinux"))
        ),
    ),
    Denial(
        Unlock("grant-capabilities", "give the agent CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (CAP_SYS_ADMIN below 5.8)"),
        lambda need, _f, facts: (
            _is_bpf(need)
            and _lists(facts, "caps.effective", "sys_admin") is False
            and _lists(facts, "caps.effective", "bpf") is False
        ),
    ),
    Denial(
        Unlock("raise-memlock", "raise RLIMIT_MEMLOCK, or give the agent CAP_SYS_RESOURCE"),
        # Since Linux commit d5299b67dd59 ("bpf: Memcg-based memory accounting for bpf maps") (v5.11) no longer charged.
        lambda need, found, facts: (
            need.kind in ("map_type", "memlock")
            and found.errno == "EPERM"
            and (release_version(str(facts.value("kernel.release", ""))) or (9, 0)) < (5, 11)
            and not _lists(facts, "caps.effective", "sys_resource")
        ),
    ),
    Denial(
        Unlock("grant-sys-admin", "give the agent CAP_SYS_ADMIN"),
        lambda need, _f, _facts: need.kind == "module_btf",
    ),
    Denial(
        Unlock("show-kallsyms", "give the agent CAP_SYSLOG, with kernel.kptr_restrict at most 1"),
        lambda need, _f, _facts: need.kind == "kallsyms",
    ),
    Denial(
        Unlock("allow-net-admin", "give the agent CAP_NET_ADMIN and CAP_NET_RAW"),
        lambda need, found, facts: (
            need.subject in ("probe.sock_diag_destroy", "probe.af_packet")
            and found.errno in ("EPERM", "EACCES")
            and _lists(facts, "caps.effective", "net_admin") is False
        ),
    ),
)

_MODULES = {"tc": ("NET_CLS_BPF", "cls_bpf")}


def unlock_for(need: Requirement, found: Finding, known: Known) -> Unlock | None:
    """Return the smallest change that would answer *need* with yes, or None when only another kernel would.

    For a ``blocked`` finding there is always one, if only "find out what denies it".
    """
    facts = known.facts
    if need.kind == "btf" and found.source == "archive":
        return Unlock("import-btf", "import BTF for this kernel build")
    if found.answer is Answer.NO:
        return _missing(need, facts)
    if found.answer is not Answer.BLOCKED:
        return None
    if found.because in MISSING:
        return MISSING[found.because].unlock
    for row in DENIALS:
        if row.applies(need, found, facts):
            return row.unlock
    errno = f" ({found.errno})" if found.errno else ""
    return Unlock("find-denial", f"find out what denies {noun(need)}{errno}")


def _missing(need: Requirement, facts: Facts) -> Unlock | None:
    if need.kind == "attach" and need.subject in _MODULES:
        symbol, module = _MODULES[need.subject]
        return Unlock("load-module", f"load the kernel module {module}") if kconfig(facts, symbol) == "m" else None
    if need.kind != "fact":
        return None
    for way in alternatives(need):
        row = MISSING.get(way.subject)
        if row and not (row.kconfig and kconfig(facts, row.kconfig) == "n"):
            return row.unlock
    return None


@dataclass(frozen=True, slots=True)
class Gain:
    """What a change opens: a variant of a program, on so many hosts."""

    program: str
    variant: str
    hosts: int


@dataclass(frozen=True, slots=True)
class Change:
    """A change for the fleet: all of ``unlocks`` together, on ``hosts``, open ``gains``."""

    unlocks: tuple[Unlock, ...]
    gains: tuple[Gain, ...]
    hosts: tuple[str, ...]
    kernels: tuple[str, ...]

    @property
    def action(self) -> str:
        """The change in words, with the number of builds where that is what is asked for."""
        words = " and ".join(u.action for u in self.unlocks)
        if len(self.kernels) > 1:
            words = words.replace("this kernel build", f"{len(self.kernels)} kernel builds")
        return words

    @property
    def words(self) -> str:
        """The change with what it moves: ``import BTF for this kernel build: +3 hosts to core-btf``."""
        variants = sorted({g.variant for g in self.gains}, key=LADDER.index)
        hosts = f"+{len(self.hosts):,} {'host' if len(self.hosts) == 1 else 'hosts'}"
        return f"{self.action}: {hosts} to {' and '.join(variants)}"


def needed(assessment: Assessment) -> tuple[Unlock, ...] | None:
    """Return every unlock a variant needs to run, in a stated order (code), or None when unlocks do not suffice."""
    stop = {Verdict.BLOCKED: Answer.BLOCKED, Verdict.UNKNOWN: Answer.UNKNOWN}.get(assessment.verdict)
    waiting = [r for r in assessment.reasons if r.answer is stop and not r.requirement.optional]
    if not waiting or any(r.unlock is None for r in waiting):
        return None
    return tuple(sorted({r.unlock for r in waiting if r.unlock}, key=lambda u: (u.code, u.action)))


def openings(choice: Choice) -> tuple[tuple[str, tuple[Unlock, ...]], ...]:
    """Return (variant, unlocks) for every variant better than the chosen one that unlocks would open, fewest first.

    A change that already opens a better variant is not asked for again for a lesser one.
    """
    better = LADDER.index(choice.variant) if choice.variant in LADDER else len(LADDER)
    found: list[tuple[str, tuple[Unlock, ...]]] = []
    for a in sorted(choice.assessments, key=lambda a: LADDER.index(a.variant)):
        unlocks = needed(a) if LADDER.index(a.variant) < better else None
        if unlocks and not any(set(way) <= set(unlocks) for _, way in found):
            found.append((a.variant, unlocks))
    return tuple(sorted(found, key=lambda o: (len(o[1]), LADDER.index(o[0]))))


def cheapest(choices: Iterable[Choice]) -> tuple[Change, ...]:
    """Return for each choice its smallest opening, summed: the cheapest first, of equals what moves most hosts."""
    hosts: dict[tuple[Unlock, ...], set[str]] = {}
    kernels: dict[tuple[Unlock, ...], set[str]] = {}
    gains: dict[tuple[Unlock, ...], Counter[tuple[str, str]]] = {}
    for choice in choices:
        for variant, unlocks in openings(choice)[:1]:
            hosts.setdefault(unlocks, set()).add(choice.host)
            kernels.setdefault(unlocks, set()).add(choice.kernel_id)
            gains.setdefault(unlocks, Counter())[choice.program, variant] += 1
    changes = [
        Change(
            unlocks,
            tuple(Gain(program, variant, n) for (program, variant), n in sorted(gains[unlocks].items())),
            tuple(sorted(hosts[unlocks])),
            tuple(sorted(kernels[unlocks])),
        )
        for unlocks in hosts
    ]
    return tuple(sorted(changes, key=lambda c: (len(c.unlocks), -len(c.hosts), c.action)))
