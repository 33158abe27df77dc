"""Where programs could hook in and what building one needs: mounts, cgroups, probes, tracepoints, headers, bcc.

Mounts nothing and writes nothing: what needs a mount that is not there is answered from what can be seen.
"""

import os
import re
import subprocess
import sys
from typing import List, Optional, Tuple

from inventory.collector.document import BLOCKED, UNKNOWN, YES, Report, read_text

Row = Tuple[str, str, str, str]
_FILE_SYSTEMS = {"tracefs": "tracefs", "debugfs": "debugfs", "bpffs": "bpf", "securityfs": "securityfs"}
# Asked in a process of its own: importing bcc loads a compiler, and the namesake runs whatever it runs.
_BCC = "import bcc;print(getattr(bcc,'__version__','?') if hasattr(bcc,'BPF') else 'namesake '+str(bcc.__file__))"


def mounts(report: Report) -> List[Row]:
    """Add ``mount.*`` from mountinfo; the first mount of a kind whose root is visible counts."""
    path = "/proc/self/mountinfo"
    try:
        rows = parse_mountinfo(read_text(path))
        registered = read_text("/proc/filesystems").split()
    except OSError as error:
        for name in _FILE_SYSTEMS:
            report.failed("mount." + name, path, error)
        return []
    for name, kind in sorted(_FILE_SYSTEMS.items()):
        places = [place for root, place, has, _ in rows if has == kind and root == "/" and os.path.isdir(place)]
        if places:
            report.yes("mount." + name, places[0], path)
        elif kind in registered:
            report.no("mount." + name, path, "the kernel has %s, it is not mounted" % kind)
        else:
            report.no("mount." + name, path, "the kernel does not have %s" % kind)
    return rows


def parse_mountinfo(text: str) -> List[Row]:
    """Return (root, mount point, file system, options) for each line, escapes undone."""
    rows = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(), right.split()
        if len(fields) >= 5 and tail:
            place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), fields[4])
            rows.append((fields[3], place, tail[0], tail[-1]))
    return rows


def cgroups(report: Report, rows: List[Row]) -> None:
    """Add ``cgroup.mode`` and ``cgroup.v2_path``."""
    path = "/proc/self/mountinfo"
    second = [place for _, place, kind, _ in rows if kind == "cgroup2" and os.path.isdir(place)]
    first = any(kind == "cgroup" for _, _, kind, _ in rows)
    if first and second:
        report.yes("cgroup.mode", "hybrid", path)
    elif first or second:
        report.yes("cgroup.mode", "v1" if first else "v2", path)
    else:
        report.no("cgroup.mode", path, "no cgroup file system is mounted")
    if second:
        report.yes("cgroup.v2_path", second[0], path)
    else:
        report.no("cgroup.v2_path", path)


def tracing_folder(report: Report) -> Optional[str]:
    """Return the folder of tracefs, mounted by itself or inside debugfs, or None."""
    mounted: Optional[str] = report.value("mount.tracefs")
    debug = report.value("mount.debugfs")
    for folder in (mounted, debug and debug + "/tracing"):
        if folder and os.path.isdir(folder + "/events"):
            return folder
    return mounted


def hooks(report: Report) -> None:
    """Add ``hook.*``."""
    for name, pmu in (("hook.kprobe_pmu", "kprobe"), ("hook.uprobe_pmu", "uprobe")):
        report.present(name, "/sys/bus/event_source/devices/%s/type" % pmu)
    folder = tracing_folder(report)
    names = ("kprobe_events", "available_filter_functions")
    if folder is None:
        unmounted = report.fact("mount.tracefs").get("raw", "")
        # Not there because nobody mounted it is no property of the kernel: the operator can change it.
        answer = BLOCKED if "the kernel has" in unmounted else UNKNOWN
        for name in names + ("tracepoints",):
            report.add("hook." + name, answer, None, "mount.tracefs", unmounted or "tracefs is not mounted")
        return
    for name in names:
        report.present("hook." + name, folder + "/" + name)
    _tracepoints(report, folder + "/events")


def _tracepoints(report: Report, folder: str) -> None:
    found: List[str] = []
    try:
        for category in os.listdir(folder):
            if "." in category or category in ("enable", "header_event", "header_page", "ftrace"):
                continue
            try:
                events = os.listdir(folder + "/" + category)
            except OSError:
                continue
            found.extend(category + ":" + event for event in events if event not in ("enable", "filter"))
    except OSError as error:
        report.failed("hook.tracepoints", folder, error)
        return
    if found:
        report.yes("hook.tracepoints", sorted(found), folder)
    else:
        report.unknown("hook.tracepoints", folder, "the folder of events is empty")


def headers(report: Report) -> None:
    """Add ``headers.path`` and ``headers.kheaders``: what BCC compiles against."""
    modules = "/lib/modules/" + report.value("kernel.release", os.uname().release)
    places = [
        place for place in (os.environ.get("BCC_KERNEL_SOURCE"), modules + "/source", modules + "/build") if place
    ]
    for place in places:
        if os.path.exists(place + "/include/linux/kconfig.h"):
            report.yes("headers.path", place, place + "/include/linux/kconfig.h")
            break
    else:
        stale = [place for place in places if os.path.islink(place) and not os.path.exists(place)]
        report.no("headers.path", places[-1], "a link to nothing: " + stale[0] if stale else "not installed")
    path = "/sys/kernel/kheaders.tar.xz"
    if os.path.exists(path):
        report.yes("headers.kheaders", path, path)
    elif (report.value("kconfig") or {}).get("CONFIG_IKHEADERS") == "m":
        report.add("headers.kheaders", BLOCKED, None, path, "the module kheaders is not loaded")
    else:
        report.no("headers.kheaders", path)


def start_bcc() -> "subprocess.Popen[bytes]":
    """Start asking whether bcc is usable; hand the result to :func:`finish_bcc`."""
    return subprocess.Popen(
        [sys.executable or "python3", "-c", _BCC],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
    )


def finish_bcc(report: Report, process: "subprocess.Popen[bytes]", timeout: float) -> None:
    """Add ``bcc.usable`` and ``bcc.namesake``."""
    source = "import bcc"
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        report.unknown("bcc.usable", source, "the import did not end in time")
        report.unknown("bcc.namesake", source)
        return
    said = out.decode("utf-8", "replace").strip()
    lines = err.decode("utf-8", "replace").strip().splitlines()
    namesake = said.startswith("namesake ")
    if process.returncode == 0 and said and not namesake:
        report.yes("bcc.usable", said, source)
    else:
        report.no("bcc.usable", source, said if namesake else (lines[-1] if lines else "the import failed"))
    report.add("bcc.namesake", YES if namesake else "no", None, source, said if namesake else None)
