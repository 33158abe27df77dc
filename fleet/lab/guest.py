"""The inside of a proof guest: makes the host its profile describes, asks for facts, tries each object, reports.

Runs as PID 1 on the kernel under test, standard library only; the rest never imports it. It reads ``/job/job.json``
and writes JSON lines to standard output, which is the guest's second serial port:

    {"event": "boot", …}  {"event": "facts", "document": …}  {"event": "task", "task": n, …} for each  {"event": "bye"}
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

Document = dict[str, Any]

# The capabilities that profiles name, by number (linux/capability.h), and how many there are.
_CAPS = {"net_admin": 12, "sys_admin": 21, "sys_resource": 24, "perfmon": 38, "bpf": 39}
_ALL_CAPS = set(range(41))
_MOUNTS = {
    "bpffs": ("bpf", "/sys/fs/bpf", ""),
    "debugfs": ("debugfs", "/sys/kernel/debug", ""),
    "securityfs": ("securityfs", "/sys/kernel/security", ""),
    "tracefs": ("tracefs", "/sys/kernel/tracing", ""),
}
_V1 = ("cpu", "memory", "pids", "net_cls")
_PR_CAPBSET_DROP, _PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 24, 8, 47, 2
_CAPABILITY_VERSION_3 = 0x20080522
_FACTS_S = 120.0
_READY_S = 60.0
_KEPT_LINES = 400
_LIBC = ctypes.CDLL(None, use_errno=True)


def say(event: str, **fields: Any) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(dict(fields, event=event)) + "\n")
    sys.stdout.flush()


def mount(kind: str, place: str, options: str = "") -> bool:
    """Mount a file system; whether that went well: a kernel without it has no place for it in /sys either."""
    try:
        os.makedirs(place, exist_ok=True)
    except OSError:
        return False
    command = ["mount", "-t", kind] + (["-o", options] if options else []) + ["none", place]
    return subprocess.call(command, stderr=subprocess.DEVNULL) == 0


def prepare(profile: Document, modules: Sequence[str]) -> list[str]:
    """Make the host the profile describes; return what could not be done."""
    failed = []
    for kind, place in (("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run"), ("tmpfs", "/tmp")):
        mount(kind, place)
    os.chmod("/tmp", 0o1777)
    for path in modules:
        done = subprocess.run(["insmod", path], capture_output=True)
        if done.returncode:
            failed.append(f"insmod {path}: {done.stderr.decode(errors='replace').strip()}")
    root = "/sys/fs/cgroup"
    wanted = [_MOUNTS[name] for name in profile["mounts"]]
    if profile["cgroup"] == "v2":
        wanted.append(("cgroup2", root, ""))
    else:
        wanted += [("tmpfs", root, ""), *(("cgroup", f"{root}/{controller}", controller) for controller in _V1)]
    if profile["cgroup"] == "hybrid":
        wanted.append(("cgroup2", f"{root}/unified", ""))
    if profile["hide_btf"] and os.path.isdir("/sys/kernel/btf"):
        wanted.append(("tmpfs", "/sys/kernel/btf", "size=4k"))
    failed += [f"mount {kind} {place} {options}" for kind, place, options in wanted if not mount(kind, place, options)]
    for name, value in profile["sysctls"].items():
        try:
            with open("/proc/sys/" + name.replace(".", "/"), "w") as file:
                file.write(str(value))
        except OSError as error:
            failed.append(f"sysctl {name}: {error}")
    subprocess.call(["ip", "link", "set", "lo", "up"])
    return failed


def held_caps(words: Sequence[str] | None) -> set[int]:
    """The numbers of the capabilities a profile leaves."""
    if words is None:
        return _ALL_CAPS
    lacks = {_CAPS[word[1:]] for word in words if word.startswith("-")}
    return _ALL_CAPS - lacks if lacks else {_CAPS[word] for word in words}


def become(profile: Document) -> Callable[[], None]:
    """Return what a child does before it starts: be the profile's user, with its capabilities and its limit."""
    caps = held_caps(profile["caps"])

    def prctl(*arguments: int) -> None:
        if _LIBC.prctl(*(ctypes.c_ulong(a) for a in (arguments + (0,) * (5 - len(arguments))))):
            raise OSError(ctypes.get_errno(), f"prctl{arguments!r}")

    def before() -> None:
        os.setsid()
        if profile["memlock_kib"] is not None:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (profile["memlock_kib"] << 10,) * 2)
        if profile["caps"] is None and not profile["user"]:
            return
        for number in _ALL_CAPS - caps:
            prctl(_PR_CAPBSET_DROP, number)
        if profile["user"]:
            prctl(_PR_SET_KEEPCAPS, 1)
            os.setgroups([])
            os.setresgid(*(profile["user"],) * 3)
            os.setresuid(*(profile["user"],) * 3)
        low, high = (sum(1 << (n - base) for n in caps if base <= n < base + 32) for base in (0, 32))
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        data = (ctypes.c_uint32 * 6)(low, low, low, high, high, high)  # effective, permitted, inheritable; twice
        if _LIBC.capset(header, data):
            raise OSError(ctypes.get_errno(), "capset")
        if profile["user"]:
            for number in caps:
                prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)

    return before


def collect(before: Callable[[], None]) -> Document:
    """The collector's document, as a host's would be, or why there is none."""
    with open("/collector.py", "rb") as source:
        try:
            done = subprocess.run(
                ["/usr/bin/python3", "-"], stdin=source, capture_output=True, timeout=_FACTS_S, preexec_fn=before
            )
            return {"document": json.loads(done.stdout), "said": done.stderr.decode(errors="replace")[-1000:]}
        except (ValueError, subprocess.TimeoutExpired) as error:
            return {"document": None, "said": f"{type(error).__name__}: {error}"}


