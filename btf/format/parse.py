"""Bytes of BTF in, a checked :class:`btf.format.types.Btf` out; input is hostile until then.

The header, the sections and the length of every record are checked here; what a record says is checked when it is
first looked at, by the same fault.
"""

from __future__ import annotations

import struct
import sys
from array import array

from btf.format.index import BtfMalformed, locate
from btf.format.kinds import RecordSize
from btf.format.types import Btf

__all__ = ["MAX_BTF", "BtfMalformed", "parse_btf"]

MAX_BTF = 64 * 1024 * 1024  # bytes; the largest of a kernel seen, never deduplicated, has 27
MAX_TYPES = 0xFFFFF  # BTF_MAX_TYPE of include/uapi/linux/btf.h
_MAGIC = 0xEB9F
_HEADER = struct.Struct("HBBIIIII")  # magic, version, flags, hdr_len, type_off, type_len, str_off, str_len
_HEADER_LAYOUT = 32  # with layout_off and layout_len behind; since Linux v7.1
_LAYOUT_ROW = struct.Struct("BBH")  # bytes after the common words, bytes per element, flags


def parse_btf(data: bytes, *, base: Btf | None = None, pointer_size: int | None = None) -> Btf:
    """Parse BTF of either byte order; *base* is the kernel's for a module's (split) BTF. Raise BtfMalformed.

    *pointer_size* in bytes, where it is known; otherwise the types tell.
    """
    if len(data) > MAX_BTF:
        raise BtfMalformed(f"{len(data)} bytes are more than any BTF has")
    if len(data) < _HEADER.size:
        raise BtfMalformed(f"{len(data)} bytes are shorter than a header")
    order = next((o for o in "<>" if struct.unpack_from(f"{o}H", data)[0] == _MAGIC), None)
    if order is None:
        raise BtfMalformed(
            f"byte 0 is not the magic number 0xeb9f but 0x{data[:2].hex()}",
            remedy="It must be /sys/kernel/btf/vmlinux or a .btf file; `corollout check --image` takes a kernel image.",
        )
    _, version, _, header, type_off, type_len, str_off, str_len = struct.unpack_from(f"{order}{_HEADER.format}", data)
    if version != 1:
        raise BtfMalformed(f"version {version} at byte 2 is not 1")
    if header < _HEADER.size or header > len(data):
        raise BtfMalformed(f"header length {header} at byte 4 is not between 24 and the file's {len(data)} bytes")

    # Offsets count from the header's end, whatever its length.
    types = _section(data, "types", header + type_off, type_len)
    strings = bytes(_section(data, "strings", header + str_off, str_len))
    if type_off % 4 or type_len % 4:
        raise BtfMalformed(f"the types at byte {header + type_off} are not whole words")
    # A module that needs no name of its own has no strings at all.
    if (strings or base is None) and (strings[-1:] != b"\0" or (base is None and strings[:1] != b"\0")):
        raise BtfMalformed(f"the strings at byte {header + str_off} do not start and end with a zero byte")
    words = array("I")
    words.frombytes(types)
    if (order == ">") == (sys.byteorder == "little"):
        words.byteswap()
    layout = _layout(data, order, header)
    offsets = locate(words, header + type_off, layout)
    if len(offsets) > MAX_TYPES:
        where = header + type_off + 4 * offsets[MAX_TYPES]
        raise BtfMalformed(f"more types than a kernel takes: number {MAX_TYPES + 1} at byte {where}")
    return Btf(
        words, offsets, strings, big_endian=order == ">", base=base, first_byte=header + type_off,
        pointer_size=pointer_size,
    )  # fmt: skip


def _section(data: bytes, name: str, start: int, length: int) -> memoryview:
    """Return a part of *data*, which is large: not a copy."""
    if start + length > len(data):
        raise BtfMalformed(f"cut off: the {name} end at byte {start + length}, the file at {len(data)}")
    return memoryview(data)[start : start + length]


def _layout(data: bytes, order: str, header: int) -> dict[int, RecordSize]:
    """Return the record sizes of the optional layout section, by kind."""
    if header < _HEADER_LAYOUT:
        return {}
    offset, length = struct.unpack_from(f"{order}II", data, _HEADER.size)
    rows = _section(data, "layout", header + offset, length)
    sizes = {}
    for kind, (fixed, each, _) in enumerate(
        struct.iter_unpack(f"{order}{_LAYOUT_ROW.format}", rows[: length - length % _LAYOUT_ROW.size])
    ):
        if kind and not (fixed % 4 or each % 4):
            sizes[kind] = RecordSize(fixed // 4, each // 4)
    return sizes
