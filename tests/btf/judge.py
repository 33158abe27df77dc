"""Our relocation beside libbpf's: every relocation of every object, outcome and value, instruction and candidates.

libbpf stops at the first relocation it refuses. That one is then taken out of the object and both are asked again, so
that those behind it are compared, too.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from libbpf_truth import Told, Truth, ask_libbpf_of

from btf.core.relocate import RelocationOutcome, matched_paths, relocated
from btf.elf import Elf
from btf.format.encode import encode_btf
from btf.format.kinds import Const, Unknown
from btf.format.types import Btf
from btf.objects.elf_object import BpfObject, read_object
from btf.objects.extension import CoreRelocation, RelocationKind
from btf.objects.insn import ALU, ALU64, CLASS_MASK, LDX, SIZE, SOURCE_REGISTER, ST, STX
from btf.objects.sections import section_meaning


@dataclass
class Tally:
    """What was compared so far; printed at the end of the tests."""

    what: str
    relocations: int = 0
    objects: set[str] = field(default_factory=set)
    kernels: set[str] = field(default_factory=set)
    outcomes: dict[str, int] = field(default_factory=dict)
    differences: int = 0

    def summary(self) -> str:
        """Return it in a line."""
        outcomes = ", ".join(f"{count} {word}" for word, count in sorted(self.outcomes.items()))
        return (
            f"relocations compared: {self.relocations} over {len(self.objects)} {self.what} × {len(self.kernels)} "
            f"kernels, {self.differences} differences ({outcomes})"
        )


@dataclass
class BpftoolTally:
    """What was compared with bpftool."""

    types: int = 0
    kernels: set[str] = field(default_factory=set)
    minimised: int = 0
    ours: int = 0  # bytes of all that was minimised
    theirs: int = 0

    def summary(self) -> Iterator[str]:
        """Return it in lines."""
        if self.types:
            yield f"types dumped by bpftool: {self.types} of {len(self.kernels)} kernels, 0 differences"
        if self.minimised:
            yield (
                f"BTF minimised for one object and one kernel: {self.minimised}, in all {self.ours} bytes, by bpftool "
                f"{self.theirs}; libbpf relocates the same with it"
            )


BPFTOOL = BpftoolTally()
REWRITTEN: list[str] = []  # kernels whose BTF the judge cannot read, so that it got what we read of it, written anew
REAL, TORTURE, INVENTED = Tally("real objects"), Tally("torture objects"), Tally("invented objects")


def compare(
    objects: Mapping[str, Path],
    kernel: str,
    btf: Path,
    target: Btf,
    tally: Tally,
    modules: Mapping[Path, Btf] | None = None,
) -> list[str]:
    """Compare what both make of every relocation of *objects* against *btf*, which *target* is; return differences.

    *modules* is the kernel's modules in both forms.
    """
    whole = _Kernel(kernel, btf, target, modules or {})
    differences: list[str] = []
    read = {name: _read(path.read_bytes()) for name, path in objects.items()}
    for everything in (False, True):
        # Programs marked optional are passed over at first, as by default, then loaded with the others and compared.
        asked = {name: obj for name, obj in read.items() if not everything or _has_optional(obj)}
        paths = [objects[name] for name in asked]
        truths = whole.ask(paths, everything=everything) if paths else []
        assert len(truths) == len(asked), (kernel, len(truths), list(asked)[len(truths) :])
        for (name, obj), truth in zip(asked.items(), truths, strict=True):
            for place, ours, theirs, told in _pairs(objects[name], obj, truth, whole, everything=everything):
                if told:
                    tally.relocations += 1
                    tally.outcomes[told.outcome] = tally.outcomes.get(told.outcome, 0) + 1
                if ours != theirs:
                    words = "; ".join(told.words) if told else ""
                    differences.append(f"{name} on {kernel}: {place}: ours {ours}, libbpf's {theirs}: {words}")
    tally.objects |= set(objects)
    tally.kernels.add(kernel)
    tally.differences += len(differences)
    return differences


@functools.lru_cache(256)
def _read(data: bytes) -> BpfObject:
    return read_object(data)


def _has_optional(obj: BpfObject) -> bool:
    return any(section_meaning(row.section).optional for row in obj.relocations)


@dataclass
class _Kernel:
    """A kernel as libbpf reads it and as we do."""

    name: str
    btf: Path
    target: Btf
    modules: Mapping[Path, Btf]

    def ask(self, paths: Sequence[Path], *, everything: bool) -> list[Truth]:
        truths = ask_libbpf_of(paths, self.btf, everything=everything, code=True, modules=list(self.modules))
        if self.name not in REWRITTEN and any("failed to parse target BTF" in line for t in truths for line in t.log):
            # Newer than this libbpf: it gets the same types, without the kinds it does not know.
            REWRITTEN.append(self.name)
            older = (Const(0, "", 0) if isinstance(type_, Unknown) else type_ for type_ in self.target[1:])
            self.btf.write_bytes(encode_btf(older, big_endian=self.target.big_endian))
            return self.ask(paths, everything=everything)
        return truths

    def relocated(self, obj: BpfObject) -> tuple[tuple[RelocationOutcome, ...], Mapping]:
        return relocated(obj, self.target, modules={path.name: btf for path, btf in self.modules.items()})


def _pairs(
    path: Path, obj: BpfObject, truth: Truth, kernel: _Kernel, *, everything: bool
) -> Iterator[tuple[str, object, object, Told | None]]:
    """Yield (where, ours, theirs, libbpf's words) of each relocation, then of each instruction and all candidates."""
    data, done = path.read_bytes(), 0
    while True:
        results, patches = kernel.relocated(obj)
        rows = [
            (number, row) for number, row in enumerate(results)
            if everything or not section_meaning(row.section).optional
        ]  # fmt: skip
        for (_, ours), told in list(zip(rows, truth.relocations, strict=False))[done:]:
            if everything and not section_meaning(ours.section).optional:
                continue  # ours says what becomes of it when the optional ones are not loaded
            told.kind = told.kind or ours.kind  # not told when libbpf cannot make out what is named
            yield f"{ours.program} {ours.local}", _ours(obj, ours), _theirs(told), told
        refused = next((i for i, told in enumerate(truth.relocations) if told.outcome in ("ambiguous", "failed")), None)
        if refused is None:
            assert not truth.crashed, (path, truth.log[-1:])
            assert len(truth.relocations) == len(rows), (path, len(truth.relocations), len(rows), truth.log[-5:])
            told_of = [row for _, row in rows if section_meaning(row.section).optional == everything]
            yield from _code(obj, told_of, patches, truth)
            if not _has_optional(obj) and not kernel.modules:
                yield _candidates(obj, kernel.target, truth)
            return
        done = refused + 1
        if done == len(rows):
            return
        data = without(data, rows[refused][0])
        parked = kernel.btf.parent / "parked.o"
        parked.write_bytes(data)
        obj, truth = read_object(data), kernel.ask([parked], everything=everything)[0]


def _ours(obj: BpfObject, row: RelocationOutcome) -> tuple[object, ...]:
    function = obj.function_at(row.section, row.insn)
    at = (row.insn - function.start) // SIZE if function and not row.fatal else None
    return row.program, row.kind, at, row.outcome, row.value


def _theirs(told: Told) -> tuple[object, ...]:
    return told.program, told.kind, told.insn, told.outcome, told.value


def _code(obj: BpfObject, rows: list, patches: Mapping, truth: Truth) -> Iterator[tuple[str, object, object, None]]:
    for row in rows:
        function = obj.function_at(row.section, row.insn)
        theirs = truth.instructions.get(function.name)
        if theirs is None or row.section == ".text":  # a subprogram's code is told by libbpf's words alone
            continue
        at = (row.insn - function.start) // SIZE
        for slot, ours in enumerate(patches.get((row.section, row.insn), ()), at):
            yield f"instruction {slot} of {row.program}", ours, theirs[slot], None


def _candidates(obj: BpfObject, target: Btf, truth: Truth) -> tuple[str, object, object, None]:
    ours = sorted(found.root for _, found in matched_paths(obj, target))
    theirs = sorted(id_ for told in truth.relocations for id_ in told.candidates)
    return "candidates", ours, theirs, None


def without(data: bytes, number: int) -> bytes:
    """Return the object with its CO-RE relocation *number* made harmless: another instruction asks for a local id."""
    obj = read_object(data)
    row = obj.relocations[number]
    free = _free_instruction(obj, row)
    at = _record(data, number)
    order = ">" if obj.big_endian else "<"
    access = _string_zero(data)
    return data[:at] + struct.pack(f"{order}4I", free, 1, access, RelocationKind.LOCAL_TYPE_ID) + data[at + 16 :]


def _free_instruction(obj: BpfObject, row: CoreRelocation) -> int:
    """Return an instruction that takes any value; the relocation's own at last, as it may be what is refused."""
    taken = {other.insn for other in obj.relocations if other.section == row.section}
    slots = {
        function.start + SIZE * index: insn
        for function in obj.functions if function.section == row.section
        for index, insn in enumerate(function.instructions)
    }  # fmt: skip
    for at in (*(at for at in slots if at not in taken), row.insn):
        insn = slots.get(at)
        cls = insn.code & CLASS_MASK if insn else None
        if insn and (cls in (LDX, ST, STX) or (cls in (ALU, ALU64) and not insn.code & SOURCE_REGISTER)):
            return at
    raise LookupError(f"{row.section} has no instruction to park a relocation at")


def _record(data: bytes, number: int) -> int:
    """Return where CO-RE record *number* lies in the object file."""
    start, order = _section(data, ".BTF.ext")
    (header,) = struct.unpack_from(f"{order}I", data, start + 4)
    offset, length = struct.unpack_from(f"{order}II", data, start + 24)
    at = start + header + offset
    end = at + length
    (size,) = struct.unpack_from(f"{order}I", data, at)
    at += 4
    while at < end:
        (count,) = struct.unpack_from(f"{order}I", data, at + 4)
        at += 8
        if number < count:
            return at + number * size
        number -= count
        at += count * size
    raise LookupError(number)


def _string_zero(data: bytes) -> int:
    """Return the offset of a string "0" in the object's BTF: the end of any access string will do."""
    start, order = _section(data, ".BTF")
    header, _, _, offset, length = struct.unpack_from(f"{order}5I", data, start + 4)
    start += header + offset
    return data.index(b"0\0", start, start + length) - start


def _section(data: bytes, name: str) -> tuple[int, str]:
    elf = Elf(data)
    section = elf.named(name)
    assert section is not None
    return section.offset, ">" if elf.big_endian else "<"
