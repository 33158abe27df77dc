"""The bpf() and perf_event_open() system calls as Python functions: numbers, argument layouts, instructions.

Says what the kernel answered and never what that means; the probes decide. Closing what is opened is the caller's.
"""

import ctypes
import errno
import os
import platform
import re
import struct
import sys
import time
from typing import Any, List, Optional, Tuple

from inventory.collector.document import read_text

MAP_CREATE, MAP_UPDATE, PROG_LOAD, PROG_ATTACH, PROG_DETACH, INFO_BY_FD = 0, 2, 5, 8, 9, 15
RAW_TRACEPOINT_OPEN, BTF_LOAD, MAP_FREEZE, LOOKUP_BATCH, LINK_CREATE, ENABLE_STATS = 17, 18, 22, 24, 28, 32

# (machine, bits of this Python) → numbers of bpf and perf_event_open
_NUMBERS = {
    ("x86_64", 64): (321, 298),
    ("x86_64", 32): (357, 336),
    ("i686", 32): (357, 336),
    ("aarch64", 64): (280, 241),
    ("riscv64", 64): (280, 241),
    ("loongarch64", 64): (280, 241),
    ("ppc64le", 64): (361, 319),
    ("ppc64", 64): (361, 319),
    ("s390x", 64): (351, 331),
    ("armv7l", 32): (386, 364),
}
_LOG_SIZE = 65536
_PAUSES = (0.02, 0.1, 0.3, 0.0)  # seconds after each try


class NoNumbersError(Exception):
    """This machine's system call numbers are not known here."""


class Kernel:
    """The running kernel, asked through raw system calls. Every answer is (descriptor or result, errno, log)."""

    def __init__(self) -> None:
        key = (platform.machine(), struct.calcsize("P") * 8)
        if key not in _NUMBERS:
            raise NoNumbersError("no system call numbers for %s with %d bits" % key)
        self._bpf, self._perf = _NUMBERS[key]
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._log = ctypes.create_string_buffer(_LOG_SIZE)
        self._license = ctypes.create_string_buffer(b"GPL")
        # Below 5.11 what was closed gives its memory back only after a while; until then a low RLIMIT_MEMLOCK looks
        # like a denial. True makes an EPERM be asked about again.
        self.crowded = False
        # No made object was closed since an EPERM outlasted the pauses: another one is no matter of memory either.
        self._settled = False
        self.version = 0  # what kernels before 5.0 want a kprobe program to be made for

    def bpf(self, command: int, argument: Any) -> Tuple[int, int]:
        """Call bpf(); returns (result, errno)."""
        if not isinstance(argument, ctypes.Array):
            argument = ctypes.create_string_buffer(argument, len(argument))
        charged = self.crowded and command in (MAP_CREATE, PROG_LOAD)
        for pause in _PAUSES if charged and not self._settled else (0.0,):
            ctypes.set_errno(0)
            result = self._libc.syscall(
                ctypes.c_long(self._bpf), ctypes.c_int(command), argument, ctypes.c_uint(len(argument))
            )
            error = ctypes.get_errno() if result < 0 else 0
            if error != errno.EPERM:
                break
            time.sleep(pause)
        if charged:
            self._settled = error == errno.EPERM or (self._settled and result < 0)
        return result, error

    def load(
        self,
        kind: int,
        code: bytes,
        expected: int = 0,
        flags: int = 0,
        btf_id: int = 0,
        name: bytes = b"",
        log: bool = True,
    ) -> Tuple[int, int, str]:
        """Load a program; returns (descriptor, errno, verifier log). GPL, so that a licence is never the reason."""
        buffer = ctypes.create_string_buffer(code, len(code))
        self._log[0] = b"\0"
        argument = struct.pack(
            "=IIQQIIQII16sIIIIQIIQIII",
            kind,
            len(code) // 8,
            ctypes.addressof(buffer),
            ctypes.addressof(self._license),
            1 if log else 0,
            _LOG_SIZE if log else 0,
            ctypes.addressof(self._log) if log else 0,
            self.version,
            flags,
            name,
            0,  # prog_ifindex
            expected,
            0,
            0,
            0,
            0,
            0,
            0,
            0,  # prog_btf_fd, func_info and line_info
            btf_id,
            0,  # attach_prog_fd
        )
        result, error = self.bpf(PROG_LOAD, argument)
        return result, error, self._log.value.decode("ascii", "replace") if log else ""

    def create_map(
        self,
        kind: int,
        key: int,
        value: int,
        entries: int,
        flags: int = 0,
        btf: Tuple[int, int, int] = (0, 0, 0),
        inner: int = 0,
        vmlinux_type: int = 0,
        extra: int = 0,
    ) -> Tuple[int, int]:
        """Create a map; *btf* is (descriptor, key type, value type). Returns (descriptor, errno)."""
        argument = struct.pack(
            "=IIIIIII16sIIIIIQ",
            kind,
            key,
            value,
            entries,
            flags,
            inner,
            0,
            b"",
            0,
            btf[0],
            btf[1],
            btf[2],
            vmlinux_type,
            extra,
        )
        return self.bpf(MAP_CREATE, argument)

    def update(self, descriptor: int, key: bytes, value: bytes) -> Tuple[int, int]:
        """Set one element of a map; returns (result, errno)."""
        held = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
        return self.bpf(
            MAP_UPDATE, struct.pack("=IxxxxQQQ", descriptor, ctypes.addressof(held[0]), ctypes.addressof(held[1]), 0)
        )

    def link(self, program: int, target: int, kind: int, flags: int = 0) -> Tuple[int, int]:
        """Create a BPF link; returns (descriptor, errno)."""
        return self.bpf(LINK_CREATE, struct.pack("=IIIIQQ", program, target, kind, flags, 0, 0))

    def raw_tracepoint(self, program: int, name: bytes) -> Tuple[int, int]:
        """Attach to a raw tracepoint, without *name* to what the program is for. Returns (descriptor, errno)."""
        held = ctypes.create_string_buffer(name) if name else None
        return self.bpf(RAW_TRACEPOINT_OPEN, struct.pack("=QIxxxx", ctypes.addressof(held) if held else 0, program))

    def link_type(self, descriptor: int) -> Optional[int]:
        """Return the type number of a link, or None when *descriptor* is not one."""
        info = ctypes.create_string_buffer(64)
        argument = struct.pack("=IIQ", descriptor, len(info), ctypes.addressof(info))
        result, _ = self.bpf(INFO_BY_FD, argument)
        return struct.unpack_from("=I", info.raw)[0] if result == 0 else None

    def perf_event(
        self, kind: int, config: int, first: int = 0, second: int = 0, period: int = 0, cpu: int = -1
    ) -> Tuple[int, int]:
        """Open a perf event on this process; *first* and *second* are config1 and config2. Returns (fd, errno)."""
        disabled = 1 if sys.byteorder == "little" else 1 << 63  # the first of a row of bit fields
        argument = struct.pack("=IIQQQQQIIQQ", kind, 80, config, period, 0, 0, disabled, 0, 0, first, second)
        buffer = ctypes.create_string_buffer(argument, 80)
        ctypes.set_errno(0)
        result = self._libc.syscall(
            ctypes.c_long(self._perf), buffer, ctypes.c_int(0), ctypes.c_int(cpu), ctypes.c_int(-1), ctypes.c_ulong(8)
        )
        return result, ctypes.get_errno() if result < 0 else 0

    def ioctl(self, descriptor: int, request: int, value: int) -> Tuple[int, int]:
        """Call ioctl() with an integer; returns (result, errno)."""
        ctypes.set_errno(0)
        result = self._libc.ioctl(ctypes.c_int(descriptor), ctypes.c_ulong(request), ctypes.c_ulong(value))
        return result, ctypes.get_errno() if result < 0 else 0

    def new_network(self) -> Tuple[int, int]:
        """Move this process into a network namespace of its own; returns (result, errno)."""
        ctypes.set_errno(0)
        result = self._libc.unshare(0x40000000)
        return result, ctypes.get_errno() if result < 0 else 0


