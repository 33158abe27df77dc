"""What an object needs of the machine it runs on rather than of its kernel, and how the memory of its maps is answered.

Up to Linux 5.10 every map and program counts against the limit of its user; a map above it is refused with EPERM, for
root too where CAP_SYS_RESOURCE is missing. From 5.11 on the memory control group pays.
"""

from __future__ import annotations

from collections.abc import Iterator

from btf.objects.maps import BpfMap
from btf.objects.object import BpfObject, BpfProgram
from fleet.compatibility.signs import BACKPORTERS, release_version
from fleet.compatibility.sources import Finding, Known, ask_enum, holds, kconfig
from fleet.compatibility.verdict import Evidence, Requirement
from inventory.facts import Answer

_PAGE = 4096
# Present where maps are charged: the first since Linux 5.3, the second before.
_CHARGERS = ("bpf_map_charge_init", "bpf_map_precharge_memlock")
# libbpf looks the functions of these up in /proc/kallsyms and hands the kernel their addresses.
_BY_ADDRESS = frozenset({"kprobe.multi", "kretprobe.multi", "kprobe.session"})
_RING = "ringbuf"  # its entries are bytes


def host_needs(obj: BpfObject) -> tuple[Requirement, ...]:
    """Return what *obj* needs of the machine: memory for its maps, perf events, what is looked up in a kernel."""
    least = sum(_least(m) for m in obj.maps)
    whole = [Requirement("memlock", str(least))] if least else []
    return (*whole, *(need for program in obj.programs for need in _of_program(obj, program)))


def _of_program(obj: BpfObject, program: BpfProgram) -> Iterator[Requirement]:
    streams = {m.name for m in obj.maps if m.type == "perf_event_array"}
    if any(name in streams for function in program.functions for name in function.maps):
        # The runner opens an event for each processor, which perf_event_paranoid may deny where BPF is allowed.
        yield Requirement("attach", "perf_event", program=program.name, optional=program.optional)
    if program.meaning.kind in _BY_ADDRESS:
        yield Requirement("kallsyms", "addresses", program=program.name, optional=program.optional)
    for symbol in obj.kernel_symbols(program):
        if symbol.typed and symbol.weak:
            yield Requirement("module_btf", symbol.name, program=program.name, optional=program.optional)


