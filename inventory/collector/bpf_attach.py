"""Attach a program that does nothing to each kind of hook, and detach it again: only attaching tells.

Everything is held by a descriptor of this process, so that its end is the end of the attachment; what would touch
traffic happens in a network namespace of its own. Nothing is mounted, no file is written.
"""

import ctypes
import errno
import os
import struct
import sys
from typing import Callable, Dict, Optional

from inventory.collector import bpf_call, netlink
from inventory.collector.bpf_call import PROG_ATTACH, PROG_DETACH, close, returns
from inventory.collector.document import BLOCKED, NO, UNKNOWN, YES, Report, errno_name, read_bytes, read_text

_SET_BPF = 0x40042408  # PERF_EVENT_IOC_SET_BPF
_SET_BPF_MIPS = 0x80042408  # also powerpc: another direction bit
_EVENT = "sched_process_exit"
_NEVER_CALLED = "bpf_fentry_test1"  # exists for tests of attaching; only BPF_PROG_TEST_RUN calls it
_DENIED = (errno.EPERM, errno.EACCES)
_ABSENT = (errno.EINVAL, errno.E2BIG, errno.EOPNOTSUPP, 524, errno.ENOSYS)
_LINK = {1: "raw_tracepoint", 2: "tracing"}
_EGRESS, _XDP, _TCX_INGRESS, _PERF, _ITER, _RAW_TP, _FENTRY = 1, 37, 46, 41, 28, 23, 24


