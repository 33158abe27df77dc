"""What a program costs on this host: the kernel's share by calibrated attach cost, user space from /proc.

    kernel = events per second x (attach cost of the hook + max(0, reported - floor))

because ``run_time_ns`` leaves out the trampoline: an empty uprobe reports 35 ns and takes 15,000. Statistics are
switched on for a part of each interval only, since they cost too. Reads and asks; stops nothing.
"""

import os
import time
from typing import Any, Dict, List, Mapping, Optional, Sequence

MIN_EVENTS = 500  # a mean over fewer runs is mostly cold caches; what such runs cost still counts in percent
DUTY_S = 1.0  # statistics are on for at most this long per interval, and at most half of it

# Used where this host was not calibrated: measured medians of a virtual machine, rounded up. Nanoseconds per event.
DEFAULT_FLOOR_NS = 30.0
DEFAULT_ATTACH_NS: Mapping[str, float] = {
    "tracepoint": 40.0,
    "raw_tracepoint": 25.0,
    "tp_btf": 30.0,
    "fentry": 40.0,
    "kprobe": 150.0,
    "uprobe": 15000.0,
    "perf_event": 150.0,
    "tc": 30.0,
    "xdp": 30.0,
    "cgroup_skb": 30.0,
}

# Program type as the runner names it → hook kind as calibration names it.
HOOKS: Mapping[str, str] = {
    "tracing": "tp_btf",
    "sched_cls": "tc",
    "sched_act": "tc",
    "raw_tracepoint_writable": "raw_tracepoint",
}


_TICK_NS = 10**9 // os.sysconf("SC_CLK_TCK")


def process_cpu_ns(pid: int) -> Optional[int]:
    """Return the CPU time of all threads of *pid*, and of the commands it ran, in nanoseconds; None when it is gone."""
    try:
        own = int(time.clock_gettime((~pid << 3) | 2) * 1e9)  # the kernel's CPU clock of another process
    except OSError:
        return None
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            fields = file.read(4096).rpartition(b")")[2].split()
        return own + (int(fields[13]) + int(fields[14])) * _TICK_NS  # cutime, cstime: children that it waited for
    except (OSError, ValueError, IndexError):
        return own


def resident_bytes(pid: int) -> int:
    """Return the memory that only *pid* has: anonymous pages (Linux 4.5), else all resident ones; 0 when gone."""
    try:
        with open("/proc/%d/status" % pid, "rb") as file:
            lines = dict(line.split(b":", 1) for line in file.read(65536).splitlines() if b":" in line)
        words = lines.get(b"RssAnon", lines.get(b"VmRSS", b"0 kB")).split()
        return int(words[0]) * 1024
    except (OSError, ValueError, IndexError):
        return 0


def kernel_cost(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    kinds: Mapping[Any, str],
    calibration: Mapping[str, Any],
) -> Optional[Dict[str, float]]:
    """Return ``{"percent", "ns_per_event", "events", "window_s"}`` between two runner samples; None when unmeasured.

    *kinds* maps program ids to hook kinds. Percent is of one core; ns_per_event is the mean over all programs.
    """
    window_ns = after.get("at_ns", 0) - before.get("at_ns", 0)
    if window_ns <= 0:
        return None
    floor = calibration.get("floor_ns", DEFAULT_FLOOR_NS)
    attach: Dict[str, float] = dict(DEFAULT_ATTACH_NS)
    attach.update(calibration.get("attach_ns", {}))
    earlier = {p.get("id"): p for p in before.get("programs", [])}
    events, cost_ns = 0, 0.0
    for program in after.get("programs", []):
        first = earlier.get(program.get("id"), {})
        runs = program.get("run_cnt", 0) - first.get("run_cnt", 0)
        if runs <= 0:
            continue
        reported = (program.get("run_time_ns", 0) - first.get("run_time_ns", 0)) / runs
        kind = kinds.get(program.get("id"), "tracepoint")
        events += runs
        cost_ns += runs * (attach.get(kind, max(DEFAULT_ATTACH_NS["kprobe"], floor)) + max(0.0, reported - floor))
    return {
        "percent": 100.0 * cost_ns / window_ns,
        "ns_per_event": cost_ns / events if events else 0.0,
        "events": events,
        "window_s": window_ns / 1e9,
    }


