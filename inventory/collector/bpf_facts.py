"""Ask ``bpf()`` everything in a child process and add the answers: a probe that dies or hangs costs its facts only.

A run whose controls fail is not believed; a ``bpf()`` that is denied makes everything ``blocked``, never ``no``.
"""

import errno
import json
import os
import resource
import select
import signal
import struct
import time
from typing import Any, Dict, Optional, Set

from inventory.collector import bpf_attach, bpf_call, bpf_probe, bpf_tables, btf_names
from inventory.collector.document import BLOCKED, NO, UNKNOWN, YES, Report, errno_name, read_bytes

_WANTED = (
    ("btf_trace_sched_process_exit", btf_names.TYPEDEF),
    ("bpf_fentry_test1", btf_names.FUNC),
    ("bpf_iter_bpf_map", btf_names.FUNC),
)


def collect(report: Report, tracefs: Optional[str], timeout: float) -> None:
    """Add ``bpf.*``; *tracefs* is its folder or None, *timeout* in seconds ends the child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _child(writer, report, tracefs)
    os.close(writer)
    ended = _gather(report, reader, time.time() + timeout)
    os.close(reader)
    if not ended:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    trouble = report.facts.pop("bpf.trouble", {}).get("raw", "status %d" % status)
    raw = "the probe ended before its time: " + (trouble if ended else "timeout")
    for name in ["bpf.syscall", "bpf.reliable"] + bpf_tables.names():
        if name not in report.facts:
            report.unknown(name, "bpf", raw)


def _gather(report: Report, reader: int, deadline: float) -> bool:
    """Take facts line by line, so that those of a child that dies are not lost; returns whether the child ended."""
    pending = b""
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.time()))
        data = os.read(reader, 65536) if ready else None
        if not data:
            return data is not None
        lines = (pending + data).split(b"\n")
        pending = lines.pop()
        for line in lines:
            report.facts.update(json.loads(line.decode("ascii")))


def _child(writer: int, known: Report, tracefs: Optional[str]) -> None:
    """Probe and write facts; never returns."""
    try:
        report = Told(writer, known)
        _ask(report, tracefs)
    except Exception as error:  # the parent knows only what is written
        os.write(writer, json.dumps({"bpf.trouble": {"answer": UNKNOWN, "raw": repr(error)[:300]}}).encode() + b"\n")
    finally:
        os._exit(0)


class Told(Report):
    """A report that hands every part on as soon as it is complete. Facts of *known* can be read, not changed."""

    def __init__(self, writer: int, known: Report) -> None:
        Report.__init__(self)
        self._writer = writer
        self._known = known
        self._sent: Set[str] = set()

    def fact(self, name: str) -> Dict[str, Any]:
        """Return a fact of this report, or of the one before."""
        return Report.fact(self, name) or self._known.fact(name)

    def tell(self) -> None:
        """Write what was added since the last time."""
        new = {name: fact for name, fact in self.facts.items() if name not in self._sent}
        self._sent.update(new)
        data = json.dumps(new).encode("ascii") + b"\n"
        while data:
            data = data[os.write(self._writer, data) :]


def _ask(report: Told, tracefs: Optional[str]) -> None:
    try:
        kernel = bpf_call.Kernel()
    except bpf_call.NoNumbersError as error:
        _all(report, UNKNOWN, str(error), 0)
        return
    kernel.crowded = not _raise_memlock()
    if not _syscall(report, kernel):
        return
    _kprobe_version(kernel)
    probe = bpf_probe.Probe(kernel, report)
    failed = probe.controls()
    if failed:
        report.no("bpf.reliable", "controls", "; ".join(failed))
        _all(report, UNKNOWN, "the probe's controls failed", 0)
        return
    report.yes("bpf.reliable", None, "controls")
    report.tell()
    probe.types()
    probe.helpers(report.value("lockdown.mode"))
    probe.features()
    report.tell()
    attach = bpf_attach.Attach(kernel, report, tracefs, _own_cgroup(report), _btf_ids())
    attach.here()
    report.tell()
    attach.apart()
    for kind in bpf_tables.LINK_KINDS:
        hook = bpf_tables.LINK_HOOKS.get(kind)
        if hook and "bpf.link." + kind not in report.facts:  # its hook was not reached, so no link was either
            answer = report.fact("bpf.attach." + hook)["answer"]
            report.add("bpf.link." + kind, UNKNOWN if answer in (YES, NO) else answer, None, "bpf.attach." + hook)
    report.tell()


def _all(report: Told, answer: str, raw: str, error: int, source: str = "bpf") -> None:
    """Give every ``bpf.*`` fact the same answer."""
    for name in bpf_tables.names():
        report.add(name, answer, None, source, raw, error)
    report.tell()


def _raise_memlock() -> bool:
    """Lift this process's memory lock limit: before 5.11 maps count against it, with an EPERM like a denial's.

    Returns whether there is none any more.
    """
    unlimited = resource.RLIM_INFINITY
    for limits in ((unlimited, unlimited), (resource.getrlimit(resource.RLIMIT_MEMLOCK)[1],) * 2):
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, limits)
            break
        except (ValueError, OSError):  # no CAP_SYS_RESOURCE: as far as we may
            continue
    return resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == unlimited


def _syscall(report: Told, kernel: bpf_call.Kernel) -> bool:
    """Add ``bpf.syscall`` and return whether there is anything to probe."""
    descriptor, error = kernel.create_map(2, 4, 4, 1)
    bpf_call.close(descriptor)
    source, filtered = "BPF_MAP_CREATE array", report.value("seccomp.mode") == 2
    if error in (errno.EPERM, errno.EACCES):
        answer, raw = BLOCKED, "denied" + (", a seccomp filter is active" if filtered else "")
    elif error == errno.ENOSYS:
        built = (report.value("kconfig") or {}).get("CONFIG_BPF_SYSCALL")
        if filtered or built == "y":
            answer = BLOCKED
            raw = "a seccomp filter is active" if filtered else "the kernel is built with CONFIG_BPF_SYSCALL=y"
        else:
            answer, raw = NO, "the kernel has no bpf()"
    else:  # whatever else it said, it answered; the controls judge the rest
        report.add("bpf.syscall", YES, None, source, None, error)
        return True
    report.add("bpf.syscall", answer, None, source, raw, error)
    report.add(
        "bpf.reliable", UNKNOWN if answer == NO else BLOCKED, None, source, "bpf() was not reached: no controls", error
    )
    _all(report, answer, "bpf() fails with " + errno_name(error), error, source)
    return False


def _kprobe_version(kernel: bpf_call.Kernel) -> None:
    """Before 5.0 a kprobe program must be made for exactly this kernel: find which version it thinks it is."""
    for version in [0] + bpf_call.kernel_versions():
        kernel.version = version
        descriptor, error, _ = kernel.load(2, bpf_call.returns(0))
        bpf_call.close(descriptor)
        if error != errno.EINVAL:
            return
    kernel.version = 0


def _own_cgroup(report: Report) -> Optional[str]:
    """Return the folder of our own cgroup in the second hierarchy, or None."""
    root: Optional[str] = report.value("cgroup.v2_path")
    if not root:
        return None
    try:
        for line in read_bytes("/proc/self/cgroup", 65536).decode("utf-8", "replace").splitlines():
            if line.startswith("0::") and os.path.isdir(root + line[3:]):
                return root + line[3:].rstrip("/")
    except OSError:
        pass
    return root


def _btf_ids() -> Optional[Dict[str, int]]:
    try:
        return btf_names.find_ids(read_bytes("/sys/kernel/btf/vmlinux", 64 * 1024 * 1024), _WANTED)
    except (OSError, struct.error):
        return None