class Attach:
    """The kinds of hook, one method each; each adds its ``bpf.attach.*`` and the ``bpf.link.*`` it meets."""

    def __init__(
        self,
        kernel: bpf_call.Kernel,
        report: Report,
        tracefs: Optional[str],
        cgroup: Optional[str],
        btf: Optional[Dict[str, int]],
    ) -> None:
        self.kernel = kernel
        self.report = report
        self._tracefs = tracefs
        self._cgroup = cgroup
        self._btf = btf  # name → type id of what is looked up in the kernel's BTF; None when it is not visible

    def here(self) -> None:
        """Try what is harmless on the host itself."""
        for kind in (
            "tracepoint",
            "raw_tracepoint",
            "tp_btf",
            "fentry",
            "iter",
            "kprobe",
            "uprobe",
            "perf_event",
            "cgroup_skb",
        ):
            self._one(kind, getattr(self, "_" + kind))

    def apart(self) -> None:
        """Try XDP and tc on the loopback device of a new network namespace."""
        _, error = self.kernel.new_network()
        if error:
            for name in ("bpf.attach.tc", "bpf.attach.xdp", "bpf.link.xdp"):
                self.report.add(name, UNKNOWN, None, "unshare", "no network namespace of our own to try in", error)
        else:
            self._one("tc", self._tc)
            self._one("xdp", self._xdp)
        self._tcx()

    def _one(self, kind: str, attempt: Callable[[], str]) -> None:
        """Run one attempt: it raises OSError for what the kernel said, or NotTriedError when nothing can be told."""
        name = "bpf.attach." + kind
        try:
            source = attempt()
        except NotTriedError as reason:
            self.report.add(name, reason.answer, None, reason.source, str(reason))
        except OSError as error:
            number = error.errno or 0
            answer = BLOCKED if number in _DENIED else NO if number in _ABSENT else UNKNOWN
            self.report.add(name, answer, None, error.filename, error.strerror, number)
        else:
            self.report.yes(name, None, source)

    def _load(self, kind: int, expected: int = 0, btf_id: int = 0) -> int:
        descriptor, error, log = self.kernel.load(kind, returns(0), expected, 0, btf_id)
        if error:
            raise OSError(error, log.strip()[:200] or errno_name(error), "BPF_PROG_LOAD")
        return descriptor

    def _link(self, kind: str, program: int, target: int, attach_type: int, flags: int = 0) -> int:
        """Create a link and add ``bpf.link.KIND``; returns its descriptor, negative when there is none."""
        descriptor, error = self.kernel.link(program, target, attach_type, flags)
        if error:
            answer = BLOCKED if error in _DENIED else NO if error in _ABSENT else UNKNOWN
            self.report.add("bpf.link." + kind, answer, None, "BPF_LINK_CREATE", None, error)
        else:
            self.report.yes("bpf.link." + kind, None, "BPF_LINK_CREATE")
        return descriptor

    def _perf(
        self, program: int, kind: int, config: int, first: int = 0, second: int = 0, period: int = 0, cpu: int = -1
    ) -> None:
        """Open a perf event, hang *program* on it as old kernels do, and see whether a link is possible too."""
        event, error = self.kernel.perf_event(kind, config, first, second, period, cpu)
        if error:
            raise OSError(error, errno_name(error), "perf_event_open")
        try:
            request = _SET_BPF_MIPS if os.uname().machine.startswith(("mips", "ppc")) else _SET_BPF
            _, error = self.kernel.ioctl(event, request, program)
            if error:
                raise OSError(error, errno_name(error), "PERF_EVENT_IOC_SET_BPF")
        finally:
            close(event)

    def _tracepoint(self) -> str:
        if self._tracefs is None:
            raise NotTriedError.unmounted(self.report)
        try:
            number = int(read_text("%s/events/sched/%s/id" % (self._tracefs, _EVENT), 64))
        except ValueError:
            raise NotTriedError("the id of an event is not a number", self._tracefs) from None
        program = self._load(5)
        try:
            self._perf(program, 2, number, cpu=-1)
        finally:
            close(program)
        return "PERF_EVENT_IOC_SET_BPF"

    def _raw(self, program: int, name: bytes, kind: Optional[str]) -> str:
        descriptor, error = self.kernel.raw_tracepoint(program, name)
        if error:
            raise OSError(error, errno_name(error), "BPF_RAW_TRACEPOINT_OPEN")
        # Since Linux commit 70ed506c3bbc ("bpf: Introduce pinnable bpf_link abstraction") (v5.7) it is a link.
        if kind:
            found = _LINK.get(self.kernel.link_type(descriptor) or 0)
            self.report.add("bpf.link." + kind, YES if found == kind else NO, None, "BPF_OBJ_GET_INFO_BY_FD")
        close(descriptor)
        return "BPF_RAW_TRACEPOINT_OPEN"

    def _raw_tracepoint(self) -> str:
        program = self._load(17)
        try:
            return self._raw(program, _EVENT.encode(), "raw_tracepoint")
        finally:
            close(program)

    def _type_id(self, name: str) -> int:
        if self._btf is None:
            raise NotTriedError("the kernel's BTF is not visible, so its target cannot be named", "btf.vmlinux")
        if name not in self._btf:
            raise NotTriedError("the kernel's BTF has no %s to try on" % name, "btf.vmlinux")
        return self._btf[name]

    def _tp_btf(self) -> str:
        program = self._load(26, expected=_RAW_TP, btf_id=self._type_id("btf_trace_" + _EVENT))
        try:
            return self._raw(program, b"", None)
        finally:
            close(program)

    def _fentry(self) -> str:
        program = self._load(26, expected=_FENTRY, btf_id=self._type_id(_NEVER_CALLED))
        try:
            return self._raw(program, b"", "tracing")
        finally:
            close(program)

    def _iter(self) -> str:
        program = self._load(26, expected=_ITER, btf_id=self._type_id("bpf_iter_bpf_map"))
        try:
            descriptor = self._link("iter", program, 0, _ITER)
            if descriptor < 0:
                raise NotTriedError("no link, so no iterator", "BPF_LINK_CREATE", NO)
            close(descriptor)
        finally:
            close(program)
        return "BPF_LINK_CREATE"

    def _pmu(self, name: str) -> int:
        """Return the number of a perf unit. Without it there are only the *_events files, which are not for trying."""
        path = "/sys/bus/event_source/devices/%s/type" % name
        try:
            return int(read_text(path, 64))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            option = "CONFIG_%s_EVENTS" % name.upper()
            built = (self.report.value("kconfig") or {}).get(option)
            if self.report.value("kconfig") and built in (None, "n"):
                raise NotTriedError("%s is not set" % option, path, NO) from None
            raise NotTriedError("there is no perf unit for it", path) from None
        except ValueError:
            raise NotTriedError("the perf unit has no number", path) from None

    def _kprobe(self) -> str:
        unit = self._pmu("kprobe")
        target = ctypes.create_string_buffer(b"do_nanosleep")
        program = self._load(2)
        try:
            self._perf(program, unit, 0, ctypes.addressof(target), 0, cpu=-1)
        finally:
            close(program)
        return "PERF_EVENT_IOC_SET_BPF"

    def _uprobe(self) -> str:
        unit = self._pmu("uprobe")
        path = os.path.realpath("/proc/self/exe")
        target = ctypes.create_string_buffer(os.fsencode(path))
        program = self._load(2)
        try:
            # Our own entry point, in our own memory only: it has run already and will not again.
            self._perf(program, unit, 0, ctypes.addressof(target), entry_offset(read_bytes(path, 65536)))
        finally:
            close(program)
        return "PERF_EVENT_IOC_SET_BPF"

    def _perf_event(self) -> str:
        program = self._load(7)
        try:
            self._perf(program, 1, 0, period=1000000)  # the software CPU clock, never enabled
            event, error = self.kernel.perf_event(1, 0, 0, 0, 1000000)
            if not error:
                close(self._link("perf_event", program, event, _PERF))
                close(event)
        finally:
            close(program)
        return "PERF_EVENT_IOC_SET_BPF"

    def _cgroup_skb(self) -> str:
        """Hook a program that lets all through into our own cgroup; by a link where possible, which dies with us."""
        if self._cgroup is None:
            raise NotTriedError("no cgroup2 file system is mounted", "cgroup.v2_path", BLOCKED)
        folder = os.open(self._cgroup, os.O_RDONLY)
        descriptor, error, _ = self.kernel.load(8, returns(1))
        try:
            if error:
                raise OSError(error, errno_name(error), "BPF_PROG_LOAD")
            link = self._link("cgroup", descriptor, folder, _EGRESS)
            if link >= 0:
                close(link)
                return "BPF_LINK_CREATE"
            argument = struct.pack("=IIIIxxxx", folder, descriptor, _EGRESS, 2)  # BPF_F_ALLOW_MULTI
            _, error = self.kernel.bpf(PROG_ATTACH, argument)
            if error:
                raise OSError(error, errno_name(error), "BPF_PROG_ATTACH")
            self.kernel.bpf(PROG_DETACH, argument)
            return "BPF_PROG_ATTACH"
        finally:
            close(descriptor)
            os.close(folder)

    def _tc(self) -> str:
        """Add a clsact qdisc and a direct-action filter to lo of our namespace."""
        program = self._load(3)
        try:
            with netlink.Netlink(netlink.ROUTE) as route:
                qdisc = struct.pack("=BxxxiIII", 0, 1, 0xFFFF0000, 0xFFFFFFF1, 0)
                create = netlink.ACK | netlink.CREATE | netlink.EXCL
                route.ask(36, create, qdisc + netlink.attribute(1, b"clsact\0"))
                protocol = struct.unpack("=H", struct.pack("!H", 3))[0]  # ETH_P_ALL
                hook = struct.pack("=BxxxiIII", 0, 1, 1, 0xFFFFFFF2, 1 << 16 | protocol)  # ingress
                options = netlink.attribute(6, struct.pack("=I", program)) + netlink.attribute(8, struct.pack("=I", 1))
                route.ask(44, create, hook + netlink.attribute(1, b"bpf\0") + netlink.attribute(2, options))
        except OSError as error:
            if error.errno == errno.ENOENT:  # no such qdisc or classifier: a module that may not be loaded, or none
                error.errno = errno.EOPNOTSUPP
            raise OSError(error.errno, error.strerror, "rtnetlink") from None
        finally:
            close(program)
        return "rtnetlink"

    def _xdp(self) -> str:
        """Attach generically to lo of our namespace by netlink, then by a link."""
        program = self._load(6)
        try:
            with netlink.Netlink(netlink.ROUTE) as route:
                header = struct.pack("=BxHiII", 0, 0, 1, 0, 0)
                for descriptor in (program, -1):
                    options = netlink.attribute(1, struct.pack("=i", descriptor)) + netlink.attribute(
                        3, struct.pack("=I", 2)
                    )
                    route.ask(19, netlink.ACK, header + netlink.attribute(43 | 0x8000, options))
            close(self._link("xdp", program, 1, _XDP, 2))  # XDP_FLAGS_SKB_MODE
        except OSError as error:
            raise OSError(error.errno, error.strerror, "rtnetlink") from None
        finally:
            close(program)
        return "rtnetlink"

    def _tcx(self) -> None:
        """Ask for a link on a device that cannot exist: only a kernel that knows tcx looks for the device."""
        program, error, _ = self.kernel.load(3, returns(0))
        if not error:
            descriptor, error = self.kernel.link(program, 0x7FFFFFFF, _TCX_INGRESS)
            close(descriptor)
            close(program)
        answer = (
            YES if error in (0, errno.ENODEV) else NO if error in _ABSENT else BLOCKED if error in _DENIED else UNKNOWN
        )
        self.report.add("bpf.link.tcx", answer, None, "BPF_LINK_CREATE", None, error)


