"""Types in, bytes of BTF out: the reverse of :mod:`btf.parse`, for BTF we make ourselves."""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable

from btf.codec import encode
from btf.kinds import BtfType

_HEADER = 24


def encode_btf(types: Iterable[BtfType], *, big_endian: bool = False) -> bytes:
    """Return BTF of *types*, numbered from 1 in this order whatever their ``id``; equal strings are shared."""
    strings = bytearray(b"\0")
    offsets = {"": 0}

    def offset_of(text: str) -> int:
        if text not in offsets:
            offsets[text] = len(strings)
            strings.extend(text.encode("utf-8", "surrogateescape") + b"\0")
        return offsets[text]

    words = array("I")
    for type_ in types:
        words.extend(encode(type_, offset_of))
    if big_endian == (sys.byteorder == "little"):
        words.byteswap()
    body = words.tobytes()
    order = ">" if big_endian else "<"
    header = struct.pack(f"{order}HBBIIIII", 0xEB9F, 1, 0, _HEADER, 0, len(body), len(body), len(strings))
    return header + body + bytes(strings)
