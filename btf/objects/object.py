"""A compiled BPF object as values: programs, functions, maps, externs, relocations. Whether a kernel can run it is
decided elsewhere."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, TypeVar, cast

from btf.format.types import Btf
from btf.objects.extension import CoreRelocation, FuncInfo, LineInfo
from btf.objects.insn import SIZE, Insn, heads, isa_level
from btf.objects.maps import BpfMap
from btf.objects.sections import SectionMeaning
from btf.objects.struct_ops import StructOps
from btf.objects.uapi import HELPERS, name_of

_T = TypeVar("_T")


class Call(NamedTuple):
    """The instruction at byte ``insn`` calls, or takes the address of, the function at ``callee``: (section, start)."""

    insn: int
    callee: tuple[str, int]


class Reference(NamedTuple):
    """The instruction at byte ``insn`` names byte ``offset`` of a section, or a symbol of the kernel."""

    insn: int
    section: str  # empty for a symbol of the kernel
    offset: int
    name: str = ""  # the symbol's, where it has one


class Variable(NamedTuple):
    """A variable at byte ``offset`` of its section, of ``size`` bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class DataSection:
    """A non-empty section of global data, which becomes a map; ``contents`` are empty when it starts as zeros."""

    name: str
    size: int
    contents: bytes = field(default=b"", repr=False)
    variables: tuple[Variable, ...] = ()  # by offset

    @property
    def constant(self) -> bool:
        """Whether the loader makes it read-only and freezes it before it loads programs."""
        return self.name == ".rodata" or self.name.startswith(".rodata.")


@dataclass(frozen=True, slots=True)
class BpfFunction:
    """A function: ``start`` is its byte offset in ``section``."""

    name: str
    section: str
    start: int
    instructions: tuple[Insn, ...]
    calls: tuple[Call, ...] = ()
    externs: tuple[str, ...] = ()  # kernel symbols that its instructions name
    maps: tuple[str, ...] = ()  # maps that its instructions name
    references: tuple[Reference, ...] = ()  # where its instructions name data, maps and kernel symbols
    is_global: bool = False  # looked at by the verifier by itself, knowing nothing of its callers

    @property
    def end(self) -> int:
        """One past its last byte."""
        return self.start + SIZE * len(self.instructions)

    def holds(self, section: str, insn: int) -> bool:
        """Whether byte *insn* of *section* is in it."""
        return section == self.section and self.start <= insn < self.end


@dataclass(frozen=True, slots=True)
class BpfProgram:
    """A program a loader may load: its entry function, what its section says, and the functions it reaches."""

    function: BpfFunction
    meaning: SectionMeaning
    subprograms: tuple[BpfFunction, ...] = ()  # everything it calls, directly or not, by section and start
    exception_callback: BpfFunction | None = None  # of its subprograms, what the kernel calls when it throws

    @property
    def name(self) -> str:
        """The entry function's name."""
        return self.function.name

    @property
    def section(self) -> str:
        """The ELF section's name, with its ``?`` when optional."""
        return self.function.section

    @property
    def program_type(self) -> str:
        """The kernel's name of its type, ``unspec`` when its section does not say."""
        return self.meaning.program_type

    @property
    def attach_type(self) -> str:
        """The kernel's name of its expected attach type, empty when it has none."""
        return self.meaning.attach_type

    @property
    def attach_target(self) -> str:
        """What it attaches to, as written in the section's name."""
        return self.meaning.target

    @property
    def optional(self) -> bool:
        """Whether the loader leaves it out unless asked."""
        return self.meaning.optional

    @property
    def instructions(self) -> tuple[Insn, ...]:
        """The entry function's instructions."""
        return self.function.instructions

    @property
    def functions(self) -> tuple[BpfFunction, ...]:
        """The entry function, then its subprograms."""
        return (self.function, *self.subprograms)

    @property
    def instruction_count(self) -> int:
        """How many instructions the kernel is given: all functions together."""
        return sum(len(f.instructions) for f in self.functions)


