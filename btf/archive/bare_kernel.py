"""What lies in a kernel's memory without any table of contents: its banner, its build-id, its kconfig, its BTF.

Found by marks that are too long to be chance, and proven by parsing; where two could be meant, none is.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from btf.archive.unpack import MAX_UNPACKED, PackedMalformed, UnpacksTooLarge, packing_of, unpack
from btf.elf import Buffer
from btf.fault import printable
from btf.format.kinds import Composite, Kind
from btf.format.parse import BtfMalformed, parse_btf
from btf.format.types import Btf

_MAX_TRIES = 64  # places of a bare image that look packed
_MAX_BANNERS = 4096  # places that start like one; a kernel has a handful
_MAX_CONFIG = 4 << 20
_BTF_HEADER = struct.Struct("HBBIIIII")
# Packed streams inside a bare image, as s390x has them: only starts too long to be chance.
_STREAM = re.compile(
    rb"\x1f\x8b\x08[\0\x08]|\xfd7zXZ\0|\x28\xb5\x2f\xfd|\x02\x21\x4c\x18|BZh[1-9]1AY&SY|\x89LZO\0\r\n\x1a\n"
    rb"|\x5d\0\0.{2}\xff{8}",
    re.DOTALL,
)
# init/version.c: "Linux version RELEASE (BY) (COMPILER) VERSION\n", where `uname -v` is VERSION.
_BANNER = re.compile(rb"Linux version (\d[!-~]{0,127}) \([^\n\0]{0,1000}?\) (#\d[^\n\0]{0,127})")
# A GNU build-id note of 16, 20 or 32 bytes in either byte order, as ld writes it.
_BUILD_ID = re.compile(rb"\x04\0{3}([\x10\x14\x20])\0{3}\x03\0{3}GNU\0|\0{3}\x04\0{3}([\x10\x14\x20])\0{3}\x03GNU\0")


def packed_inside(data: Buffer) -> tuple[str, bytearray] | None:
    """Return the one kernel that is packed somewhere in a bare image."""
    left = 2 * MAX_UNPACKED
    for tried, match in enumerate(_STREAM.finditer(data)):
        if tried >= _MAX_TRIES or left <= 0:
            break
        stream = memoryview(data)[match.start() :]
        try:
            made = unpack(stream, at=match.start(), limit=min(left, MAX_UNPACKED))
        except (PackedMalformed, UnpacksTooLarge):
            left -= MAX_UNPACKED // _MAX_TRIES
            continue
        left -= len(made)
        if next(banners(made), None):
            return packing_of(stream) or "", made
    return None


def banners(data: Buffer, end: int | None = None) -> Iterator[re.Match[bytes]]:
    """Yield the kernel's own lines about itself before byte *end*: release and version are groups 1 and 2."""
    end = len(data) if end is None else min(end, len(data))
    at = data.find(b"Linux version ", 0, end)
    for _ in range(_MAX_BANNERS):
        if at < 0:
            return
        if found := _BANNER.match(data, at, end):
            yield found
        at = data.find(b"Linux version ", at + 1, end)


def names_in(data: Buffer, banner: str, end: int | None = None) -> tuple[str | None, str | None]:
    """Return (``uname -r``, ``uname -v``) by the boot header's text or the kernel's own; None when it has several."""
    if found := re.match(r"(\d\S{0,127}) \(.*\) (#.{1,127})", banner):
        return printable(found[1]), printable(found[2])
    said = {(m[1], m[2]) for m in banners(data, end)}
    if len(said) != 1:
        return None, None
    release, version = said.pop()
    return printable(release.decode("ascii", "replace")), printable(version.decode("ascii", "replace"))


def btf_in(data: Buffer) -> tuple[bytes | None, str]:
    """Return the only BTF of a kernel in bare memory, or None and why."""
    found: dict[bytes, int] = {}
    broken = ""
    for start, end in _btf_places(data):
        candidate = bytes(data[start:end])
        try:
            if _is_kernels(parse_btf(candidate)):
                found.setdefault(candidate, start)
        except BtfMalformed as error:
            broken = broken or f"; what looks like it at byte {start} is none: {error.message}"
    if len(found) == 1:
        return next(iter(found)), ""
    if found:
        places = ", ".join(map(str, found.values()))
        return None, f"{len(found)} different BTF in this image, at bytes {places}: none can be called the kernel's"
    return None, f"no BTF in this image: the kernel was built without{broken}"


def _btf_places(data: Buffer) -> Iterator[tuple[int, int]]:
    """Yield where a header fits: magic number, version, flags, sections inside, strings between zero bytes."""
    for order, magic in (("<", b"\x9f\xeb\x01\0"), (">", b"\xeb\x9f\x01\0")):
        at = data.find(magic)
        while at >= 0:
            if at + 24 <= len(data):
                _, _, _, header, types, types_size, strings, strings_size = struct.unpack_from(
                    f"{order}{_BTF_HEADER.format}", data, at
                )
                first, end = at + header + strings, at + header + strings + strings_size
                if (
                    header in (24, 32)
                    and types_size and strings_size and not (types | types_size) % 4
                    and types + types_size <= strings and end <= len(data)
                    and data[first] == 0 and data[end - 1] == 0
                ):  # fmt: skip
                    yield at, end
            at = data.find(magic, at + 1)


def _is_kernels(btf: Btf) -> bool:
    """Tell a kernel's BTF from that of a BPF object the kernel carries, which at most mentions what it reads."""
    tasks = [btf[id_] for id_ in btf.by_name("task_struct", Kind.STRUCT)]
    return bool(btf.by_name("list_head", Kind.STRUCT)) and any(
        isinstance(task, Composite) and len(task.members) > 50 for task in tasks
    )


def build_id_in(data: Buffer) -> str | None:
    """Return the build-id of bare memory: the only note that does not belong to an ELF file inside (a vDSO's)."""
    inside = list(_elf_inside(data))
    found = {
        bytes(data[note.end() : note.end() + (note[1] or note[2])[0]])
        for note in _BUILD_ID.finditer(data)
        if not any(start <= note.start() < end for start, end in inside)
    }
    return found.pop().hex() if len(found) == 1 else None


def _elf_inside(data: Buffer) -> Iterator[tuple[int, int]]:
    """Yield where ELF files lie in *data*, by their own tables of sections."""
    at = data.find(b"\x7fELF")
    while at >= 0:
        head = bytes(data[at : at + 64])
        if len(head) == 64 and head[4] in (1, 2) and head[5] in (1, 2):
            order, wide = "<" if head[5] == 1 else ">", head[4] == 2
            (table,) = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", head, 40 if wide else 32)
            entry, count = struct.unpack_from(f"{order}HH", head, 58 if wide else 46)
            if table < len(data) and entry in (40, 64):
                yield at, at + table + entry * count
        at = data.find(b"\x7fELF", at + 1)


def config_in(data: Buffer, end: int | None = None) -> str | None:
    """Return the kconfig that CONFIG_IKCONFIG puts between its marks (kernel/configs.c), or None."""
    at = data.find(b"IKCFG_ST\x1f\x8b\x08", 0, len(data) if end is None else end)
    if at < 0:
        return None
    try:
        return unpack(bytes(data[at + 8 : at + 8 + (1 << 20)]), limit=_MAX_CONFIG, at=at + 8).decode("utf-8", "replace")
    except (PackedMalformed, UnpacksTooLarge):
        return None
