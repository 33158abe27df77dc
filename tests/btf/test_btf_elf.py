"""The ELF reader against pyelftools over both classes and byte orders, and against files that lie."""

from __future__ import annotations

import io
import struct
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.enums import ENUM_SH_TYPE_BASE
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection
from hypothesis import given, settings
from hypothesis import strategies as st

from btf.elf import SHT_REL, SHT_RELA, SHT_SYMTAB, Elf, ElfMalformed, Section

CODE = """
    int zero, one = 1; extern int far(void); static int near(int a) { return a + zero; }
    int f(void) { return near(one) + far(); }
"""
TARGETS = ("bpf", "bpfeb", "i386", "x86_64", "aarch64", "s390x", "ppc64le", "mips", "riscv64")
SHDR = struct.Struct("<IIQQQQIIQQ")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """compiled("bpf") → the bytes of an object for that target."""
    root = tmp_path_factory.mktemp("elf")
    made: dict[str, bytes] = {}

    def compile_(target: str) -> bytes:
        if target not in made:
            out = root / f"{target}.o"
            subprocess.run(
                ["clang", "-target", target, "-O1", "-g", "-fno-inline", "-xc", "-", "-c", "-o", out],
                input=CODE, text=True, check=True, capture_output=True,
            )  # fmt: skip
            made[target] = out.read_bytes()
        return made[target]

    return compile_


def _judged(data: bytes):
    """What pyelftools reads: sections, symbols, relocations by section number."""
    elf = ELFFile(io.BytesIO(data))
    every = list(elf.iter_sections())
    sections = [
        (s.name, ENUM_SH_TYPE_BASE.get(s["sh_type"], s["sh_type"]), s["sh_flags"], s["sh_offset"], s["sh_size"])
        for s in every
    ]
    table = next((s for s in every if isinstance(s, SymbolTableSection) and s["sh_type"] == "SHT_SYMTAB"), None)
    symbols = [(s.name, s["st_value"], s["st_size"]) for s in table.iter_symbols()] if table else []
    relocations = {
        number: [(r["r_offset"], r["r_info_sym"]) for r in s.iter_relocations()]
        for number, s in enumerate(every)
        if isinstance(s, RelocationSection)
    }
    return sections, symbols, relocations


def _same(data: bytes) -> None:
    elf = Elf(data)
    sections, symbols, relocations = _judged(data)
    special = {s.number for s in elf.sections if not isinstance(sections[s.number][1], int)}  # machines' own types
    assert [tuple(s[1:6]) for s in elf.sections if s.number not in special] == [
        s for number, s in enumerate(sections) if number not in special
    ]
    # pyelftools calls a section's symbol by its section.
    assert [(s.value, s.size) for s in elf.symbols()] == [s[1:] for s in symbols]
    assert [s.name for s in elf.symbols() if s.name] == [
        theirs for ours, (theirs, *_) in zip(elf.symbols(), symbols, strict=True) if ours.name
    ]
    ours = {s.number: list(elf.relocations(s)) for s in elf.sections if s.type in (SHT_REL, SHT_RELA)}
    assert ours == relocations


@pytest.mark.parametrize("target", TARGETS)
def test_objects_are_read_as_pyelftools_reads_them(compiled, target) -> None:
    elf = Elf(compiled(target))
    assert {"zero", "one", "far", "f"} <= {s.name for s in elf.symbols()}
    assert elf.big_endian == (target in ("bpfeb", "s390x", "mips"))
    assert any(s.type in (SHT_REL, SHT_RELA) for s in elf.sections)
    _same(compiled(target))


def test_a_program_is_read_as_pyelftools_reads_it() -> None:
    _same(Path("/bin/true").read_bytes())


def test_more_sections_than_the_header_has_room_for(compiled) -> None:
    data = bytearray(compiled("bpf"))
    (table,) = struct.unpack_from("<Q", data, 0x28)
    count, names = struct.unpack_from("<HH", data, 0x3C)
    struct.pack_into("<HH", data, 0x3C, 0, 0xFFFF)  # row 0 says how many, and which section has the names
    first = list(SHDR.unpack_from(data, table))
    first[5:7] = count, names
    SHDR.pack_into(data, table, *first)
    assert Elf(bytes(data)).sections[1:] == Elf(compiled("bpf")).sections[1:]


def _with_row(data: bytes, type_: int, **fields: int) -> bytes:
    """*data* with *fields* of the first section of *type_* set."""
    changed = bytearray(data)
    elf = Elf(data)
    number = next(s.number for s in elf.sections if s.type == type_)
    (table,) = struct.unpack_from("<Q", data, 0x28)
    at = table + SHDR.size * number
    names = ("name", "type", "flags", "address", "offset", "size", "link", "info", "align", "entry")
    row = dict(zip(names, SHDR.unpack_from(data, at), strict=True)) | fields
    SHDR.pack_into(changed, at, *row.values())
    return bytes(changed)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"offset": 1 << 60}, "cut off: section [0-9]+ ends at byte"),
        ({"size": 1 << 60}, "cut off: section [0-9]+ ends at byte"),
        ({"entry": 0}, "section [0-9]+ at byte [0-9]+ is not rows of 24 bytes"),
        ({"entry": 1}, "section [0-9]+ at byte [0-9]+ is not rows of 24 bytes"),
        ({"link": 1 << 31}, "section [0-9]+ at byte [0-9]+ links to none"),
        ({"link": 0}, "no name ends behind byte"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_row_that_lies_is_refused_with_its_place(compiled, fields, words) -> None:
    with pytest.raises(ElfMalformed, match=words):
        Elf(_with_row(compiled("bpf"), SHT_SYMTAB, **fields)).symbols()


def test_sections_that_overlap_are_refused(compiled) -> None:
    data = compiled("bpf")
    with pytest.raises(ElfMalformed, match=r"the sections at byte [0-9]+ overlap"):
        Elf(_with_row(data, SHT_SYMTAB, offset=0, size=len(data)))


def test_names_that_share_their_bytes_too_often_are_refused() -> None:
    """A table of n symbols, each called by one byte less of one string, would be n² / 2 bytes of names."""
    count = 4000
    strings = b"\0" + b"n" * count + b"\0"
    symbols = b"".join(struct.pack("<IBBHQQ", 1 + n, 0, 0, 0, 0, 0) for n in range(count))
    at = 64 + 3 * SHDR.size
    table = (
        SHDR.pack(*[0] * 10)
        + SHDR.pack(0, SHT_SYMTAB, 0, 0, at, len(symbols), 2, 0, 8, 24)
        + SHDR.pack(0, 3, 0, 0, at + len(symbols), len(strings), 0, 0, 1, 0)
    )
    header = (
        b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 1, 247, 1, 0, 0, 64, 0, 64, 0, 0, 64, 3, 2)
    )
    elf = Elf(header + table + symbols + strings)
    with pytest.raises(ElfMalformed, match="share their bytes too often"):
        elf.symbols()


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_damaged_tables_are_one_fault_with_a_place(compiled, data) -> None:
    whole = compiled(data.draw(st.sampled_from(("bpf", "bpfeb", "i386"))))
    raw = bytearray(whole)
    table = len(raw) - 64 * 30
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 63) | st.integers(table, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    try:
        elf = Elf(bytes(raw))
        elf.symbols()
        for section in elf.sections:
            assert isinstance(section, Section) and len(elf.bytes_of(section)) <= len(raw)
            if section.type in (SHT_REL, SHT_RELA):
                list(elf.relocations(section))
    except ElfMalformed as fault:
        assert "byte" in fault.message
