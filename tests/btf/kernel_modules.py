"""Modules made by hand: BTF that goes on where a kernel's ends."""

from __future__ import annotations

import struct

import kernel_images as make

from btf.format.parse import parse_btf


def split_btf(base: bytes, function: str, mentions: str = "list_head") -> bytes:
    """BTF of a module with ``void FUNCTION(void)`` and a struct called as one of the kernel's, on top of *base*."""
    kernel = parse_btf(base)
    order = ">" if kernel.big_endian else "<"
    header = struct.unpack_from(f"{order}I", base, 4)[0]
    strings = header + struct.unpack_from(f"{order}I", base, 16)[0]
    name = base.index(b"\0" + mentions.encode() + b"\0", strings) + 1 - strings
    own = function.encode() + b"\0"
    rows = [
        (0, 13 << 24, 0),  # FUNC_PROTO
        (kernel.string_end, 12 << 24, len(kernel)),  # FUNC of it
        (name, 4 << 24, 0),  # STRUCT without members
    ]
    types = b"".join(struct.pack(f"{order}III", *row) for row in rows)
    head = struct.pack(f"{order}HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(own))
    return head + types + own


def module(btf: bytes | None, *, name: str = "my_mod", release: str = make.RELEASE, **more: bytes) -> bytes:
    """A module's ELF file."""
    info = f"license=GPL\0name={name}\0vermagic={release} SMP preempt mod_unload \0".encode()
    sections = {".modinfo": info, ".text": b"\x90" * 16, **({".BTF": btf} if btf else {}), **more}
    return make.elf(sections)