def _least(entry: BpfMap) -> int:
    """Bytes that a map takes at least, in whole pages."""
    sizes = 1 if entry.type == _RING else _eights(entry.value_size)
    if "hash" in entry.type or entry.type == "lpm_trie":
        sizes += _eights(entry.key_size)
    return -(-sizes * entry.max_entries // _PAGE) * _PAGE + _PAGE


def _eights(size: int) -> int:
    return (size + 7) & ~7


def ask_memlock(need: Requirement, known: Known) -> Finding | None:
    """Whether maps of so many bytes may be made: by the right to lift the limit, the kernel's accounting, the limit."""
    facts = known.facts
    if holds(facts, "sys_resource"):
        return Finding(Answer.YES, Evidence.PROBED, "CAP_SYS_RESOURCE lifts RLIMIT_MEMLOCK", "caps.effective")
    charged = _charged(known)
    if charged is False:
        return Finding(Answer.YES, Evidence.DERIVED, "this kernel does not charge maps to RLIMIT_MEMLOCK", "btf:FUNC")
    limit = facts.value("memlock.hard", facts.value("memlock.soft"))
    if not isinstance(limit, int) or not need.subject.isdecimal():
        return Finding(Answer.UNKNOWN, Evidence.PROBED, "RLIMIT_MEMLOCK is not known", "memlock.hard")
    least = int(need.subject)
    if limit < 0 or limit >= 4 * least + 64 * _PAGE:
        return Finding(Answer.YES, Evidence.PROBED, "RLIMIT_MEMLOCK is wide enough", "memlock.hard")
    if charged and limit < least:
        words = f"RLIMIT_MEMLOCK is {limit} bytes and cannot be raised"
        return Finding(Answer.BLOCKED, Evidence.PROBED, words, "memlock.hard", "EPERM", "memlock.hard")
    return Finding(Answer.UNKNOWN, Evidence.PROBED, f"close to RLIMIT_MEMLOCK, {limit} bytes", "memlock.hard")


def _charged(known: Known) -> bool | None:
    """Whether this kernel charges maps to RLIMIT_MEMLOCK: its BTF tells, else its version where nobody backports."""
    if known.btf is not None:
        return any(name in known.btf.functions() for name in _CHARGERS)
    release = str(known.facts.value("kernel.release", ""))
    version = release_version(release)
    if version is None or (version < (5, 11) and BACKPORTERS.search(release)):
        return None
    return version < (5, 11)


def ask_bpf_syscall(need: Requirement, known: Known) -> Finding | None:
    """Whether bpf() answers where nobody could call it (a host without Python): by option, filter and rights."""
    facts = known.facts
    if need.subject != "bpf.syscall" or facts.answer("bpf.syscall") is not Answer.UNKNOWN:
        return None
    option, labels = kconfig(facts, "BPF_SYSCALL"), facts.value("lsm.active")
    if option == "n":
        return Finding(Answer.NO, Evidence.DERIVED, "BPF_SYSCALL is not set", "kconfig")
    may = holds(facts, "sys_admin") or holds(facts, "bpf")
    # SELinux has rules of its own for bpf(), which no file here tells.
    ruled = "selinux" in labels if isinstance(labels, list) else kconfig(facts, "SECURITY_SELINUX") != "n"
    if option != "y" or not may or ruled or facts.value("seccomp.mode") != 0:
        return None
    return Finding(Answer.YES, Evidence.DERIVED, "BPF_SYSCALL is set, no seccomp filter, and we may", "kconfig")


# libbpf knows a kernel that has BTF of modules by what Linux commit 5329722057d4 ("bpf: Assign ID to vmlinux BTF and
# return extra info for BTF in GET_OBJ_INFO") (v5.11) brought; told by what came with it: commit 4f19cab76136 ("bpf: Add
# a bpf_sock_from_file helper").
_WITH_MODULES = ask_enum("bpf_func_id", "BPF_FUNC_sock_from_file")


def ask_module_btf(need: Requirement, known: Known) -> Finding | None:
    """Whether libbpf may look for a symbol where the kernel's own BTF does not have it: in the BTF of modules.

    Where it may not (``BPF_BTF_GET_NEXT_ID`` asks for CAP_SYS_ADMIN), libbpf 1.1 refuses the object, though the symbol
    may be absent.
    """
    if known.btf is not None and (known.btf.by_name(need.subject) or need.subject in known.btf.functions()):
        return Finding(Answer.YES, Evidence.DERIVED, "the kernel's own BTF has it", "btf")
    modules = _WITH_MODULES(need, known)
    if modules is not None and modules.answer is Answer.NO:
        return Finding(Answer.YES, Evidence.DERIVED, "this kernel has no BTF of modules", modules.source)
    admin = holds(known.facts, "sys_admin")
    if admin is None:
        return None
    if admin:
        return Finding(Answer.YES, Evidence.DERIVED, "CAP_SYS_ADMIN lets libbpf look there", "caps.effective")
    words = "libbpf gives up the object without CAP_SYS_ADMIN, though the symbol may be absent"
    return Finding(Answer.BLOCKED, Evidence.DERIVED, words, "caps.effective", "EPERM", "caps.effective")


def ask_kallsyms(need: Requirement, known: Known) -> Finding | None:  # noqa: ARG001  one signature for all sources
    """Whether /proc/kallsyms shows addresses, by the kernel's own rule (``kallsyms_show_value``)."""
    facts = known.facts
    syslog = holds(facts, "syslog")
    restrict = facts.value("sysctl.kernel.kptr_restrict")
    paranoid = facts.value("sysctl.kernel.perf_event_paranoid")
    if syslog is None or not isinstance(restrict, int):
        return None
    if (restrict == 0 and isinstance(paranoid, int) and paranoid <= 1) or (restrict <= 1 and syslog):
        return Finding(Answer.YES, Evidence.PROBED, "shown", "sysctl.kernel.kptr_restrict")
    words = f"hidden: kernel.kptr_restrict is {restrict}" + ("" if syslog else ", without CAP_SYSLOG")
    return Finding(Answer.BLOCKED, Evidence.PROBED, words, "sysctl.kernel.kptr_restrict", "EPERM")