class NotTriedError(Exception):
    """Nothing was asked of the kernel, and why."""

    def __init__(self, words: str, source: str, answer: str = UNKNOWN) -> None:
        Exception.__init__(self, words)
        self.source = source
        self.answer = answer

    @classmethod
    def unmounted(cls, report: Report) -> "NotTriedError":
        """What a missing tracefs means: the operator can mount it, when the kernel has it."""
        raw = report.fact("mount.tracefs").get("raw") or "tracefs is not mounted"
        return cls(
            raw, "mount.tracefs", BLOCKED if "the kernel has" in raw else NO if "does not have" in raw else UNKNOWN
        )


def entry_offset(head: bytes) -> int:
    """Return the file offset of an ELF program's first instruction from its first bytes; raises ValueError."""
    wide = head[4:5] == b"\x02"
    order = "<" if head[5:6] == b"\x01" else ">"
    if head[:4] != b"\x7fELF" or (order == "<") != (sys.byteorder == "little"):
        raise ValueError("not an ELF file of this machine")
    layout = ("=24xQQ14xHH", "=IIQQQQQQ") if wide else ("=24xII10xHH", "=IIIIIIII")
    entry, table, size, count = struct.unpack_from(layout[0], head)
    for number in range(count):
        fields = struct.unpack_from(layout[1], head, table + number * size)
        kind, offset, address, length = (
            (fields[0], fields[2], fields[3], fields[5]) if wide else (fields[0], fields[1], fields[2], fields[4])
        )
        if kind == 1 and address <= entry < address + length:
            return int(entry - address + offset)
    raise ValueError("no segment holds the entry point")
