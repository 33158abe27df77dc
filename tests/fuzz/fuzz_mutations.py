"""Damage that keeps its shape: one record, one offset, one count of a BTF, an extension, an ELF file or an archive.

A mutation takes bytes and a generator of chance and returns bytes; the same two give the same. Bytes of another form
than it expects are damaged at random.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zlib
from collections.abc import Callable
from random import Random

from fuzz_seeds import with_section

from btf.elf import Elf, ElfMalformed
from btf.format.codec import KIND_SHIFT
from btf.format.kinds import RECORDS, Kind

Mutation = Callable[[bytes, Random], bytes]

_NUMBERS = (
    0, 1, 2, 3, 4, 7, 8, 12, 16, 24, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000,
    1 << 20, (1 << 24) - 1, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 2, (1 << 32) - 1,
)  # fmt: skip
_MAX = 200_000  # bytes; what is larger is mutated in place only
_REFERENCES = (Kind.TYPEDEF, Kind.CONST, Kind.VOLATILE, Kind.RESTRICT, Kind.TYPE_TAG, Kind.PTR)


def any_bytes(data: bytes, rng: Random) -> bytes:
    """Set, insert, remove, repeat or cut some bytes, wherever."""
    raw = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(raw))
        match rng.randrange(6):
            case 0:
                raw[at] ^= 1 << rng.randrange(8)
            case 1:
                raw[at] = rng.randrange(256)
            case 2:
                size = rng.choice((2, 4, 4, 4, 8))
                at -= at % size
                order = rng.choice(("little", "big"))
                number = rng.choice(_NUMBERS) if size != 8 else rng.choice((*_NUMBERS, 1 << 63, (1 << 64) - 1))
                raw[at : at + size] = (number & ((1 << 8 * size) - 1)).to_bytes(size, order)
            case 3:
                del raw[at : at + rng.choice((1, 4, 8, 24))]
            case 4:
                block = raw[at : at + rng.choice((4, 12, 24))]
                if len(raw) < _MAX:
                    raw[at:at] = block * rng.choice((1, 2, 50))
            case _:
                if rng.random() < 0.3:
                    del raw[at:]
        raw = raw or bytearray(b"\0")
    return bytes(raw)


class _Btf:
    """BTF taken apart: records as lists of words, and strings."""

    def __init__(self, data: bytes) -> None:
        self.order = "<" if data[:1] == b"\x9f" else ">"
        header, type_off, type_len, str_off, str_len = struct.unpack_from(f"{self.order}IIIII", data, 4)
        self.head = bytearray(data[:header])
        types = data[header + type_off :][: type_len - type_len % 4]
        words = [word for (word,) in struct.iter_unpack(f"{self.order}I", types)]
        self.strings = bytearray(data[header + str_off :][:str_len]) or bytearray(1)
        self.rest = data[header + max(type_off + type_len, str_off + str_len) :]
        self.records: list[list[int]] = []
        at = 0
        while at + 2 < len(words):
            kind, vlen = words[at + 1] >> KIND_SHIFT & 0x7F, words[at + 1] & 0xFFFFFF
            size = RECORDS.get(Kind(kind)) if kind in RECORDS else None
            end = at + 3 + (size.fixed + size.each * vlen if size else 0)
            self.records.append(words[at:end])
            at = end
        if len(data) < 24 or header < 24 or not self.records:
            raise ValueError("not BTF")

    def whole(self) -> bytes:
        words = [word & 0xFFFFFFFF for record in self.records for word in record]
        types = struct.pack(f"{self.order}{len(words)}I", *words)
        struct.pack_into(f"{self.order}IIII", self.head, 8, 0, len(types), len(types), len(self.strings))
        if len(self.head) >= 32:
            struct.pack_into(f"{self.order}I", self.head, 24, len(types) + len(self.strings))
        return bytes(self.head) + types + bytes(self.strings) + self.rest

    def name(self, text: bytes) -> int:
        """Return the offset of *text*, which is put at the end of the strings unless it is there."""
        at = self.strings.find(b"\0" + text + b"\0")
        if at >= 0:
            return at + 1
        self.strings += text + b"\0"
        return len(self.strings) - len(text) - 1

    def add(self, kind: int, third: int, *more: int, name: int = 0, vlen: int = 0) -> int:
        """Append a record; return its id."""
        self.records.append([name, kind << KIND_SHIFT | vlen, third, *more])
        return len(self.records)


def _one_word(btf: _Btf, rng: Random) -> None:
    record = rng.choice(btf.records)
    at = rng.randrange(len(record))
    record[at] = rng.choice((*_NUMBERS, len(btf.records), len(btf.records) + 1, rng.randrange(len(btf.strings))))


def _one_reference(btf: _Btf, rng: Random) -> None:
    number = rng.randrange(len(btf.records))
    record = btf.records[number]
    places = [2, *range(4, len(record), 3 if record[1] >> 24 & 0x7F in (4, 5, 15) else 2)]
    record[rng.choice([p for p in places if p < len(record)])] = rng.choice(
        (0, number + 1, number, number + 2, rng.randrange(len(btf.records) + 1))
    )


def _one_count(btf: _Btf, rng: Random) -> None:
    """Change a count, and the members with it or not."""
    record = rng.choice(btf.records)
    kind, old = record[1] >> 24 & 0x7F, record[1] & 0xFFFFFF
    new = rng.choice((0, 1, old + 1, max(old - 1, 0), old * 2, 100, 0xFFFF, 0xFFFFFF))
    record[1] = record[1] & ~0xFFFFFF | new
    size = RECORDS.get(Kind(kind)) if kind in RECORDS else None
    if size and size.each and new <= 1000 and rng.random() < 0.8:
        start = 3 + size.fixed
        body = record[start:] or [0] * size.each
        record[start:] = (body * (new * size.each // len(body) + 1))[: new * size.each]


def _one_kind(btf: _Btf, rng: Random) -> None:
    record = rng.choice(btf.records)
    record[1] = record[1] & ~(0x7F << 24) | rng.choice((*RECORDS, 0, 20, 25, 127)) << 24
    if rng.random() < 0.3:
        record[1] ^= 1 << 31


def _rows_moved(btf: _Btf, rng: Random) -> None:
    one, other = rng.randrange(len(btf.records)), rng.randrange(len(btf.records))
    match rng.randrange(4):
        case 0:
            btf.records[one], btf.records[other] = btf.records[other], btf.records[one]
        case 1 if len(btf.records) > 1:
            del btf.records[one]
        case 2:
            btf.records[one] = list(btf.records[other])
        case _:
            if len(btf.records) < 2000:
                btf.records += [list(btf.records[one]) for _ in range(rng.choice((1, 2, 40, 300)))]


def _one_name(btf: _Btf, rng: Random) -> None:
    record, other = rng.choice(btf.records), rng.choice(btf.records)
    at = rng.choice((0, 0, *range(3, len(record))))
    match rng.randrange(4):
        case 0:
            record[at] = other[0]
        case 1:
            record[at] = rng.randrange(len(btf.strings))
        case 2:
            old = bytes(btf.strings[other[0] :]).split(b"\0")[0][:100]
            record[at] = btf.name(old + rng.choice((b"___x", b"___", b"____", b"_", b"___a___b")))
        case _:
            odd = (b"a" * 3000, b"\xff\xfe", b"\x1b[2J", "ü\u202e".encode(), b" ", b"/", b"../x", b".maps", b".kconfig")
            record[at] = btf.name(rng.choice((*odd, b".ksyms", b"long", b"type", b"values", b"pt_regs", b"task")))


def _chain(btf: _Btf, rng: Random) -> None:
    """Append references to references, of one kind or of many, and let somebody refer to their end, or them to it."""
    kinds = rng.choice(((Kind.TYPEDEF,), (Kind.CONST,), (Kind.PTR,), (Kind.ARRAY,), _REFERENCES, (Kind.STRUCT,)))
    to = rng.randrange(len(btf.records) + 1)
    first = len(btf.records) + 1
    for _ in range(rng.choice((1, 2, 31, 32, 33, 34, 64, 65, 300))):
        kind = rng.choice(kinds)
        if kind == Kind.ARRAY:
            to = btf.add(kind, 0, to, rng.choice((to, 0)), rng.choice((0, 1, 2, 0xFFFFFFFF)))
        elif kind == Kind.STRUCT:
            names = [btf.name(rng.choice((b"", b"pid", b"m"))) for _ in range(rng.choice((1, 2, 3)))]
            rows = [word for name in names for word in (name, to, 0)]
            to = btf.add(kind, 8, *rows, name=btf.name(rng.choice((b"", b"task", b"s"))), vlen=len(names))
        else:
            to = btf.add(kind, to, name=btf.name(b"pid_t") if kind == Kind.TYPEDEF else 0)
    if rng.random() < 0.4:
        btf.records[first - 1][2 if btf.records[first - 1][1] >> 24 & 0x7F != 3 else 3] = to
    for _ in range(rng.choice((0, 1, 3))):
        record = rng.choice(btf.records[: first - 1] or btf.records)
        record[rng.choice((2, 4) if len(record) > 4 else (2,))] = to


def _strings_changed(btf: _Btf, rng: Random) -> None:
    at = rng.randrange(len(btf.strings))
    match rng.randrange(4):
        case 0:
            btf.strings[at] = rng.choice((0, 95, 97, 255, 27, 10))
        case 1:
            del btf.strings[at : at + rng.choice((1, 3))]
        case 2:
            btf.strings[at:at] = rng.choice((b"_", b"___", b"\0", b"a" * 2000))
        case _:
            btf.strings = btf.strings.replace(b"\0", b"x") if rng.random() < 0.1 else btf.strings
    btf.strings = btf.strings or bytearray(1)


_ON_BTF = (
    _one_word, _one_word, _one_reference, _one_reference, _one_count, _one_kind, _rows_moved, _one_name, _chain,
    _strings_changed,
)  # fmt: skip


def btf(data: bytes, rng: Random) -> bytes:
    """Change a BTF's records and strings; mostly the header stays right."""
    if rng.random() < 0.1:
        return any_bytes(data, rng)
    try:
        taken = _Btf(data)
    except (struct.error, ValueError):
        return any_bytes(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        rng.choice(_ON_BTF)(taken, rng)
    whole = taken.whole()
    if rng.random() < 0.1:
        raw = bytearray(whole)
        struct.pack_into(f"{taken.order}I", raw, rng.choice((4, 8, 12, 16, 20)), rng.choice((*_NUMBERS, len(raw))))
        return bytes(raw)
    return whole


def extension(data: bytes, rng: Random) -> bytes:
    """Change words of ``.BTF.ext``: offsets, record sizes, counts, what records say; or repeat one of its lists."""
    raw = bytearray(data[: len(data) - len(data) % 4])
    if len(raw) < 32 or rng.random() < 0.15:
        return any_bytes(data, rng)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.choice((rng.randrange(0, len(raw), 4), rng.randrange(32, len(raw), 4) if len(raw) > 32 else 0, 24, 28))
        (old,) = struct.unpack_from("<I", raw, at)
        (other,) = struct.unpack_from("<I", raw, rng.randrange(0, len(raw), 4))
        near = (other, other, old + 1, old - 1, old + 8, old - 8, old ^ 1 << rng.randrange(8), rng.randrange(16))
        number = rng.choice(near if rng.random() < 0.7 else (*_NUMBERS, old ^ 1 << rng.randrange(32)))
        struct.pack_into("<I", raw, at, number & 0xFFFFFFFF)
    return bytes(raw)


def _code(data: bytes, rng: Random) -> bytes:
    """Change instructions: opcodes, registers, offsets, constants."""
    raw = bytearray(data)
    for _ in range(rng.choice((1, 2, 5)) if len(raw) >= 8 else 0):
        at = rng.randrange(len(raw) // 8) * 8
        match rng.randrange(4):
            case 0:
                raw[at] = rng.choice(
                    (0x18, 0x85, 0x95, 0x05, 0x06, 0x79, 0x7B, 0xB7, 0x15, 0x55, 0xDB, rng.randrange(256))
                )
            case 1:
                raw[at + 1] = rng.randrange(256)
            case 2:
                struct.pack_into("<H", raw, at + 2, rng.choice((0, 1, 0xFFFF, 0x7FFF, 0x8000, rng.randrange(1 << 16))))
            case _:
                struct.pack_into("<I", raw, at + 4, rng.choice(_NUMBERS))
    return bytes(raw)


def _rows(data: bytes, rng: Random) -> bytes:
    """Change a field of one row of symbols or relocations."""
    raw = bytearray(data)
    if len(raw) >= 24:
        size = rng.choice((1, 2, 4, 8))
        at = rng.randrange(0, len(raw) - 8, size)
        number = rng.choice((*_NUMBERS, raw[at] + 1, raw[at] + 8, (1 << 64) - 1))
        raw[at : at + size] = (number & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    return bytes(raw)


_BY_NAME: tuple[tuple[str, Mutation], ...] = (
    (".BTF.ext", extension), (".BTF", btf), (".symtab", _rows), (".rel", _rows), (".strtab", any_bytes), ("", _code),
)  # fmt: skip


def elf(data: bytes, rng: Random) -> bytes:
    """Change the table of sections, or the content of one section in the manner of its kind."""
    try:
        sections = Elf(data).sections
    except ElfMalformed:
        sections = ()
    if len(sections) < 2 or data[5] != 1 or rng.random() < 0.1:
        return any_bytes(data, rng)
    if rng.random() < 0.25:
        raw = bytearray(data)
        (table,) = struct.unpack_from("<Q", data, 0x28)
        at = table + 64 * rng.randrange(len(sections))
        offset, size = rng.choice(((0, 4), (4, 4), (8, 8), (24, 8), (32, 8), (40, 4), (44, 4), (56, 8)))
        number = rng.choice((*_NUMBERS, len(data), rng.randrange(len(data)), rng.randrange(len(sections))))
        other = table + 64 * rng.randrange(len(sections)) + offset
        raw[at + offset : at + offset + size] = rng.choice(
            (number.to_bytes(size, "little"), data[other : other + size])
        )
        return bytes(raw)
    section = rng.choice(sections[1:])
    mutation = next(m for prefix, m in _BY_NAME if section.name.startswith(prefix))
    content = mutation(Elf(data).bytes_of(section), rng)
    if len(content) == section.size:
        return data[: section.offset] + content + data[section.offset + section.size :]
    return with_section(data, section.name, content) if len(data) < _MAX else data


_ODD_NAMES = (
    "../../etc/x.btf",
    "/etc/x.btf",
    "a/../../x.btf",
    "..",
    "",
    "x.btf/",
    "\x1b[2J.btf",
    "x" * 300 + ".btf",
    "5.4.btf",
)


def tar(data: bytes, rng: Random) -> bytes:
    """Change a compressed tar: its compressed bytes, its members' heads, names, kinds and sizes, or what they hold."""
    try:
        inner = bytearray(lzma.decompress(data))
    except lzma.LZMAError:
        return any_bytes(data, rng)
    match rng.randrange(5):
        case 0:
            return any_bytes(data, rng)
        case 1:
            inner = bytearray(any_bytes(bytes(inner), rng))
        case 2:  # fields of the first member's head, its checksum made right
            at, size = rng.choice(((0, 100), (100, 8), (124, 12), (156, 1), (157, 100), (257, 6), (345, 155)))
            value = rng.choice(
                (b"../x.btf\0", b"777777777777", b"\x80" + bytes(10) + b"\xff", b"1", b"2", b"L", b"x", b"S", b"\0")
            )
            inner[at : at + size] = value[:size].ljust(size, b"\0")
            inner[148:156] = b" " * 8
            inner[148:156] = b"%06o\0 " % (sum(inner[:512]) % 0o1000000)
        case _:
            try:
                with tarfile.open(fileobj=io.BytesIO(inner)) as old:
                    held = [(m, (f.read() if (f := old.extractfile(m)) else b"")) for m in old.getmembers()]
            except (tarfile.TarError, RecursionError, ValueError, LookupError):
                return any_bytes(data, rng)
            out = io.BytesIO()
            with tarfile.open(fileobj=out, mode="w") as new:
                for info, content in held or [(tarfile.TarInfo("x.btf"), b"")]:
                    changed = btf(content, rng) if content and rng.random() < 0.7 else content
                    if rng.random() < 0.4:
                        info.name = rng.choice(_ODD_NAMES)
                    if rng.random() < 0.2:
                        info.type, info.linkname = rng.choice((b"1", b"2", b"5", b"6", b"3")), rng.choice(_ODD_NAMES)
                    info.size = len(changed) if info.isreg() else 0
                    new.addfile(info, io.BytesIO(changed))
            inner = bytearray(out.getvalue())
    return lzma.compress(inner, preset=0)


def file(data: bytes, rng: Random) -> bytes:
    """Change a file of unknown form by what it starts with."""
    by_magic = ((b"\xfd7zXZ", tar), (b"\x7fELF", elf), (b"\x9f\xeb", btf), (b"\xeb\x9f", btf), (b"", any_bytes))
    return next(m for magic, m in by_magic if data.startswith(magic))(data, rng)


_REPACKED: tuple[tuple[bytes, Callable[[bytes], bytes], Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b\x08", gzip.decompress, lambda data: gzip.compress(data, 1)),
    (b"\xfd7zXZ\0", lzma.decompress, lambda data: lzma.compress(data, preset=0)),
    (b"BZh", bz2.decompress, lambda data: bz2.compress(data, 1)),
)


def image(data: bytes, rng: Random) -> bytes:
    """Change a kernel image: its header, the BTF, ELF file or stream inside, or, repacked, what the stream holds."""
    match rng.randrange(5):
        case 0:
            return any_bytes(data, rng)
        case 1 if data.startswith(b"\x7fELF"):
            return elf(data, rng)
        case 2:
            at = data.find(b"\x9f\xeb\x01\0", rng.choice((0, 200)))
            return data[:at] + btf(data[at:], rng) if at >= 0 else any_bytes(data, rng)
        case 3:  # the words that say where things are
            raw = bytearray(data)
            at = rng.choice((8, 12, 40, 0x1F1, 0x206, 0x20E, 0x236, 0x248, 0x24C))
            if at + 4 <= len(raw):
                struct.pack_into("<I", raw, at, rng.choice((*_NUMBERS, len(raw), rng.randrange(len(raw) + 1))))
            return bytes(raw)
        case _:
            for magic, unpack, pack in _REPACKED:
                at = data.find(magic)
                if at < 0:
                    continue
                try:
                    return data[:at] + pack(image(unpack(data[at:]), rng))
                except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error):
                    break
            return any_bytes(data, rng)