class Meter:
    """Turns a child's samples and our own CPU time into one sample per interval.

    Times are seconds of a monotonic clock that the caller reads. ``orders`` says what to write to the child, ``heard``
    takes its answers, ``sample`` returns the finished sample once per interval.
    """

    def __init__(
        self,
        pids: Sequence[int],
        kinds: Mapping[Any, str],
        calibration: Mapping[str, Any],
        interval_s: float,
        *,
        metered: bool,
        dumps: Sequence[str],
        now: float,
    ) -> None:
        self._pids = list(pids)
        self._kinds = kinds
        self._calibration = calibration
        self._interval_s = interval_s
        self._duty_s = min(DUTY_S, interval_s / 2)
        self._metered = metered
        self._dumps = list(dumps)
        self.unanswered = 0
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._since = now
        self._cpu = self._cpu_ns()
        self._answers: List[Mapping[str, Any]] = []
        self._asked = 0
        self._counted = True

    def _cpu_ns(self) -> Dict[int, int]:
        return {pid: ns for pid in self._pids for ns in [process_cpu_ns(pid)] if ns is not None}

    def due(self) -> float:
        """Return when this wants to be looked at next."""
        return self._since + self._interval_s - (self._duty_s if self._metered and not self._asked else 0)

    def orders(self, now: float) -> List[str]:
        """Return the lines to write to the child now."""
        if not self._metered:
            return []
        if not self._asked and now >= self._since + self._interval_s - self._duty_s:
            self._asked = 1
            return ["stats on", "sample"]
        if self._asked == 1 and now >= self._since + self._interval_s:
            self._asked = 2
            return ["sample", "stats off"] + ["dump " + name for name in self._dumps]
        return []

    def heard(self, event: Mapping[str, Any]) -> None:
        """Take one ``sample`` event of the child."""
        self._answers.append(event)

    def uncounted(self) -> None:
        """Take note that statistics could not be switched on: this interval's counts mean nothing."""
        self._counted = False

    def sample(self, now: float, wall: float, lost: int, records: int) -> Optional[Dict[str, Any]]:
        """Return the sample of the interval that ends now, else None; *lost* and *records* count the interval's."""
        ended = now >= self._since + self._interval_s
        answered = not self._metered or len(self._answers) >= 2
        if not ended or not (answered or now >= self._since + 2 * self._interval_s):
            return None
        self.unanswered = 0 if answered else self.unanswered + 1
        window_s = now - self._since
        cpu = self._cpu_ns()
        user_ns = sum(ns - self._cpu.get(pid, ns) for pid, ns in cpu.items())
        user = 100.0 * user_ns / (window_s * 1e9)
        last = self._answers[-1] if self._answers else {}
        kernel = None
        if len(self._answers) >= 2 and self._counted:
            kernel = kernel_cost(self._answers[0], last, self._kinds, self._calibration)
        maps = sum(int(m.get("memory_bytes") or 0) for m in last.get("maps", []))
        seen = lost + records
        percent = kernel["percent"] if kernel else None
        document = {
            "at": wall,
            "window_s": round(window_s, 3),
            "cpu_percent": round(user + (percent or 0.0), 4),
            "kernel_percent": None if percent is None else round(percent, 4),
            "user_percent": round(user, 4),
            "ns_per_event": round(kernel["ns_per_event"], 1) if kernel and kernel["events"] >= MIN_EVENTS else None,
            "events": round(kernel["events"] * window_s / kernel["window_s"]) if kernel else records,
            "memory_bytes": maps + sum(resident_bytes(pid) for pid in self._pids),
            "lost": lost,
            "records": records,
            "loss_percent": round(100.0 * lost / seen, 4) if seen else 0.0,
            "calibrated": None if kernel is None else bool(self._calibration.get("attach_ns")),
        }
        self._begin(now)
        return document


def hook_kinds(programs: Sequence[Mapping[str, Any]]) -> Dict[Any, str]:
    """Return program id → hook kind for the programs of a ``ready`` event."""
    return {p.get("id"): HOOKS.get(str(p.get("type")), str(p.get("type"))) for p in programs}
