"""One emulated machine: QEMU without hardware help, a kernel, an initramfs, two serial ports, a deadline.

No root, no disk, no network. The first port carries the kernel's own words, the second the guest's report.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from btf.fault import EXIT_USAGE, Fault
from fleet.lab.kernels import Kernel

_MAX_REPORT = 64 << 20
_CONSOLE_TAIL = 4000
_POLL_S = 0.02


class EmulatorMissing(Fault):
    """This machine has no emulator for that architecture."""

    code = "COR-LAB-022"
    exit = EXIT_USAGE
    remedy = "Install Debian's qemu-system-x86 (`make setup` does)."


@dataclass(frozen=True, slots=True)
class Emulator:
    """How one architecture is emulated: command, machine, names of the first serial port."""

    command: str
    machine: str
    console: str


# uname's word for the architecture → its row
EMULATORS: Mapping[str, Emulator] = {"x86_64": Emulator("qemu-system-x86_64", "pc", "ttyS0")}


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one machine. ``ended``: ``off`` (it switched itself off), ``deadline`` or ``died`` (a panic)."""

    report: bytes
    console: str  # the last it said
    ended: str
    seconds: float
    cpu_s: float
    peak_kib: int


def boot(
    kernel: Kernel,
    initramfs: Sequence[bytes],
    *,
    parameters: Sequence[str] = (),
    memory_mib: int = 384,
    deadline_s: float,
) -> Run:
    """Boot *kernel* on the archives of *initramfs* and wait until it is off, dead or late."""
    row = EMULATORS.get(kernel.arch)
    command = shutil.which(row.command) if row else None
    if row is None or command is None:
        raise EmulatorMissing(f"no emulator for {kernel.arch} is on this machine")
    with tempfile.TemporaryDirectory(prefix="corollout-guest-") as name:
        folder = Path(name)
        with (folder / "initramfs").open("wb") as file:
            file.writelines(initramfs)
        words = [f"console={row.console}", "quiet", "panic=-1", "oops=panic", "random.trust_cpu=on", *parameters]
        started = time.monotonic()
        process = subprocess.Popen(
            [
                *(command, "-machine", row.machine, "-accel", "tcg", "-cpu", "max", "-m", str(memory_mib), "-smp", "1"),
                *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
                *("-kernel", str(kernel.vmlinuz), "-initrd", str(folder / "initramfs"), "-append", " ".join(words)),
                *("-serial", f"file:{folder / 'console'}", "-serial", f"file:{folder / 'report'}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(folder / "trouble").open("wb"),
        )
        try:
            in_time, cpu_s, peak_kib = _wait(process, started + deadline_s)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        report = _read(folder / "report")[-_MAX_REPORT:]
        console = _read(folder / "console")[-_CONSOLE_TAIL:].decode(errors="replace")
        whole = b'"event": "bye"' in report[-_CONSOLE_TAIL:]
        ended = "off" if whole and in_time else "died" if in_time else "deadline"
        trouble = _read(folder / "trouble").decode(errors="replace")
        return Run(report, console + trouble, ended, time.monotonic() - started, cpu_s, peak_kib)


def _wait(process: subprocess.Popen[bytes], until: float) -> tuple[bool, float, int]:
    """Wait for the emulator with what it used: (ended in time, seconds of CPU, peak KiB). Ends a late one."""
    in_time = True
    while True:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return in_time, used.ru_utime + used.ru_stime, used.ru_maxrss
        if time.monotonic() > until and in_time:
            in_time = False
            process.kill()
        time.sleep(_POLL_S)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
