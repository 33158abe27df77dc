"""Bytes of a compiled BPF object in, :class:`btf.objects.object.BpfObject` out, the same wherever it is read.

The bytes may come from anybody: every trouble is ObjectMalformed, and nothing is unpacked to an unbounded size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from btf.elf import (
    EM_BPF,
    SHF_EXECINSTR,
    SHN_LORESERVE,
    SHN_UNDEF,
    SHT_PROGBITS,
    SHT_REL,
    SHT_RELA,
    STB_LOCAL,
    STB_WEAK,
    STT_FUNC,
    STT_OBJECT,
    STV_DEFAULT,
    Elf,
    ElfMalformed,
    Symbol,
)
from btf.fault import EXIT_USAGE, Fault
from btf.format.kinds import Datasec, DeclTag, Func, Kind, Var
from btf.format.parse import BtfMalformed, parse_btf
from btf.format.types import Btf
from btf.objects.extension import Extension, parse_extension
from btf.objects.insn import CALL, LD_IMM64, PSEUDO_CALL, SIZE, decode_insns, heads
from btf.objects.maps import BpfMap, btf_maps, legacy_maps
from btf.objects.object import BpfFunction, BpfObject, BpfProgram, Call, DataSection, Extern, Reference, Variable
from btf.objects.sections import section_meaning
from btf.objects.struct_ops import SECTIONS as STRUCT_OPS_SECTIONS
from btf.objects.struct_ops import StructOps, struct_ops

__all__ = ["BpfFunction", "BpfMap", "BpfObject", "BpfProgram", "Extern", "ObjectMalformed", "read_object"]

MAX_OBJECT = 16 * 1024 * 1024
_MAX_THINGS = 4096  # programs, maps, externs: what is asked of them is asked for each pair
_MAX_INSTRUCTIONS = 1 << 23  # of all programs with what they call; a kernel takes 1 << 20 of one program
_DATA = (".data", ".rodata", ".bss")
_EXCEPTION_CALLBACK = "exception_callback:"  # a declaration tag on the program that throws


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
        elf = Elf(data)
        if elf.machine != EM_BPF:
            raise ObjectMalformed(f"an ELF file for machine {elf.machine}, not for BPF ({EM_BPF}), says byte 18")
        obj = _Reader(elf, data).read()
    except (BtfMalformed, ElfMalformed) as error:
        raise ObjectMalformed(error.message) from None
    for things, word in ((obj.programs, "programs"), (obj.maps, "maps"), (obj.externs, "externs")):
        if len(things) > _MAX_THINGS:
            raise ObjectMalformed(f"its sections hold {len(things)} {word}, more than {_MAX_THINGS}")
    return obj


class _Reader:
    """Walks one ELF file; exists while it is read."""

    def __init__(self, elf: Elf, data: bytes) -> None:
        self._elf, self._data = elf, data
        self._sections = elf.sections
        self._symbols = elf.symbols()
        self._symbols_of: dict[int, list[Symbol]] = {}
        self._name_at: dict[tuple[int, int], str] = {}
        for symbol in self._symbols:
            self._symbols_of.setdefault(symbol.section, []).append(symbol)
            if symbol.name:
                self._name_at.setdefault((symbol.section, symbol.value), symbol.name)

    def _named(self, name: str) -> bytes:
        return self._elf.bytes_of(self._elf.named(name))

    def read(self) -> BpfObject:
        raw_btf, raw_extension = self._named(".BTF"), self._named(".BTF.ext")
        btf = parse_btf(raw_btf, pointer_size=8) if raw_btf else None
        extension = parse_extension(raw_extension, btf) if raw_extension and btf else Extension()
        described = {(row.section, row.insn) for row in extension.functions}
        functions = sorted(self._functions(described), key=lambda f: (f.section, f.start))
        for one, following in pairwise(functions):
            # Two names of one function are fine.
            apart = following.section != one.section or following.start >= one.end
            if not apart and (following.start, following.instructions) != (one.start, one.instructions):
                where = f"at byte {following.start} of section {one.section}"
                raise ObjectMalformed(f"functions {one.name} and {following.name} overlap {where}")
        by_start = {(f.section, f.start): f for f in functions}
        calls = _Calls(by_start)
        return BpfObject(
            sha256=hashlib.sha256(self._data).hexdigest(),
            big_endian=self._elf.big_endian,
            license=self._named("license").split(b"\0")[0].decode("utf-8", "replace"),
            functions=tuple(functions),
            programs=tuple(self._programs(functions, calls, _exception_callbacks(btf) if btf else {})),
            maps=tuple((btf_maps(btf) if btf else []) + self._legacy_maps()),
            data=tuple(self._data_sections()),
            externs=tuple(self._externs(btf)) if btf else (),
            btf=btf,
            function_info=extension.functions,
            lines=extension.lines,
            relocations=extension.relocations,
            by_start=by_start,
            struct_ops=tuple(self._struct_ops(btf)) if btf else (),
            section_names=tuple(s.name for s in self._sections if s.size),
        )

    def _programs(
        self, functions: Sequence[BpfFunction], calls: _Calls, callbacks: Mapping[str, str]
    ) -> Iterator[BpfProgram]:
        by_name = {f.name: f for f in reversed(functions)}
        for function in functions:
            if function.section != ".text":
                callback = by_name.get(callbacks.get(function.name) or "")
                roots = (function, callback) if callback else (function,)
                yield BpfProgram(function, section_meaning(function.section), calls.reached(*roots), callback)

    def _struct_ops(self, btf: Btf) -> Iterator[StructOps]:
        targets = self._targets()
        for section in self._sections:
            if section.name in STRUCT_OPS_SECTIONS:
                places = {s.name: s.value for s in self._symbols_of.get(section.number, ()) if s.name}
                functions = {at: symbol.name for at, symbol in targets.get(section.number, {}).items()}
                yield from struct_ops(btf, section.name, places, functions)

    def _data_sections(self) -> Iterator[DataSection]:
        for section in self._sections:
            if section.size and any(section.name == d or section.name.startswith(f"{d}.") for d in _DATA):
                symbols = self._symbols_of.get(section.number, ())
                variables = (Variable(s.name, s.value, s.size) for s in symbols if s.type == STT_OBJECT and s.name)
                yield DataSection(
                    section.name,
                    section.size,
                    self._elf.bytes_of(section),
                    tuple(sorted(variables, key=lambda v: (v.offset, v.name))),
                )

    def _functions(self, described: Container[tuple[str, int]]) -> Iterator[BpfFunction]:
        targets = self._targets()
        left = len(self._data)
        for section in self._sections:
            if section.type != SHT_PROGBITS or not section.flags & SHF_EXECINSTR:
                continue
            code = self._elf.bytes_of(section)
            for symbol in self._symbols_of.get(section.number, ()):
                if symbol.type != STT_FUNC:
                    continue
                start, size = symbol.value, symbol.size
                if start % SIZE or size % SIZE or not size or start + size > len(code):
                    where = f"its section {section.name} at byte {section.offset}"
                    raise ObjectMalformed(f"function {symbol.name} does not lie in {where}")
                left -= size
                if left < 0:
                    raise ObjectMalformed(f"the functions of section {section.name} overlap at byte {start}")
                insns = decode_insns(code[start : start + size], big_endian=self._elf.big_endian)
                # Without a description of it the kernel takes every function for a static one.
                is_global = (
                    symbol.bind != STB_LOCAL and symbol.visibility == STV_DEFAULT and (section.name, start) in described
                )
                function = BpfFunction(symbol.name, section.name, start, insns, is_global=is_global)
                yield self._named_by(function, targets.get(section.number, {}))

    def _targets(self) -> dict[int, dict[int, Symbol]]:
        """Return, by section number, instruction byte offset → symbol."""
        found: dict[int, dict[int, Symbol]] = {}
        for section in self._sections:
            if section.type in (SHT_REL, SHT_RELA):
                rows = found.setdefault(section.info, {})
                for at, number in self._elf.relocations(section):
                    if number >= len(self._symbols):
                        raise ObjectMalformed(
                            f"section {section.name} at byte {section.offset}: "
                            f"the relocation of byte {at} names symbol {number} of only {len(self._symbols)}"
                        )
                    rows[at] = self._symbols[number]
        return found

    def _named_by(self, function: BpfFunction, targets: Mapping[int, Symbol]) -> BpfFunction:
        """Return *function* with what its instructions name: functions and maps of this object, kernel symbols."""
        found: list[Call] = []
        externs: dict[str, None] = {}
        maps: dict[str, None] = {}
        references: list[Reference] = []
        for index, insn in heads(function.instructions):
            at = function.start + SIZE * index
            calls = insn.code == CALL and insn.src == PSEUDO_CALL
            if at not in targets:
                if calls:
                    found.append(Call(at, (function.section, at + SIZE * (insn.imm + 1))))
                continue
            symbol = targets[at]
            home, value = symbol.section, symbol.value
            if home == SHN_UNDEF:
                externs[symbol.name] = None
                references.append(Reference(at, "", 0, symbol.name))
            elif home >= SHN_LORESERVE:
                continue
            elif home >= len(self._sections):
                raise ObjectMalformed(f"symbol {symbol.name} is in section {home} of only {len(self._sections)}")
            elif self._sections[home].name in (".maps", "maps"):
                references.append(Reference(at, self._sections[home].name, value + insn.imm, symbol.name))
                maps[self._name_at.get((home, value if symbol.name else value + insn.imm), "")] = None
            elif self._sections[home].flags & SHF_EXECINSTR:
                # A call counts from the instruction behind it; an address is in bytes.
                if calls:
                    found.append(Call(at, (self._sections[home].name, value + SIZE * (insn.imm + 1))))
                elif insn.code == LD_IMM64:
                    found.append(Call(at, (self._sections[home].name, value + insn.imm)))
            elif insn.code == LD_IMM64:
                references.append(Reference(at, self._sections[home].name, value + insn.imm, symbol.name))
        return replace(
            function, calls=tuple(found), externs=tuple(externs), maps=tuple(maps), references=tuple(references)
        )

    def _legacy_maps(self) -> list[BpfMap]:
        section = self._elf.named("maps")
        if section is None:
            return []
        symbols = {s.name: s.value for s in self._symbols_of.get(section.number, ()) if s.name}
        return legacy_maps(self._elf.bytes_of(section), symbols, big_endian=self._elf.big_endian)

    def _externs(self, btf: Btf) -> Iterator[Extern]:
        weak = {s.name for s in self._symbols if s.bind == STB_WEAK}
        for origin in ("kconfig", "ksyms"):
            for id_ in btf.by_name(f".{origin}", Kind.DATASEC):
                section = btf[id_]
                assert isinstance(section, Datasec)
                for variable, _, _ in section.variables:
                    match btf[variable]:
                        case Func(name=name, type=type_):
                            yield Extern(name, origin, name in weak, typed=True, function=True, type=type_)
                        case Var(name=name, type=type_):
                            typed = btf.resolve(type_).kind != Kind.VOID
                            yield Extern(name, origin, name in weak, typed=typed, function=False, type=type_)
                        case _:
                            pass


def _exception_callbacks(btf: Btf) -> dict[str, str]:
    """Return which function the kernel calls when another throws: libbpf adds it, though nothing calls it."""
    found = {}
    for id_ in btf.ids_of(Kind.DECL_TAG):
        tag = btf[id_]
        if isinstance(tag, DeclTag) and tag.name.startswith(_EXCEPTION_CALLBACK):
            found[btf[tag.type].name] = tag.name.removeprefix(_EXCEPTION_CALLBACK)
    return found


class _Calls:
    """Who calls whom in one object, counted: many programs that share many callees would take the product of both."""

    def __init__(self, by_start: Mapping[tuple[str, int], BpfFunction]) -> None:
        self._by_start = by_start
        self._left = _MAX_INSTRUCTIONS

    def reached(self, entry: BpfFunction, *more: BpfFunction) -> tuple[BpfFunction, ...]:
        """Return the functions *entry* calls, directly or not, without itself; and *more* with what they call."""
        found: dict[tuple[str, int], BpfFunction] = {}
        self._count(entry)
        waiting = [call.callee for call in entry.calls] + [(f.section, f.start) for f in more]
        while waiting:
            where = waiting.pop()
            function = self._by_start.get(where)
            if function is None:
                raise ObjectMalformed(f"{entry.name} calls byte {where[1]} of {where[0]}, where no function starts")
            if where not in found and function is not entry:
                self._count(function)
                found[where] = function
                waiting += [call.callee for call in function.calls]
        return tuple(found[where] for where in sorted(found))

    def _count(self, function: BpfFunction) -> None:
        self._left -= len(function.instructions)
        if self._left < 0:
            where = f"{function.name} at byte {function.start} of {function.section}"
            raise ObjectMalformed(f"{_MAX_INSTRUCTIONS} instructions in all programs are passed with {where}")
