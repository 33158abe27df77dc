"""Types in, bytes of BTF out: the reverse of :mod:`btf.format.parse`, for BTF we make ourselves."""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable

from btf.format.codec import encode
from btf.format.kinds import RECORDS, BtfType, RecordSize
from btf.format.types import Btf


def encode_btf(
    types: Iterable[BtfType], *, big_endian: bool = False, base: Btf | None = None, layout: bool = False
) -> bytes:
    """Return BTF of *types*, numbered in this order whatever their ``id``; equal strings are shared.

    Numbers start at 1, or where *base* ends. With *layout* the header has 32 bytes and every kind's record size is
    told, so that readers which do not know a kind can skip it. Since Linux v7.1.
    """
    first = base.string_end if base else 0
    strings = bytearray() if base else bytearray(b"\0")
    offsets = {"": 0}

    def offset_of(text: str) -> int:
        if text not in offsets:
            offsets[text] = first + len(strings)
            strings.extend(text.encode("utf-8", "surrogateescape") + b"\0")
        return offsets[text]

    words = array("I")
    for type_ in types:
        words.extend(encode(type_, offset_of))
    if big_endian == (sys.byteorder == "little"):
        words.byteswap()
    body, order = words.tobytes(), ">" if big_endian else "<"
    text = bytes(strings) or b"\0"
    sections: tuple[int, ...] = (0, len(body), len(body), len(text))
    rows = b""
    if layout:
        text += bytes(-len(text) % 4)
        sizes = [RECORDS.get(kind, RecordSize(0, 0)) for kind in range(max(RECORDS) + 1)]
        rows = b"".join(struct.pack(f"{order}BBH", 4 * size.fixed, 4 * size.each, 0) for size in sizes)
        sections = (0, len(body), len(body), len(text), len(body) + len(text), len(rows))
    header = struct.pack(f"{order}HBBI{len(sections)}I", 0xEB9F, 1, 0, 8 + 4 * len(sections), *sections)
    return header + body + text + rows
