"""The ``.BTF.ext`` section: which type each function has, which source line each instruction, and CO-RE relocations.

Bytes in, rows out; what a row means for a kernel is :mod:`btf.core.relocate`'s business.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from btf.format.index import BtfMalformed
from btf.format.types import Btf

_MAGIC = 0xEB9F
_HEADER = struct.Struct("HBBIIIII")  # magic, version, flags, hdr_len, func_info off/len, line_info off/len
_CORE = struct.Struct("II")  # core_relo off/len, when the header is long enough
_MAX_RECORD = 4096
_MAX_ROWS = 1 << 20  # of one table; a kernel takes no more instructions of one program


class RelocationKind(IntEnum):
    """The kinds of ``enum bpf_core_relo_kind``; lower case they are libbpf's names."""

    BYTE_OFF = 0
    BYTE_SZ = 1
    FIELD_EXISTS = 2
    SIGNED = 3
    LSHIFT_U64 = 4
    RSHIFT_U64 = 5
    LOCAL_TYPE_ID = 6
    TARGET_TYPE_ID = 7
    TYPE_EXISTS = 8
    TYPE_SIZE = 9
    ENUMVAL_EXISTS = 10
    ENUMVAL_VALUE = 11
    TYPE_MATCHES = 12  # since libbpf 1.0


class FuncInfo(NamedTuple):
    """The function that starts at byte ``insn`` of ``section``, as FUNC ``type``."""

    section: str
    insn: int
    type: int


class LineInfo(NamedTuple):
    """Where the instructions from byte ``insn`` of ``section`` on come from; line and column count from 1."""

    section: str
    insn: int
    file: str
    text: str
    line: int
    column: int


class CoreRelocation(NamedTuple):
    """A CO-RE relocation: the instruction at byte ``insn`` of ``section`` asks ``kind`` of ``access`` into ``type``."""

    section: str
    insn: int
    type: int
    access: str
    kind: int


class Extension(NamedTuple):
    """The three tables of a ``.BTF.ext`` section, in its order."""

    functions: tuple[FuncInfo, ...] = ()
    lines: tuple[LineInfo, ...] = ()
    relocations: tuple[CoreRelocation, ...] = ()


def parse_extension(data: bytes, btf: Btf) -> Extension:
    """Parse the bytes of ``.BTF.ext`` beside their object's *btf*; raise BtfMalformed."""
    order = ">" if btf.big_endian else "<"
    if len(data) < _HEADER.size:
        raise BtfMalformed(f".BTF.ext: {len(data)} bytes are shorter than a header")
    magic, version, _, header, *tables = struct.unpack_from(f"{order}{_HEADER.format}", data)
    if magic != _MAGIC or version != 1 or not _HEADER.size <= header <= len(data):
        raise BtfMalformed(".BTF.ext: byte 0 does not start a header of version 1 in the byte order of .BTF")
    if header >= _HEADER.size + _CORE.size:
        tables += struct.unpack_from(f"{order}{_CORE.format}", data, _HEADER.size)
    else:
        tables += (0, 0)
    functions, lines, relocations = (
        list(_rows(data, btf, header + tables[i], tables[i + 1], words)) for i, words in ((0, 2), (2, 4), (4, 4))
    )
    return Extension(
        tuple(FuncInfo(section, insn, type_) for section, (insn, type_) in functions),
        tuple(
            LineInfo(section, insn, btf.string(file), btf.string(text), where >> 10, where & 0x3FF)
            for section, (insn, file, text, where) in lines
        ),
        tuple(
            CoreRelocation(section, insn, type_, btf.string(access), kind)
            for section, (insn, type_, access, kind) in relocations
        ),
    )


def _rows(data: bytes, btf: Btf, start: int, length: int, words: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield (section, first *words* words of the record) of one table; records may be longer than we know."""
    if length == 0:
        return
    order = ">" if btf.big_endian else "<"
    if start + length > len(data) or length < 4:
        raise BtfMalformed(f".BTF.ext: cut off: a table ends at byte {start + length}, the section at {len(data)}")
    (size,) = struct.unpack_from(f"{order}I", data, start)
    if not 4 * words <= size <= _MAX_RECORD or size % 4:
        raise BtfMalformed(f".BTF.ext: record size {size} at byte {start} is not usable")
    row = struct.Struct(f"{order}{words}I")
    at, end, left = start + 4, start + length, _MAX_ROWS
    while at < end:
        if at + 8 > end:
            raise BtfMalformed(f".BTF.ext: the list at byte {at} is cut off")
        name, count = struct.unpack_from(f"{order}II", data, at)
        section = btf.string(name)
        at += 8
        left -= count
        if left < 0:
            raise BtfMalformed(f".BTF.ext: the table at byte {start} has more than {_MAX_ROWS} records")
        if count == 0 or at + count * size > end:
            raise BtfMalformed(f".BTF.ext: {count} records at byte {at} do not fit")
        for _ in range(count):
            yield section, row.unpack_from(data, at)
            at += size