@dataclass(frozen=True, slots=True)
class Extern:
    """A symbol the loader must find: ``origin`` is ``kconfig`` or ``ksyms``; ``typed`` ones are found in kernel BTF."""

    name: str
    origin: str
    weak: bool
    typed: bool
    function: bool
    type: int = 0  # in the object's BTF: of the variable, or the function's prototype


@dataclass(frozen=True)
class BpfObject:
    """All that an object says. What is worked out from it once stays with it, hence no slots."""

    sha256: str
    big_endian: bool
    license: str
    functions: tuple[BpfFunction, ...]
    programs: tuple[BpfProgram, ...]
    maps: tuple[BpfMap, ...]
    data: tuple[DataSection, ...]
    externs: tuple[Extern, ...]
    btf: Btf | None
    function_info: tuple[FuncInfo, ...]
    lines: tuple[LineInfo, ...]
    relocations: tuple[CoreRelocation, ...]
    by_start: Mapping[tuple[str, int], BpfFunction] = field(repr=False, default_factory=dict)
    struct_ops: tuple[StructOps, ...] = ()
    section_names: tuple[str, ...] = ()  # of every section of the file that is not empty

    def remember(self, key: Hashable, work_out: Callable[[], _T]) -> _T:
        """Return what *work_out* returned when first asked for *key*: for what others learn of this object alone."""
        if key not in self._remembered:
            self._remembered[key] = work_out()
        return cast(_T, self._remembered[key])

    @cached_property
    def _remembered(self) -> dict[Hashable, object]:
        return {}

    @property
    def data_sections(self) -> tuple[str, ...]:
        """The names of its sections of global data."""
        return tuple(section.name for section in self.data)

    @property
    def isa(self) -> str:
        """The lowest instruction set that has all its instructions: ``v1`` to ``v4``."""
        levels = (isa_level(insn) for f in self.functions for _, insn in heads(f.instructions))
        return f"v{max(levels, default=1)}"

    def helpers(self, program: BpfProgram) -> frozenset[str]:
        """Return the names of the helpers that *program* and its subprograms call; a number where no name is known."""
        return frozenset(
            name_of(insn.imm, HELPERS) for f in program.functions for _, insn in heads(f.instructions) if insn.is_call
        )

    def kernel_symbols(self, program: BpfProgram) -> tuple[Extern, ...]:
        """Return the kernel symbols that *program* and its subprograms name."""
        return tuple(
            e for e in self.externs if e.origin == "ksyms" and any(e.name in f.externs for f in program.functions)
        )

    def function_at(self, section: str, insn: int) -> BpfFunction | None:
        """Return the function that has the byte *insn* of *section*."""
        # Functions are in the order of section and start.
        at = bisect_right(self.functions, (section, insn), key=lambda f: (f.section, f.start))
        found = self.functions[at - 1] if at else None
        return found if found and found.holds(section, insn) else None

    def line_at(self, section: str, insn: int, *, naming: str = "") -> LineInfo | None:
        """Return the source line of the instruction at byte *insn* of *section*, when the object says.

        The compiler moves the instructions of an access about: of the lines around, one that has the word *naming* is
        the better answer.
        """
        function = self.function_at(section, insn)
        if function is None:
            return None
        lines = self.remember("lines", self._lines_by_function).get((function.section, function.start), [])
        here = bisect_right(lines, insn, key=lambda row: row.insn) - 1
        if here < 0:
            return None
        around = [lines[here], *lines[here + 1 : here + 4], *reversed(lines[max(here - 3, 0) : here])]
        word = re.compile(rf"\b{re.escape(naming)}\b") if naming else None
        return next((row for row in around if word and word.search(row.text)), lines[here])

    def _lines_by_function(self) -> dict[tuple[str, int], list[LineInfo]]:
        """Return the lines of each function, by its section and start, in the order of their instructions."""
        found: dict[tuple[str, int], list[LineInfo]] = {}
        for row in self.lines:
            if (function := self.function_at(row.section, row.insn)) is not None:
                found.setdefault((function.section, function.start), []).append(row)
        for rows in found.values():
            rows.sort(key=lambda row: row.insn)
        return found
