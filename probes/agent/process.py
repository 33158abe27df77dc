"""Processes of ours, known by pid and start time so that a reused pid is never mistaken, and never by name."""

import os
import resource
import signal
import sys
import time
from typing import Any, Dict, List, Mapping, Optional, Sequence


def identity(pid: int) -> Optional[Dict[str, int]]:
    """Return ``{"pid", "start"}`` of a living process, start in clock ticks since boot; None when it is gone."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            fields = file.read(4096).rpartition(b")")[2].split()
    except (OSError, ValueError):
        return None
    if len(fields) < 20 or fields[0] in (b"Z", b"X"):
        return None
    return {"pid": pid, "start": int(fields[19])}


def alive(known: Optional[Mapping[str, Any]]) -> bool:
    """Tell whether the process that was recorded as *known* is still that process."""
    if not known or not isinstance(known.get("pid"), int):
        return False
    return identity(known["pid"]) == {"pid": known["pid"], "start": known.get("start")}


def stopped(pid: int) -> bool:
    """Tell whether process *pid* is stopped: by SIGSTOP, or by somebody who traces it."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            return file.read(4096).rpartition(b")")[2].split()[:1] in ([b"T"], [b"t"])
    except OSError:
        return False


def limit_memory(pid: int, mib: Optional[int]) -> None:
    """Let process *pid*, just started, have at most *mib* MiB for itself; None leaves it as it is.

    Private writable memory counts: since Linux commit 84638335900f ("mm: rework virtual memory accounting") (v4.5);
    before, only the heap does.
    """
    if mib is not None:
        try:
            resource.prlimit(pid, resource.RLIMIT_DATA, (mib << 20, mib << 20))
        except (ProcessLookupError, PermissionError, ValueError):
            pass  # it has ended already, or the host has set it a harder limit


def stop(known: Optional[Mapping[str, Any]], grace_s: float) -> bool:
    """End a recorded process: SIGTERM, and SIGKILL after *grace_s* seconds. True when it is gone."""
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        if not alive(known) or known is None:
            return True
        try:
            os.kill(known["pid"], number)
        except ProcessLookupError:
            return True
        until = time.monotonic() + wait_s
        while alive(known) and time.monotonic() < until:
            time.sleep(0.01)
    return not alive(known)


def zipapp() -> Optional[str]:
    """Return the file this agent was started from; None where it was imported from a tree."""
    archive = getattr(getattr(sys.modules["__main__"], "__loader__", None), "archive", None)
    return os.path.abspath(archive) if archive else None


def own_command(*arguments: str) -> List[str]:
    """Return the command that starts this same agent again: from its zipapp, or from the tree it was imported from."""
    archive = zipapp()
    if archive:
        return [sys.executable, archive] + list(arguments)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    start = "import sys; sys.path.insert(0, %r); from probes.agent.main import run; run()" % root
    return [sys.executable, "-c", start] + list(arguments)


def detach(command: Sequence[str], log: str, keep: Sequence[int] = ()) -> None:
    """Start *command* in a session of its own with init as parent; only the descriptors in *keep* are passed on.

    It outlives the SSH session that asked for it. Its standard output and error go to *log*.
    """
    first = os.fork()
    if first:
        os.waitpid(first, 0)
        return
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        null = os.open(os.devnull, os.O_RDWR)
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError:  # a full disk must not stop a revert
            output = null
        for source, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        for descriptor in keep:
            os.set_inheritable(descriptor, True)
        _close_others(keep)
        os.chdir("/")
        os.umask(0o077)
        for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.execv(command[0], list(command))
    finally:
        os._exit(127)


def _close_others(keep: Sequence[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2 and descriptor not in keep:
            try:
                os.close(descriptor)
            except OSError:
                pass
