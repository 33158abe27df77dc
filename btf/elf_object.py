"""Bytes of a compiled BPF object in, :class:`btf.object.BpfObject` out, the same wherever it is read.

The bytes may come from anybody: every trouble is ObjectMalformed, and nothing is unpacked to an unbounded size.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Section, Symbol, SymbolTableSection

from btf.extension import Extension, parse_extension
from btf.fault import EXIT_USAGE, Fault
from btf.insn import CALL, LD_IMM64, PSEUDO_CALL, SIZE, decode_insns, heads
from btf.kinds import Datasec, Func, Kind, Var
from btf.maps import BpfMap, btf_maps, legacy_maps
from btf.object import BpfFunction, BpfObject, BpfProgram, Call, Extern
from btf.parse import BtfMalformed, parse_btf
from btf.sections import section_meaning
from btf.types import Btf

__all__ = ["BpfFunction", "BpfMap", "BpfObject", "BpfProgram", "Extern", "ObjectMalformed", "read_object"]

MAX_OBJECT = 16 * 1024 * 1024
_SHF_EXECINSTR = 4
_SHN_LORESERVE = 0xFF00
_DATA = (".data", ".rodata", ".bss")


class ObjectMalformed(Fault):
    """Bytes that are not a BPF object."""

    code = "COR-BTF-010"
    exit = EXIT_USAGE
    remedy = "Give the .o file that clang made with -target bpf -g -O2."


def read_object(data: bytes) -> BpfObject:
    """Read a compiled BPF object; raise ObjectMalformed."""
    if len(data) > MAX_OBJECT:
        raise ObjectMalformed(f"{len(data)} bytes are more than an object may have")
    try:
        elf = open_elf(data)
        if elf["e_machine"] != "EM_BPF":
            raise ObjectMalformed(f"an ELF file for {elf['e_machine']}, not for BPF")
        return _Reader(elf, data).read()
    except BtfMalformed as error:
        raise ObjectMalformed(error.message) from None
    except (
        ELFError,
        ConstructError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        ArithmeticError,
        AssertionError,
        struct.error,
    ) as error:  # fmt: skip - what pyelftools raises on hostile input
        what = "not an ELF file" if data[:4] != b"\x7fELF" else "a broken ELF file"
        raise ObjectMalformed(f"{what}: {error}" if str(error) else what) from None


def open_elf(data: bytes) -> ELFFile:
    """Return the ELF file in *data* once its table of sections is seen to lie inside; raise what pyelftools raises."""
    elf = ELFFile(io.BytesIO(data))
    entry = 64 if elf.elfclass == 64 else 40
    # A length of 0 would name the same section for ever, and the count may claim anything.
    if elf["e_shentsize"] != entry or elf["e_shoff"] + elf.num_sections() * entry > len(data):
        raise ELFError(f"cut off: the table of sections does not lie inside the file's {len(data)} bytes")
    return elf


class _Reader:
    """Walks one ELF file; exists while it is read."""

    def __init__(self, elf: ELFFile, data: bytes) -> None:
        self._data = data
        self._order = "<" if elf.little_endian else ">"
        self._sections: list[Section] = list(elf.iter_sections())
        self._names = [s.name for s in self._sections]
        table = next((s for s in self._sections if isinstance(s, SymbolTableSection)), None)
        self._symbols = list(table.iter_symbols()) if table else []
        self._symbols_of: dict[object, list[Symbol]] = {}
        for symbol in self._symbols:
            self._symbols_of.setdefault(symbol["st_shndx"], []).append(symbol)

    def _bytes(self, section: Section) -> bytes:
        # Not section.data(): that unpacks compressed sections, to whatever size they ask.
        start, size = section["sh_offset"], section["sh_size"]
        if section["sh_type"] == "SHT_NOBITS":
            return b""
        if start + size > len(self._data):
            raise ObjectMalformed(f"cut off: section {section.name} ends at {start + size}, file at {len(self._data)}")
        return self._data[start : start + size]

    def _named(self, name: str) -> bytes:
        return self._bytes(self._sections[self._names.index(name)]) if name in self._names else b""

    def read(self) -> BpfObject:
        raw_btf, raw_extension = self._named(".BTF"), self._named(".BTF.ext")
        btf = parse_btf(raw_btf) if raw_btf else None
        extension = parse_extension(raw_extension, btf) if raw_extension and btf else Extension()
        functions = sorted(self._functions(), key=lambda f: (f.section, f.start))
        by_start = {(f.section, f.start): f for f in functions}
        return BpfObject(
            sha256=hashlib.sha256(self._data).hexdigest(),
            big_endian=self._order == ">",
            license=self._named("license").split(b"\0")[0].decode("utf-8", "replace"),
            functions=tuple(functions),
            programs=tuple(
                BpfProgram(f, section_meaning(f.section), _reached(f, by_start))
                for f in functions
                if f.section != ".text"
            ),
            maps=tuple((btf_maps(btf) if btf else []) + self._legacy_maps()),
            data_sections=tuple(
                s.name
                for s in self._sections
                if s["sh_size"] and any(s.name == d or s.name.startswith(f"{d}.") for d in _DATA)
            ),
            externs=tuple(self._externs(btf)) if btf else (),
            btf=btf,
            function_info=extension.functions,
            lines=extension.lines,
            relocations=extension.relocations,
            by_start=by_start,
        )

    def _functions(self) -> Iterator[BpfFunction]:
        targets = self._targets()
        for number, section in enumerate(self._sections):
            if section["sh_type"] != "SHT_PROGBITS" or not section["sh_flags"] & _SHF_EXECINSTR:
                continue
            code = self._bytes(section)
            for symbol in self._symbols_of.get(number, ()):
                if symbol["st_info"]["type"] != "STT_FUNC":
                    continue
                start, size = symbol["st_value"], symbol["st_size"]
                if start % SIZE or size % SIZE or not size or start + size > len(code):
                    raise ObjectMalformed(f"function {symbol.name} does not lie in its section {section.name}")
                insns = decode_insns(code[start : start + size], big_endian=self._order == ">")
                yield self._named_by(BpfFunction(symbol.name, section.name, start, insns), targets.get(number, {}))

    def _targets(self) -> dict[int, dict[int, int]]:
        """Return, by section number, instruction byte offset → symbol number."""
        found: dict[int, dict[int, int]] = {}
        for section in self._sections:
            if isinstance(section, RelocationSection):
                rows = found.setdefault(section["sh_info"], {})
                for row in section.iter_relocations():
                    rows[row["r_offset"]] = row["r_info_sym"]
        return found

    def _named_by(self, function: BpfFunction, targets: Mapping[int, int]) -> BpfFunction:
        """Return *function* with what its instructions name: functions and maps of this object, kernel symbols."""
        found: list[Call] = []
        externs: dict[str, None] = {}
        maps: dict[str, None] = {}
        for index, insn in heads(function.instructions):
            at = function.start + SIZE * index
            calls = insn.code == CALL and insn.src == PSEUDO_CALL
            if at not in targets:
                if calls:
                    found.append(Call(at, (function.section, at + SIZE * (insn.imm + 1))))
                continue
            symbol = self._symbols[targets[at]]
            home, value = symbol["st_shndx"], symbol["st_value"]
            if home == "SHN_UNDEF":
                externs[symbol.name] = None
            elif not isinstance(home, int) or home >= _SHN_LORESERVE:
                continue
            elif self._names[home] in (".maps", "maps"):
                maps[self._symbol_at(home, value if symbol.name else value + insn.imm)] = None
            elif self._sections[home]["sh_flags"] & _SHF_EXECINSTR:
                # A call counts from the instruction behind it; an address is in bytes.
                if calls:
                    found.append(Call(at, (self._names[home], value + SIZE * (insn.imm + 1))))
                elif insn.code == LD_IMM64:
                    found.append(Call(at, (self._names[home], value + insn.imm)))
        return replace(function, calls=tuple(found), externs=tuple(externs), maps=tuple(maps))

    def _symbol_at(self, section: int, value: int) -> str:
        where = (s.name for s in self._symbols_of.get(section, ()) if s["st_value"] == value and s.name)
        return next(where, "")

    def _legacy_maps(self) -> list[BpfMap]:
        if "maps" not in self._names:
            return []
        number = self._names.index("maps")
        symbols = {s.name: s["st_value"] for s in self._symbols_of.get(number, ()) if s.name}
        return legacy_maps(self._bytes(self._sections[number]), symbols, big_endian=self._order == ">")

    def _externs(self, btf: Btf) -> Iterator[Extern]:
        weak = {s.name for s in self._symbols if s["st_info"]["bind"] == "STB_WEAK"}
        for origin in ("kconfig", "ksyms"):
            for id_ in btf.by_name(f".{origin}", Kind.DATASEC):
                section = btf[id_]
                assert isinstance(section, Datasec)
                for variable, _, _ in section.variables:
                    match btf[variable]:
                        case Func(name=name):
                            yield Extern(name, origin, name in weak, typed=True, function=True)
                        case Var(name=name, type=type_):
                            typed = btf.resolve(type_).kind != Kind.VOID
                            yield Extern(name, origin, name in weak, typed=typed, function=False)
                        case _:
                            pass


def _reached(entry: BpfFunction, by_start: Mapping[tuple[str, int], BpfFunction]) -> tuple[BpfFunction, ...]:
    """Return the functions *entry* calls, directly or not, without itself."""
    found: dict[tuple[str, int], BpfFunction] = {}
    waiting = [call.callee for call in entry.calls]
    while waiting:
        where = waiting.pop()
        function = by_start.get(where)
        if function is None:
            raise ObjectMalformed(f"{entry.name} calls byte {where[1]} of {where[0]}, where no function starts")
        if where not in found and function is not entry:
            found[where] = function
            waiting += [call.callee for call in function.calls]
    return tuple(found[where] for where in sorted(found))
