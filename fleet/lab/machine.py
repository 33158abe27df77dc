"""Emulated machines: QEMU without hardware help, a kernel, an initramfs, serial ports. Needs no root.

``boot`` waits for one until it is off, dead or late; ``start`` leaves one running on its own, which ``standing`` finds
again by the folder its files are in and ``end`` ends. The first serial port carries the kernel's own words.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from btf.fault import EXIT_USAGE, Fault
from fleet.lab.kernel_store import Kernel

_MAX_REPORT = 64 << 20
_CONSOLE_TAIL = 4000
_POLL_S = 0.02


class EmulatorMissing(Fault):
    """This machine has no emulator for that architecture."""

    code = "COR-LAB-022"
    exit = EXIT_USAGE
    remedy = "Install Debian's qemu-system-x86 (`make setup` does), or qemu-system-arm for arm64."


@dataclass(frozen=True, slots=True)
class Emulator:
    """How one architecture is emulated: command, machine, processor; its serial ports by what the kernel calls them."""

    command: str
    machine: str
    cpu: str
    console: str
    report: str
    second: tuple[str, ...]  # the words that give the machine the second port; {path} is its file
    words: tuple[str, ...] = ()  # for the kernel


# uname's word for the architecture → its row
EMULATORS: Mapping[str, Emulator] = {
    # An emulated timer on a busy machine may come too late for the kernel's check of it, which ends in a panic.
    "x86_64": Emulator(
        "qemu-system-x86_64", "pc", "max", "ttyS0", "ttyS1", ("-serial", "file:{path}"), ("no_timer_check",)
    ),
    # Its board has one port; the second is a card. Signed pointers as the architecture has them take half the time.
    "aarch64": Emulator(
        "qemu-system-aarch64",
        "virt",
        "max,pauth-impdef=on",
        "ttyAMA0",
        "ttyS0",
        ("-chardev", "file,id=second,path={path}", "-device", "pci-serial,chardev=second"),
    ),
}


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one machine. ``ended``: ``off`` (it switched itself off), ``deadline`` or ``died`` (a panic)."""

    report: bytes
    console: str  # the last it said
    ended: str
    seconds: float
    cpu_s: float
    peak_kib: int


def command(
    kernel: Kernel, initramfs: Path, serials: Sequence[Path], *, parameters: Sequence[str] = (), memory_mib: int
) -> list[str]:
    """Return the command of a machine with one processor, no disk and no network; *serials* are the ports' files."""
    row = EMULATORS.get(kernel.arch)
    emulator = shutil.which(row.command) if row else None
    if row is None or emulator is None:
        raise EmulatorMissing(f"no emulator for {kernel.arch} is on this machine")
    words = [f"console={row.console}", "quiet", "panic=-1", "oops=panic", "random.trust_cpu=on", *row.words]
    words += parameters
    ports = [word.format(path=path) for path in serials[1:] for word in row.second]
    return [
        *(emulator, "-machine", row.machine, "-accel", "tcg", "-cpu", row.cpu, "-m", str(memory_mib), "-smp", "1"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-kernel", str(kernel.vmlinuz), "-initrd", str(initramfs), "-append", " ".join(words)),
        *("-serial", f"file:{serials[0]}", *ports),
    ]


def boot(
    kernel: Kernel,
    initramfs: Sequence[bytes],
    *,
    parameters: Sequence[str] = (),
    memory_mib: int = 384,
    deadline_s: float,
    stop: threading.Event | None = None,
) -> Run:
    """Boot *kernel* on the archives of *initramfs* and wait until it is off, dead or late, or *stop* is set."""
    with tempfile.TemporaryDirectory(prefix="corollout-guest-") as name:
        folder = Path(name)
        with (folder / "initramfs").open("wb") as file:
            file.writelines(initramfs)
        serials = [folder / "console", folder / "report"]
        argv = command(kernel, folder / "initramfs", serials, parameters=parameters, memory_mib=memory_mib)
        started = time.monotonic()
        process = subprocess.Popen(
            [*_dies_with_us(), *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(folder / "trouble").open("wb"),
        )
        try:
            in_time, cpu_s, peak_kib = _wait(process, started + deadline_s, stop or threading.Event())
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        report = _read(folder / "report")[-_MAX_REPORT:]
        console = _read(folder / "console")[-_CONSOLE_TAIL:].decode(errors="replace")
        whole = b'"event": "bye"' in report[-_CONSOLE_TAIL:]
        ended = "off" if whole and in_time else "died" if in_time else "deadline"
        trouble = _read(folder / "trouble").decode(errors="replace")
        return Run(report, console + trouble, ended, time.monotonic() - started, cpu_s, peak_kib)


def start(argv: Sequence[str], trouble: Path) -> int:
    """Start a machine that outlives this process; return its pid. What the emulator complains of goes to *trouble*."""
    with trouble.open("wb") as file:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file, start_new_session=True
        )
    # A process that has just become another has no command line for a moment: `standing` would miss it.
    while initramfs_of(process.pid) is None and process.poll() is None:
        time.sleep(_POLL_S)
    return process.pid


def standing(folder: Path) -> list[int]:
    """Return the pids of the machines whose initramfs lies below *folder*, whoever started them."""
    root = folder.absolute()
    pids = (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
    return sorted(pid for pid in pids if (path := initramfs_of(pid)) is not None and path.is_relative_to(root))


def initramfs_of(pid: int) -> Path | None:
    """Return the initramfs of the machine that is process *pid*, None when it is no machine or gone."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
        emulates = Path(words[0]).name in {row.command for row in EMULATORS.values()}
        return Path(words[words.index("-initrd") + 1]) if emulates else None
    except (OSError, ValueError, IndexError):
        return None


def end(folder: Path, *, grace_s: float = 5.0) -> None:
    """End every machine whose initramfs lies below *folder* and wait until they are gone; idempotent."""
    until = time.monotonic() + grace_s
    while pids := standing(folder):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if time.monotonic() < until else signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # started by another process, which reaps it
                os.waitpid(pid, os.WNOHANG)
        time.sleep(_POLL_S)


def _wait(process: subprocess.Popen[bytes], until: float, stop: threading.Event) -> tuple[bool, float, int]:
    """Wait for the emulator with what it used: (ended in time, seconds of CPU, peak KiB). Ends a late one."""
    in_time = True
    while True:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return in_time, used.ru_utime + used.ru_stime, used.ru_maxrss
        if in_time and (time.monotonic() > until or stop.is_set()):
            in_time = False
            process.kill()
        time.sleep(_POLL_S)


def _dies_with_us() -> list[str]:
    """The words before a command that let the kernel end it with the thread that waits for it, killed or not."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
