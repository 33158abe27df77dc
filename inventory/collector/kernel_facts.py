"""Which kernel runs here and what it was built with: identity, distribution, kconfig, BTF. Reads files only."""

import gzip
import hashlib
import os
import re
import struct
import zlib
from typing import Dict, Iterator, Tuple

from inventory.collector.document import BLOCKED, UNKNOWN, Report, answer_for, read_bytes, read_text

# Options that some verdict or unlock depends on; the rest of a kernel configuration stays on the host.
_OPTIONS = re.compile(
    r"CONFIG_(?:"
    r"(?:\w+_)?BPF(?:_\w+)?|\w*BTF\w*|(?:HAVE_)?(?:DYNAMIC_)?FTRACE\w*|FUNCTION_TRACER|FPROBE\w*|K(?:RET)?PROBE\w*|UPROBE\w*"
    r"|TRACEPOINTS|TRACING|PERF_EVENTS|IKHEADERS|IKCONFIG\w*|MODULES|MODULE_SIG_FORCE|KALLSYMS\w*|LSM|SECURITY\w*"
    r"|LOCK_DOWN\w*|CGROUPS|CGROUP_\w+|SOCK_CGROUP_DATA|MEMCG_V1|CPUSETS_V1|NET_CLS_ACT|NET_SCH_INGRESS|NET_NS|NETKIT"
    r"|XDP_SOCKETS\w*|INET_(?:TCP_|UDP_|RAW_)?DIAG\w*|PACKET\w*|NF_TABLES\w*|NETFILTER\w*|IP_NF_\w+|IP6_NF_\w+|IP_SET\w*"
    r"|NF_CONNTRACK|VETH|TUN|LIRC|PREEMPT\w*|HZ|DEBUG_INFO|DEBUG_INFO_NONE|DEBUG_KERNEL|PAGE_SIZE_\w+|ARM64_\dK_PAGES"
    r"|FUNCTION_ERROR_INJECTION|STACKTRACE|SYSCALL_USER_DISPATCH|SECCOMP\w*|USER_NS"
    r")$"
)
_LINE = re.compile(r"^(CONFIG_\w+)=(.*)$|^# (CONFIG_\w+) is not set$")


def collect(report: Report) -> None:
    """Add ``kernel.*``, ``os.*``, ``kconfig`` and ``btf.*``."""
    machine = os.uname().machine
    report.read("kernel.release", "/proc/sys/kernel/osrelease")
    report.read("kernel.version", "/proc/sys/kernel/version")
    report.yes("kernel.arch", machine, "uname")
    report.read("kernel.boot_id", "/proc/sys/kernel/random/boot_id")
    _build_id(report)
    _os_release(report)
    _kconfig(report, report.value("kernel.release", os.uname().release))
    _btf(report)


def notes(data: bytes) -> Iterator[Tuple[bytes, int, bytes]]:
    """Yield (owner, type, content) of ELF notes in this machine's byte order; stops at the first broken one."""
    at = 0
    while at + 12 <= len(data):
        name_size, size, kind = struct.unpack_from("=III", data, at)
        name_end = at + 12 + name_size
        start = at + 12 + (name_size + 3) // 4 * 4
        if name_size > 256 or start + size > len(data):
            return
        yield data[at + 12 : name_end].rstrip(b"\0"), kind, data[start : start + size]
        at = start + (size + 3) // 4 * 4


def _build_id(report: Report) -> None:
    path = "/sys/kernel/notes"
    try:
        found = [content for owner, kind, content in notes(read_bytes(path, 65536)) if (owner, kind) == (b"GNU", 3)]
    except OSError as error:
        report.failed("kernel.build_id", path, error)
        return
    if found:
        report.yes("kernel.build_id", "".join("%02x" % byte for byte in bytearray(found[0])), path)
    else:
        report.no("kernel.build_id", path, "no GNU build-id note")


def _os_release(report: Report) -> None:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            text = read_text(path, 65536)
        except OSError:
            continue
        fields = {}
        for line in text.splitlines():
            name, mark, value = line.strip().partition("=")
            if mark and not name.startswith("#"):
                if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
                    value = re.sub(r"\\(.)", r"\1", value[1:-1])
                fields[name] = value
        for name, key in (("os.id", "ID"), ("os.version_id", "VERSION_ID"), ("os.pretty_name", "PRETTY_NAME")):
            if fields.get(key):
                report.yes(name, fields[key], path)
            else:
                report.no(name, path)
        return
    for name in ("os.id", "os.version_id", "os.pretty_name"):
        report.no(name, "/etc/os-release", "no os-release file")


def parse_kconfig(text: str) -> Dict[str, str]:
    """Return the selected options of a kernel configuration: ``y``, ``m``, ``n`` or text without quotes."""
    options = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and _OPTIONS.match(match.group(1) or match.group(3)):
            value = match.group(2)
            options[match.group(1) or match.group(3)] = "n" if value is None else value.strip('"')
    return options


def _kconfig(report: Report, release: str) -> None:
    denied, broken = None, None
    for path in (
        "/proc/config.gz",
        "/proc/config",
        "/boot/config-" + release,
        "/lib/modules/" + release + "/config",
        "/usr/lib/modules/" + release + "/config",
        "/lib/modules/" + release + "/build/.config",
        "/usr/lib/ostree-boot/config-" + release,
    ):
        try:
            data = read_bytes(path)
            options = parse_kconfig(
                (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8", "replace")
            )
        except (OSError, EOFError, zlib.error) as error:
            number = getattr(error, "errno", None) or 0
            if answer_for(number) == BLOCKED:
                denied = denied or (path, number)
            elif answer_for(number) == UNKNOWN:
                broken = broken or (path, error)
            continue
        if options:
            report.yes("kconfig", options, path)
            return
    if denied:
        report.add("kconfig", BLOCKED, None, denied[0], None, denied[1])
    elif broken:
        report.unknown("kconfig", broken[0], broken[1])
    else:
        report.no("kconfig", "/proc/config.gz", "no configuration in any of the usual places")


def _btf(report: Report) -> None:
    path = "/sys/kernel/btf/vmlinux"
    try:
        data = read_bytes(path, 64 * 1024 * 1024)
    except OSError as error:
        report.failed("btf.vmlinux", path, error)
    else:
        if data[:2] in (b"\x9f\xeb", b"\xeb\x9f"):
            report.yes("btf.vmlinux", {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}, path)
        else:
            report.unknown("btf.vmlinux", path, "the file does not begin like BTF")
    try:
        modules = sorted(name for name in os.listdir("/sys/kernel/btf") if name != "vmlinux")
    except OSError as error:
        report.failed("btf.modules", "/sys/kernel/btf", error)
    else:
        report.yes("btf.modules", modules, "/sys/kernel/btf")
