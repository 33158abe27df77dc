"""The kernel that runs here, as it names itself; a kernel that is installed and is another one boots next."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from btf.archive.kernel_image import gnu_build_id

RUNNING_BTF = Path("/sys/kernel/btf/vmlinux")
_NOTES = Path("/sys/kernel/notes")


@dataclass(frozen=True, slots=True)
class Running:
    """Name of the running kernel; ``build_id`` is None when it does not show its notes."""

    release: str
    version: str
    arch: str
    build_id: str | None

    @property
    def kernel_id(self) -> str | None:
        """The id that a host's facts would have."""
        return f"{self.build_id}/{self.arch}" if self.build_id else None


def running_kernel() -> Running:
    """Return the name of the running kernel."""
    try:
        notes = _NOTES.read_bytes()
    except OSError:
        notes = b""
    uname = platform.uname()
    return Running(uname.release, uname.version, uname.machine, gnu_build_id(notes, big_endian=sys.byteorder == "big"))
