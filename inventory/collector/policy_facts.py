"""What on this host may deny: lockdown, LSMs, capabilities, seccomp, sysctls, memory lock limit. Reads files only."""

import os
import re
import resource
from typing import List, Optional

from inventory.collector.document import Report, read_bytes, read_text

_CAPABILITIES = (
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service "
    "net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin "
    "sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override "
    "mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore"
)
SYSCTLS = (
    "kernel.unprivileged_bpf_disabled",
    "kernel.perf_event_paranoid",
    "kernel.bpf_stats_enabled",
    "kernel.kptr_restrict",
    "kernel.modules_disabled",
    "kernel.ftrace_enabled",
    "kernel.yama.ptrace_scope",
    "kernel.perf_event_max_stack",
    "net.core.bpf_jit_enable",
    "net.core.bpf_jit_harden",
    "net.core.bpf_jit_limit",
    "user.max_user_namespaces",
)


def collect(report: Report) -> None:
    """Add ``lockdown.mode``, ``lsm.active``, ``caps.*``, ``seccomp.mode``, ``sysctl.*`` and ``memlock.*``."""
    security = report.value("mount.securityfs", "/sys/kernel/security")
    _lockdown(report, security + "/lockdown")
    _lsm(report, security + "/lsm")
    _status(report)
    for name in SYSCTLS:
        report.read("sysctl." + name, "/proc/sys/" + name.replace(".", "/"), int)
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    report.yes("memlock.soft", soft, "getrlimit")
    report.yes("memlock.hard", hard, "getrlimit")


def _lockdown(report: Report, path: str) -> None:
    """Ask the kernel; without securityfs, what it was built or booted to enforce. An absent file is not ``none``."""
    try:
        text = read_text(path)
        chosen = re.search(r"\[(\w+)\]", text)
        if chosen and chosen.group(1) in ("none", "integrity", "confidentiality"):
            report.yes("lockdown.mode", chosen.group(1), path, text)
        else:
            report.unknown("lockdown.mode", path, text)
        return
    except OSError as error:
        missing = error
    options = report.value("kconfig") or {}
    for mode in ("CONFIDENTIALITY", "INTEGRITY"):
        if options.get("CONFIG_LOCK_DOWN_KERNEL_FORCE_" + mode) == "y":
            report.yes("lockdown.mode", mode.lower(), "kconfig", "CONFIG_LOCK_DOWN_KERNEL_FORCE_%s=y" % mode)
            return
    try:
        booted = re.search(r"(?:^|\s)lockdown=(integrity|confidentiality)(?:\s|$)", read_text("/proc/cmdline"))
    except OSError:
        booted = None
    if booted:
        report.yes("lockdown.mode", booted.group(1), "/proc/cmdline", booted.group(0).strip())
        return
    said = _kernel_log_says_locked()
    if said:
        report.unknown("lockdown.mode", "/dev/kmsg", said)
        return
    if options and not any("LOCK_DOWN" in name or "LOCKDOWN" in name for name in options):
        report.yes("lockdown.mode", "none", "kconfig", "this kernel is built without lockdown")
        return
    report.failed("lockdown.mode", path, missing)
    report.facts["lockdown.mode"]["answer"] = "unknown"


def _kernel_log_says_locked() -> Optional[str]:
    """Return the kernel log's line about lockdown; it names who locked, not which mode."""
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        for _ in range(20000):
            line = os.read(log, 8192).decode("utf-8", "replace")
            if "Kernel is locked down" in line:
                return line.partition(";")[2].strip()
    except OSError:  # the end of the log, or lines overwritten while reading
        return None
    finally:
        os.close(log)
    return None


def _lsm(report: Report, path: str) -> None:
    try:
        report.yes("lsm.active", [name for name in read_text(path).split(",") if name], path)
    except OSError as error:
        report.failed("lsm.active", path, error)
        if report.facts["lsm.active"]["answer"] == "no":  # securityfs not mounted: the list exists, we cannot see it
            configured = (report.value("kconfig") or {}).get("CONFIG_LSM", "")
            report.unknown("lsm.active", path, "no such file; configured: " + configured)


def capability_names(mask: int) -> List[str]:
    """Return the names of the set bits, lowest first; a bit newer than this table is ``cap_N``."""
    names = _CAPABILITIES.split()
    return [names[bit] if bit < len(names) else "cap_%d" % bit for bit in range(64) if mask >> bit & 1]


def _status(report: Report) -> None:
    path = "/proc/self/status"
    try:
        text = read_bytes(path, 65536).decode("utf-8", "replace")
    except OSError as error:
        for name in ("caps.effective", "caps.bounding", "seccomp.mode"):
            report.failed(name, path, error)
        return
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    for name, key in (("caps.effective", "CapEff"), ("caps.bounding", "CapBnd")):
        report.yes(name, capability_names(int(fields[key], 16)), path, fields[key])
    if "Seccomp" in fields:
        report.yes("seccomp.mode", int(fields["Seccomp"]), path, fields["Seccomp"])
    else:
        report.no("seccomp.mode", path, "this kernel does not say")
