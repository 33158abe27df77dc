"""The tables of an ELF file as values: sections, symbols, relocations; hostile until checked, unpacks nothing.

Both classes and byte orders. Everything is bounded by the size of the file: sections that overlap, rows of another
length than the format's and names that share their bytes thousands of times are refused.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from typing import NamedTuple

from btf.fault import EXIT_USAGE, Fault

Buffer = bytes | bytearray | mmap.mmap  # what can be sliced and searched without being copied

EM_BPF = 247
SHT_NULL, SHT_PROGBITS, SHT_SYMTAB, SHT_RELA, SHT_NOBITS, SHT_REL = 0, 1, 2, 4, 8, 9
SHF_EXECINSTR = 4
STT_OBJECT, STT_FUNC = 1, 2
STB_LOCAL, STB_WEAK = 0, 2
STV_DEFAULT = 0
SHN_UNDEF, SHN_LORESERVE, _SHN_XINDEX = 0, 0xFF00, 0xFFFF

_MAX_SHARED = 16  # names may share bytes (linkers store a suffix once), but not so that they add up to more than this
_ROOM = 1 << 16  # times their table and this


class _Class(NamedTuple):
    """The layouts of one ELF class, without byte order."""

    header: str  # behind e_ident
    section: str
    symbol: str
    rel: str
    rela: str
    symbol_bits: int  # the symbol's number in r_info starts at this bit


_CLASSES = {
    1: _Class("HHIIIIIHHHHHH", "10I", "IIIBBH", "II", "IIi", 8),
    2: _Class("HHIQQQIHHHHHH", "IIQQQQIIQQ", "IBBHQQ", "QQ", "QQq", 32),
}
_IDENT = 16
_ORDERS = {1: "<", 2: ">"}


class ElfMalformed(Fault):
    """Bytes that are not a whole ELF file; the message says at which byte."""

    code = "COR-BTF-002"
    exit = EXIT_USAGE
    remedy = "Give the file again as the compiler or the kernel's package made it."


class Section(NamedTuple):
    """One row of the table of sections; ``offset`` and ``size`` in bytes of the file."""

    number: int
    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    entry: int


class Symbol(NamedTuple):
    """One symbol; ``section`` is a number, or one of the reserved ones from SHN_LORESERVE on."""

    name: str
    value: int
    size: int
    type: int
    bind: int
    section: int
    visibility: int = 0


class Elf:
    """An ELF file whose sections lie inside it and do not overlap. Raise ElfMalformed for one that is not."""

    def __init__(self, data: Buffer) -> None:
        self._data = data
        if data[:4] != b"\x7fELF":
            raise ElfMalformed("not an ELF file: byte 0 does not start its magic number")
        class_, order = _CLASSES.get(data[4] if len(data) > 4 else 0), _ORDERS.get(data[5] if len(data) > 5 else 0)
        if class_ is None or order is None:
            raise ElfMalformed("byte 4 is no class or byte 5 no byte order of ELF")
        self._class, self._order = class_, order
        self.big_endian = order == ">"
        header = struct.Struct(order + class_.header)
        if len(data) < _IDENT + header.size:
            raise ElfMalformed(f"cut off: {len(data)} bytes are shorter than a header")
        fields = header.unpack_from(data, _IDENT)
        self.machine: int = fields[1]
        self.sections = self._sections(table=fields[5], row=fields[10], count=fields[11], names=fields[12])

    def _sections(self, *, table: int, row: int, count: int, names: int) -> tuple[Section, ...]:
        layout = struct.Struct(self._order + self._class.section)
        if table == 0:
            return ()
        if row != layout.size:
            raise ElfMalformed(f"the rows of the sections at byte {table} are {row} bytes long, not {layout.size}")
        if table + layout.size > len(self._data):
            raise ElfMalformed(f"cut off: the table of sections starts at byte {table} of {len(self._data)}")
        # Row 0 has what the header has no room for.
        first = layout.unpack_from(self._data, table)
        count, names = count or first[5], first[6] if names == _SHN_XINDEX else names
        end = table + count * layout.size
        if end > len(self._data):
            raise ElfMalformed(f"cut off: the table of sections ends at byte {end}, the file at {len(self._data)}")
        rows = list(layout.iter_unpack(self._data[table:end]))
        held = 0
        for number, (_, type_, _, _, offset, size, *_) in enumerate(rows):
            if number == 0 or type_ in (SHT_NULL, SHT_NOBITS):
                continue
            held += size
            if offset + size > len(self._data):
                raise ElfMalformed(
                    f"cut off: section {number} ends at byte {offset + size}, the file at {len(self._data)}"
                )
        if held > len(self._data):
            raise ElfMalformed(f"the sections at byte {table} overlap: they add up to {held} bytes")
        if names >= count and count:
            raise ElfMalformed(f"section {names}, said to have the names, is not among the {count} at byte {table}")
        strings = _Names(self._data, *rows[names][4:6]) if count else None
        return tuple(
            Section(number, strings.at(name) if strings else "", type_, flags, offset, size, link, info, entry)
            for number, (name, type_, flags, _, offset, size, link, info, _, entry) in enumerate(rows)
        )

    def named(self, name: str) -> Section | None:
        """Return the first section called *name*, or None."""
        return next((s for s in self.sections if s.name == name), None)

    def bytes_of(self, section: Section | None) -> bytes:
        """Return the bytes of *section*, none for one that takes no room in the file and for None."""
        if section is None or section.type in (SHT_NULL, SHT_NOBITS):
            return b""
        return bytes(self._data[section.offset : section.offset + section.size])

    def symbols(self) -> list[Symbol]:
        """Return the symbols of the first table of symbols, by number; an ELF file without has none."""
        table = next((s for s in self.sections if s.type == SHT_SYMTAB), None)
        if table is None:
            return []
        names = _Names(self._data, *self._linked(table)[4:6])
        found = []
        for row in self._rows(table, self._class.symbol):
            if self._class.symbol_bits == 8:
                name, value, size, info, other, home = row
            else:
                name, info, other, home, value, size = row
            found.append(Symbol(names.at(name), value, size, info & 15, info >> 4, home, other & 3))
        return found

    def relocations(self, section: Section) -> Iterator[tuple[int, int]]:
        """Yield (byte offset in the section that ``info`` of *section* names, symbol number)."""
        layout = self._class.rela if section.type == SHT_RELA else self._class.rel
        for row in self._rows(section, layout):
            yield row[0], row[1] >> self._class.symbol_bits

    def _rows(self, section: Section, layout: str) -> Iterator[tuple[int, ...]]:
        row = struct.Struct(self._order + layout)
        if section.entry != row.size or section.size % row.size:
            where = f"section {section.number} at byte {section.offset}"
            raise ElfMalformed(f"{where} is not rows of {row.size} bytes: {section.size} in rows of {section.entry}")
        return row.iter_unpack(self.bytes_of(section))

    def _linked(self, section: Section) -> Section:
        if section.link >= len(self.sections):
            raise ElfMalformed(f"section {section.number} at byte {section.offset} links to none: {section.link}")
        return self.sections[section.link]


class _Names:
    """One table of names."""

    def __init__(self, data: Buffer, offset: int, size: int) -> None:
        self._offset = offset
        self._strings = data[offset : offset + size]
        self._left = _MAX_SHARED * len(self._strings) + _ROOM
        self._known: dict[int, str] = {}

    def at(self, offset: int) -> str:
        known = self._known.get(offset)
        if known is not None:
            return known
        end = self._strings.find(b"\0", offset)
        if end < 0:
            raise ElfMalformed(f"no name ends behind byte {self._offset + offset}: the names end before")
        self._left -= end - offset
        if self._left < 0:
            raise ElfMalformed(f"the names from byte {self._offset} on share their bytes too often")
        name = self._known[offset] = self._strings[offset:end].decode("utf-8", "surrogateescape")
        return name
