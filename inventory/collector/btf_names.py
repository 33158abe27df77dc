"""Find the ids of a few named types in a kernel's BTF. A walk over record sizes; understands no type."""

import struct
from typing import Dict, Iterable, Tuple

# Bytes after the 12 of the common part: fixed, and for each of the record's members. Unknown kinds end the walk.
_FIXED = {1: 4, 3: 12, 14: 4, 17: 4}
_EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
_LAST_KIND = 19
TYPEDEF, FUNC = 8, 12


def find_ids(data: bytes, wanted: Iterable[Tuple[str, int]]) -> Dict[str, int]:
    """Return name → id for each (name, kind) of *wanted* that *data*, the bytes of a vmlinux BTF, holds."""
    if data[:2] not in (b"\x9f\xeb", b"\xeb\x9f") or len(data) < 24:
        return {}
    order = "<" if data[:2] == b"\x9f\xeb" else ">"
    header, type_at, type_size, string_at, string_size = struct.unpack_from(order + "IIIII", data, 4)
    strings = data[header + string_at : header + string_at + string_size]
    offsets = {}
    for name, kind in wanted:
        at = strings.find(b"\0" + name.encode() + b"\0")
        if at >= 0:
            offsets[at + 1] = (name, kind)
    found: Dict[str, int] = {}
    number, at, end = 1, header + type_at, header + type_at + type_size
    unpack = struct.Struct(order + "II").unpack_from
    while at + 12 <= min(end, len(data)) and len(found) < len(offsets):
        name_at, info = unpack(data, at)
        kind = info >> 24 & 0x1F
        if not 0 < kind <= _LAST_KIND:
            break
        if name_at in offsets and offsets[name_at][1] == kind:
            found[offsets[name_at][0]] = number
        at += 12 + _FIXED.get(kind, 0) + _EACH.get(kind, 0) * (info & 0xFFFF)
        number += 1
    return found
