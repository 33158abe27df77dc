"""Ask the kernel for program types, map types, helpers and features, and check the asking itself by controls.

Loads and creates, attaches nothing, closes everything. What each errno means is one table; a kernel that answers a
control wrongly is not believed at all.
"""

import ctypes
import errno
import struct
from typing import Callable, List, Optional, Tuple

from inventory.collector import bpf_call, bpf_tables
from inventory.collector.bpf_call import close, insn, returns
from inventory.collector.bpf_tables import MapType, ProgramType
from inventory.collector.document import BLOCKED, NO, UNKNOWN, YES, Report

Seen = Tuple[str, int, str]  # answer, errno, what the log said
Feature = Callable[[bpf_call.Kernel], Tuple[int, str]]
_NONSENSE = 9999
_UNKNOWN_HELPER = (
    "invalid func unknown#",
    "unknown func ",
    "program of this type cannot use helper",
    "not supported for ",
)
_KNOWN_HELPER = "helper call might sleep"  # it is there for this type, in its sleepable programs
_DENIED = (errno.EPERM, errno.EACCES)
# Hidden by lockdown: confidentiality hides all reading of kernel memory.
_READS_KERNEL = frozenset(["probe_read", "probe_read_str", "probe_read_kernel", "probe_read_kernel_str"])


class Probe:
    """The running kernel as a set of questions; each answer goes into *report* with its errno and the log's text."""

    def __init__(self, kernel: bpf_call.Kernel, report: Report) -> None:
        self.kernel = kernel
        self.report = report

    def program_type(self, kind: ProgramType) -> Seen:
        """Load the smallest program of a type."""
        descriptor, error, log = self._load(kind, returns(0))
        text = log.strip().splitlines()[0] if error and log.strip() else ""
        if descriptor >= 0 or (kind.also and error == kind.also[0] and kind.also[1] in log):
            return YES, error, text
        if error in (errno.EINVAL, errno.E2BIG):
            return NO, error, text
        # A refusal with a log comes from the verifier, which was reached: not what was asked here.
        return (BLOCKED if error in _DENIED and not text else UNKNOWN), error, text

    def map_type(self, kind: MapType) -> Seen:
        """Create the smallest map of a type."""
        descriptor, error = self.kernel.create_map(
            kind.number, kind.key, kind.value, kind.entries, kind.flags, kind.btf, kind.inner, kind.vmlinux_type
        )
        close(descriptor)
        if descriptor >= 0 or error == kind.also:
            return YES, error, ""
        if error in (errno.EINVAL, errno.E2BIG):
            return NO, error, ""
        return (BLOCKED if error in _DENIED else UNKNOWN), error, ""

    def helper(self, kind: ProgramType, number: int) -> Seen:
        """Load a lone call; the verifier's complaint tells whether it knows the helper in this type."""
        descriptor, error, log = self._load(kind, bpf_call.calls(number))
        lines = [line for line in log.splitlines() if line and not line.startswith("processed ")]
        text = lines[-1] if lines else ""
        if descriptor >= 0 or (error == errno.EACCES and text):
            return YES, error, ""
        if _KNOWN_HELPER in log:
            return YES, error, text
        for line in lines:
            if any(sign in line for sign in _UNKNOWN_HELPER):
                return NO, error, line
        return (BLOCKED if error in _DENIED else UNKNOWN), error, text

    def _load(self, kind: ProgramType, code: bytes) -> Tuple[int, int, str]:
        descriptor, error, log = self.kernel.load(kind.number, code, kind.expected, kind.flags, kind.btf_id)
        close(descriptor)
        return descriptor, error, log

    def controls(self) -> List[str]:
        """Ask what must be yes and what must be no; returns the failed controls, empty when the probe is sound."""
        kprobe = bpf_tables.PROGRAM_TYPES["kprobe"]
        wanted_no = {
            "helper 9999": self.helper(kprobe, _NONSENSE),
            "helper redirect_peer in kprobe": self.helper(kprobe, bpf_tables.HELPERS.index("redirect_peer")),
            "map type 9999": self.map_type(MapType(_NONSENSE)),
            "program type 9999": self.program_type(ProgramType(_NONSENSE)),
        }
        failed = ["%s: %s" % (name, seen[0]) for name, seen in sorted(wanted_no.items()) if seen[0] == YES]
        if self.map_type(bpf_tables.MAP_TYPES["array"])[0] != YES:
            failed.append("map type array: not yes")
        # RHEL 7 registers no socket filter, so one of three must load.
        basic = ("socket_filter", "kprobe", "tracepoint")
        if all(self.program_type(bpf_tables.PROGRAM_TYPES[name])[0] != YES for name in basic):
            failed.append("no program type of %s loads" % ", ".join(basic))
        return failed

    def types(self) -> None:
        """Add ``bpf.prog.*`` and ``bpf.map.*``."""
        for name, program in sorted(bpf_tables.PROGRAM_TYPES.items()):
            self._add("bpf.prog." + name, "BPF_PROG_LOAD", self.program_type(program))
        for name, kind in sorted(bpf_tables.MAP_TYPES.items()):
            self._add("bpf.map." + name, "BPF_MAP_CREATE", self.map_type(kind))

    def helpers(self, lockdown: Optional[str]) -> None:
        """Add ``bpf.helper.*``; of a program type that does not load, only what holds for the type can be told."""
        for kind, names in sorted(bpf_tables.HELPERS_OF.items()):
            loads = self.report.facts["bpf.prog." + kind]["answer"]
            program = bpf_tables.PROGRAM_TYPES[kind]
            for name in names.split():
                fact = "bpf.helper.%s.%s" % (kind, name)
                if loads != YES:
                    self.report.add(fact, loads, None, "bpf.prog." + kind, "programs of this type do not load")
                    continue
                answer, error, text = self.helper(program, bpf_tables.HELPERS.index(name))
                if answer == NO and name in _READS_KERNEL and lockdown == "confidentiality":
                    answer = BLOCKED
                self._add(fact, "BPF_PROG_LOAD", (answer, error, text))

    def features(self) -> None:
        """Add ``bpf.feature.*``."""
        for name in bpf_tables.FEATURES:
            error, source = _FEATURES[name](self.kernel)
            if error == 0:
                answer = YES
            elif error in (errno.EINVAL, errno.E2BIG, bpf_tables.ENOTSUPP, errno.EOPNOTSUPP):
                answer = NO
            else:
                answer = BLOCKED if error in _DENIED else UNKNOWN
            self._add("bpf.feature." + name, source, (answer, error, ""))

    def _add(self, name: str, source: str, seen: Seen) -> None:
        answer, error, text = seen
        self.report.add(name, answer, None, source, text or None, error)


