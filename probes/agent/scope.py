"""What a scope means on this host, and which kernel this is. Reads only."""

import os
import struct
from typing import Any, Dict, Mapping, Optional

from probes.agent.faults import BpffsAbsent, ScopeUnresolved

BPFFS = "/sys/fs/bpf"
_OWN_NETNS = "/proc/self/ns/net"


def resolve(scope: Mapping[str, Any]) -> Dict[str, Any]:
    """Return ``{"kind", "netns", "cgroup"}`` with inode numbers; 0 where the scope does not restrict."""
    resolved = {"kind": scope["kind"], "netns": 0, "cgroup": 0}
    if scope["kind"] == "host":
        return resolved
    path = scope.get("path") or (_OWN_NETNS if scope["kind"] == "netns" else None)
    if path is None:
        raise ScopeUnresolved("a cgroup scope needs a path")
    try:
        resolved[scope["kind"]] = os.stat(path).st_ino
    except OSError as error:
        raise ScopeUnresolved("%s: %s" % (path, error.strerror)) from None
    return resolved


def boot_id() -> str:
    """Return the kernel's random boot id, or empty text when it cannot be read."""
    return _read("/proc/sys/kernel/random/boot_id").decode("ascii", "replace").strip()


def kernel() -> Dict[str, Optional[str]]:
    """Return ``{"release", "build_id"}``; the build-id is None when /sys/kernel/notes does not give it."""
    return {"release": os.uname().release, "build_id": build_id(_read("/sys/kernel/notes"))}


def build_id(notes: bytes) -> Optional[str]:
    """Return the GNU build-id (owner ``GNU``, type 3) among ELF *notes* as hexadecimal, or None."""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("=III", notes, at)
        name = notes[at + 12 : at + 12 + name_size]
        start = at + 12 + (name_size + 3) // 4 * 4
        if name == b"GNU\0" and kind == 3 and 0 < size <= 64:
            return notes[start : start + size].hex()
        at = start + (size + 3) // 4 * 4
    return None


def pin_folder(program: str) -> str:
    """Return where a networking program is pinned: ``corollout/<program>`` on the mounted BPF file system."""
    found = None
    for line in _read("/proc/self/mounts").decode("utf-8", "replace").splitlines():
        fields = line.split(" ")
        if len(fields) > 2 and fields[2] == "bpf" and (found is None or fields[1] == BPFFS):
            found = fields[1]
    if found is None:
        raise BpffsAbsent("no BPF file system is mounted, so a networking program cannot be pinned")
    return os.path.join(found, "corollout", program)


def leave_bpffs(program: str) -> None:
    """Remove our folder on the BPF file system when no program of ours is pinned there any more."""
    try:
        os.rmdir(os.path.dirname(pin_folder(program)))
    except (OSError, BpffsAbsent):
        pass  # another program's pins are in it, or it was never made


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(1024 * 1024)
    except OSError:
        return b""