class Child:
    """The runner, line by line: what it says is read by a thread of its own and waited for with a deadline."""

    def __init__(self, command: list[str], before: Callable[[], None]) -> None:
        self.events: list[Document] = []
        self.noise: list[str] = []
        self.ended = False
        self.came = threading.Condition()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=before
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            with self.came:
                if isinstance(event, dict):
                    self.events.append(event)
                elif len(self.noise) < 20:
                    self.noise.append(line.decode(errors="replace").strip()[:300])
                self.came.notify_all()
        with self.came:
            self.ended = True
            self.came.notify_all()

    def wait_for(self, names: Sequence[str], seconds: float) -> Document | None:
        """The first event of these names, or None when the time is up or the child ended without one."""
        with self.came:
            self.came.wait_for(lambda: self.ended or self._first(names), seconds)
            return self._first(names)

    def _first(self, names: Sequence[str]) -> Document | None:
        return next((e for e in self.events if e.get("event") in names), None)

    def ask(self, line: str) -> None:
        """Send one command; a child that has gone hears nothing."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            pass

    def end(self, seconds: float) -> int:
        """Let it end, else end it: its exit status, negative for a signal."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
        except OSError:
            pass
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.reader.join(5)
        return self.process.returncode


def exercise() -> None:
    """Do a little of everything that programs watch: processes, files, TCP and UDP over both families, a signal."""
    for _ in range(3):
        subprocess.call(["true"])
    path = "/tmp/exercise"
    for _ in range(5):
        with open(path, "w") as file:
            file.write("x" * 5000)
        with open(path) as file:
            file.read()
        os.rename(path, path + ".2")
        os.unlink(path + ".2")
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            converse(family, address)
        except OSError as error:
            sys.stderr.write(f"exercise: {error}\n")
    os.kill(os.getpid(), 0)
    os.getppid()
    time.sleep(0.05)


def converse(family: int, address: str) -> None:
    """One TCP conversation, one refused connection, one datagram."""
    with socket.socket(family, socket.SOCK_STREAM) as listener, socket.socket(family, socket.SOCK_STREAM) as client:
        listener.bind((address, 0))
        listener.listen(1)
        client.connect(listener.getsockname()[:2])
        server, _ = listener.accept()
        with server:
            client.sendall(b"q" * 1234)
            server.recv(4096)
            server.sendall(b"a" * 5000)
            client.recv(8192)
        client.recv(1)
        port = listener.getsockname()[1]
    with socket.socket(family, socket.SOCK_STREAM) as refused:
        refused.connect_ex((address, port))
    with socket.socket(family, socket.SOCK_DGRAM) as one, socket.socket(family, socket.SOCK_DGRAM) as other:
        one.bind((address, 0))
        other.sendto(b"datagram", one.getsockname()[:2])
        one.settimeout(1)
        one.recv(100)


def attempt(task: Document, before: Callable[[], None]) -> Document:
    """Load one object, attach it, let it see something, and say how each went."""
    started = time.monotonic()
    result: Document = {"task": task["id"]}
    common = [task["object"]] + (["--btf", task["btf"]] if task["btf"] else [])
    for name in task["optional"]:
        common += ["--optional", name]
    verify = Child(["bpfrun", "verify", *common], before)
    answer = verify.wait_for(("verified", "error"), task["deadline_s"])
    result["verify"] = {"status": verify.end(5), "said": answer, "noise": verify.noise}
    if answer is not None and answer.get("event") == "verified":
        result["hold"] = hold(task, common, before)
    result["took_s"] = round(time.monotonic() - started, 3)
    return result


def hold(task: Document, common: list[str], before: Callable[[], None]) -> Document:
    """Attach, exercise, read back, detach."""
    command = ["bpfrun", "hold"] + common + (["--record", task["record"]] if task["record"] else [])
    for text in task["set"]:
        command += ["--set", text]
    for text in task["attach"]:
        command += ["--attach", text]
    child = Child(command, before)
    ready = child.wait_for(("ready", "error"), _READY_S)
    sample = None
    if ready is not None and ready.get("event") == "ready":
        if task["stats"]:
            child.ask("stats on")
            child.wait_for(("done", "error"), 10)
        exercise()
        time.sleep(0.3)
        child.ask("sample")
        sample = child.wait_for(("sample",), 30)
        child.ask("quit")
    status = child.end(20)
    records = [e for e in child.events if e.get("event") == "record"]
    kept = [e for e in child.events if e.get("event") not in ("record", "ready", "sample")][:_KEPT_LINES]
    return {
        "status": status,
        "said": ready,
        "sample": sample,
        "records": len(records),
        "first_record": records[0].get("data") if records else None,
        "events": kept,
        "noise": child.noise,
    }


def main() -> None:
    """Do the job, then switch the machine off."""
    with open("/job/job.json") as file:
        job = json.load(file)
    profile = job["profile"]
    failed = prepare(profile, job["modules"])
    os.environ["PATH"] = "/bin:/usr/bin"
    with open("/proc/uptime") as file:
        uptime = float(file.read().split()[0])
    say("boot", uptime_s=uptime, failed=failed, release=os.uname().release, python=shutil.which("python3"))
    before = become(profile)
    if job["facts"]:
        say("facts", **collect(before))
    for task in job["tasks"]:
        say("begin", task=task["id"])
        say("task", **attempt(task, before))
    say("bye")


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        import traceback

        say("trouble", message=f"{type(error).__name__}: {error}", trace=traceback.format_exc()[-2000:])
    os.sync()
    with contextlib.suppress(termios.error):
        termios.tcdrain(1)  # the machine is off before a slow port has sent what waits in it
    subprocess.call(["poweroff", "-f"])