def close(descriptor: int) -> None:
    """Close a descriptor that was opened; one that a lying kernel never gave is nothing to close."""
    if descriptor >= 0:
        try:
            os.close(descriptor)
        except OSError:
            pass


def insn(code: int, destination: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    """Return one BPF instruction."""
    registers = destination | source << 4 if sys.byteorder == "little" else source | destination << 4
    return struct.pack("=BBhi", code, registers, offset, immediate)


def returns(value: int) -> bytes:
    """Return the two instructions of a program that returns *value*."""
    return insn(0xB7, immediate=value) + insn(0x95)


def calls(helper: int) -> bytes:
    """Return a program whose only work is to call *helper* with whatever the registers hold."""
    return insn(0x85, immediate=helper) + returns(0)


def kernel_versions() -> List[int]:
    """Return the candidates for LINUX_VERSION_CODE, since ``uname -r`` of distributions misleads, best first."""
    found = []
    for path, pattern in (
        ("/proc/version_signature", r"\S+ \S+ (\d+)\.(\d+)\.(\d+)"),  # Ubuntu: the third field
        ("/proc/version", r"Debian (\d+)\.(\d+)\.(\d+)"),
        ("/proc/sys/kernel/osrelease", r"(\d+)\.(\d+)(?:\.(\d+))?"),
    ):
        try:
            match = re.search(pattern, read_text(path, 4096))
        except OSError:
            continue
        if match:
            major, minor, patch = (int(part or 0) for part in match.groups())
            # A patch level above 255 does not fit and is clamped: 4.19.221 and later say 255.
            for level in (min(patch, 255), 255):
                code = major << 16 | minor << 8 | level
                if code not in found:
                    found.append(code)
    return found
