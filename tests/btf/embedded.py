"""The BPF objects that lie whole inside other files: what a skeleton compiles into its program."""

from __future__ import annotations

import struct

_MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little-endian
_HEADER = struct.Struct("<16x2H I 3Q I 6H")
_BPF = 247
_SECTION = struct.Struct("<2I4Q2I2Q")
_NOBITS = 8


def embedded_objects(data: bytes) -> list[bytes]:
    """Return every BPF object inside *data*; each ends where its last section or its table of sections does."""
    found = []
    at = data.find(_MAGIC, 1)
    while at >= 0:
        if (end := _end(data, at)) is not None:
            found.append(data[at:end])
        at = data.find(_MAGIC, at + 1)
    return found


def _end(data: bytes, at: int) -> int | None:
    if at + _HEADER.size > len(data):
        return None
    _, machine, _, _, _, table, _, _, _, _, entry, count, _ = _HEADER.unpack_from(data, at)
    end = at + table + entry * count
    if machine != _BPF or entry != _SECTION.size or end > len(data):
        return None
    for _, kind, _, _, offset, size, *_ in _SECTION.iter_unpack(data[at + table : end]):
        if kind != _NOBITS:
            end = max(end, at + offset + size)
    return end if end <= len(data) else None
