"""The machine and its tools: processors, memory, page size, Python, and the versions of the commands fallbacks use."""

import os
import platform
import re
import subprocess
import sys
from typing import Dict, Optional

from inventory.collector.document import Report, read_text

Tools = Dict[str, "Optional[subprocess.Popen[bytes]]"]
TOOLS = {"iptables": "-V", "ipset": "-v", "tc": "-V", "nft": "-v", "ip": "-V"}
_VERSION = re.compile(r"\d+\.\d+[^\s,]*.*")
_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def collect(report: Report) -> None:
    """Add ``system.*`` and ``python.*``."""
    report.yes("system.page_size", os.sysconf("SC_PAGESIZE"), "sysconf")
    report.yes("system.cpus", os.sysconf("SC_NPROCESSORS_ONLN"), "sysconf")
    try:
        total = re.search(r"^MemTotal:\s+(\d+) kB", read_text("/proc/meminfo"), re.M)
        if total:
            report.yes("system.memory_bytes", int(total.group(1)) * 1024, "/proc/meminfo")
        else:
            report.unknown("system.memory_bytes", "/proc/meminfo")
    except OSError as error:
        report.failed("system.memory_bytes", "/proc/meminfo", error)
    report.yes("python.path", sys.executable or "python3", "sys.executable")
    report.yes("python.version", platform.python_version(), "sys.version")


def start_tools() -> Tools:
    """Start asking every tool for its version; hand the result to :func:`finish_tools`."""
    folders = list(_FOLDERS) + [f for f in os.environ.get("PATH", "").split(":") if f and f not in _FOLDERS]
    started: Tools = {}
    for name, flag in sorted(TOOLS.items()):
        paths = [f + "/" + name for f in folders if os.access(f + "/" + name, os.X_OK)]
        started[name] = None
        if paths:
            try:
                started[name] = subprocess.Popen(
                    [paths[0], flag], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
                )
            except OSError:
                pass
    return started


def finish_tools(report: Report, started: Tools, timeout: float) -> None:
    """Add ``tool.*``."""
    for name, process in sorted(started.items()):
        fact, source = "tool." + name, name + " " + TOOLS[name]
        if process is None:
            report.no(fact, source, "not installed")
            continue
        try:
            said = process.communicate(timeout=timeout)[0].decode("utf-8", "replace")
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            report.unknown(fact, source, "did not end in time")
            continue
        version = parse_tool_version(said)
        if version:
            report.yes(fact, version, source)
        else:
            report.unknown(fact, source, said)


def parse_tool_version(said: str) -> Optional[str]:
    """Return the version text of a tool's first line, from its first number on."""
    match = _VERSION.search(said.strip().splitlines()[0] if said.strip() else "")
    return match.group(0).strip() if match else None