def _loads(code: bytes, name: bytes = b"", log: bool = False) -> Feature:
    def feature(kernel: bpf_call.Kernel) -> Tuple[int, str]:
        descriptor, error, _ = kernel.load(1, code, name=name, log=log)
        if error:  # RHEL 7 has no socket filters
            descriptor, error, _ = kernel.load(5, code, name=name, log=log)
        close(descriptor)
        # Verifiers refuse old and new instructions with EINVAL, and too long or too complex ones with E2BIG or EINVAL.
        return error, "BPF_PROG_LOAD"

    return feature


def _map_feature(flags: int, then: Optional[Callable[[bpf_call.Kernel, int], int]] = None) -> Feature:
    def feature(kernel: bpf_call.Kernel) -> Tuple[int, str]:
        descriptor, error = kernel.create_map(2, 4, 4, 1, flags)
        if not error and then:
            error = then(kernel, descriptor)
        close(descriptor)
        return error, "BPF_MAP_CREATE"

    return feature


def _global_data(kernel: bpf_call.Kernel, descriptor: int) -> int:
    """Load a program that takes the address of a map's value, as every use of ``.rodata`` does."""
    wide = insn(0x18, 1, 2, 0, descriptor) + insn(0, 0, 0, 0, 0)  # BPF_PSEUDO_MAP_VALUE
    program, error, _ = kernel.load(1, wide + returns(0), log=False)
    close(program)
    return error


def _freeze(kernel: bpf_call.Kernel, descriptor: int) -> int:
    return kernel.bpf(bpf_call.MAP_FREEZE, struct.pack("=I", descriptor))[1]


def _batch(kernel: bpf_call.Kernel, descriptor: int) -> int:
    held = [ctypes.create_string_buffer(8) for _ in range(3)]
    out, keys, values = (ctypes.addressof(buffer) for buffer in held)
    error = kernel.bpf(bpf_call.LOOKUP_BATCH, struct.pack("=QQQQIIQQ", 0, out, keys, values, 1, descriptor, 0, 0))[1]
    return 0 if error == errno.ENOENT else error  # the end of the map was reached


def _stats(kernel: bpf_call.Kernel) -> Tuple[int, str]:
    descriptor, error = kernel.bpf(bpf_call.ENABLE_STATS, struct.pack("=I", 0))
    close(descriptor)
    return error, "BPF_ENABLE_STATS"


def _btf_load(kernel: bpf_call.Kernel) -> Tuple[int, str]:
    strings = b"\0int\0"
    types = struct.pack("=IIII", 1, 1 << 24, 4, 32 | 1 << 24)  # one signed int
    data = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings
    held = ctypes.create_string_buffer(data, len(data))
    descriptor, error = kernel.bpf(bpf_call.BTF_LOAD, struct.pack("=QQIII", ctypes.addressof(held), 0, len(data), 0, 0))
    close(descriptor)
    return error, "BPF_BTF_LOAD"


_ZERO = insn(0xB7)  # r0 = 0
_EXIT = insn(0x95)
_FEATURES = {
    "stats": _stats,
    "global_data": _map_feature(bpf_tables.RDONLY_PROG, _global_data),
    # for (r0 = 0; r0 != 4; r0++)
    "bounded_loops": _loads(_ZERO + insn(0x07, immediate=1) + insn(0x55, 0, 0, -2, 4) + _EXIT),
    "large_insns": _loads(_ZERO * 4097 + _EXIT),
    "prog_name": _loads(returns(0), name=b"corollout"),
    "isa_v1": _loads(returns(0)),
    "isa_v2": _loads(_ZERO + insn(0xA5, 0, 0, 0, 1) + _EXIT),  # if r0 < 1
    "isa_v3": _loads(_ZERO + insn(0xA6, 0, 0, 0, 1) + _EXIT),  # if w0 < 1
    "isa_v4": _loads(_ZERO + insn(0xBF, 0, 0, 8, 0) + _EXIT),  # r0 = (s8)r0
    "bpf2bpf": _loads(insn(0x85, 0, 1, 0, 1) + _EXIT + returns(0)),
    "map_batch": _map_feature(0, _batch),
    "map_freeze": _map_feature(0, _freeze),
    "mmapable": _map_feature(bpf_tables.MMAPABLE),
    "btf_load": _btf_load,
}
