"""What is fuzzed: a row per entry point. To add one: a row, with a function that raises only Fault.

``run`` gets hostile bytes; it returns, or raises the room's error with a place in its message. Anything else is a
finding, and so are two seconds of CPU and half a gigabyte.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import fuzz_mutations as mutations
import fuzz_seeds as seeds

from btf.archive.archive import read_btf_file
from btf.archive.kernel_image import read_kernel_image
from btf.archive.module import parse_module, read_module
from btf.archive.unpack import unpack
from btf.core.minimise import minimise
from btf.core.relocate import RelocationOutcome, relocate
from btf.drift.difference import difference
from btf.format.architecture import architecture
from btf.format.encode import encode_btf
from btf.format.kinds import Unknown
from btf.format.parse import parse_btf
from btf.format.types import Btf
from btf.objects.elf_object import read_object
from btf.objects.extension import parse_extension
from btf.objects.object import BpfObject
from fleet.cli import check_page
from fleet.compatibility.check import KernelBtf, check_object
from fleet.compatibility.check_document import document

# Where it is, or which type, section or file: enough to find it in a dump.
PLACE = re.compile(r"\b(byte|offset|type|section|symbol|function|sections|names|line) ?\(?(0x)?[\d.\w]")


class Target(NamedTuple):
    """One entry point: valid inputs to start from, how they are damaged, and what is done with them."""

    name: str
    seeds: Callable[[], Sequence[bytes]]
    mutate: mutations.Mutation
    run: Callable[[bytes], object]


@cache
def _kernel() -> Btf:
    return parse_btf(encode_btf(seeds.all_kinds()))


@cache
def _object() -> BpfObject:
    return read_object(seeds.small_object())


def look_at(btf: Btf) -> None:
    """Ask a BTF everything it can be asked."""
    for type_ in btf:
        btf.text(type_.id)
        btf.size_of(type_.id)
        btf.resolve(type_.id)
    names = {type_.name for type_ in btf}
    for name in names:
        btf.by_name(name)
        btf.flavours(name)
        btf.enum_values(name)
    _ = btf.functions(), btf.pointer_size, architecture(btf)


def _types(data: bytes) -> None:
    look_at(parse_btf(data))


def _on_base(data: bytes) -> None:
    look_at(parse_btf(data, base=_kernel()))


def _under_module(data: bytes) -> None:
    (module,) = seeds.split_seeds()
    look_at(parse_btf(module, base=parse_btf(data)))


def _round_trip(data: bytes) -> None:
    first = parse_btf(data)
    types = first[1:]
    if any(isinstance(t, Unknown) for t in types):
        return
    again = parse_btf(encode_btf(types, big_endian=first.big_endian))
    assert again[1:] == types, "written and read again, the types differ"


def _extension(data: bytes) -> None:
    parse_extension(data, parse_btf(seeds.section(seeds.small_object(), ".BTF")))


def _ask(obj: BpfObject) -> None:
    for program in obj.programs:
        obj.helpers(program)
        _ = program.instruction_count
    for row in obj.relocations[:20]:
        obj.line_at(row.section, row.insn, naming="pid")
    _ = obj.isa


def _read_object(data: bytes) -> None:
    _ask(read_object(data))


def _relocate_object(data: bytes) -> None:
    relocate(read_object(data), _kernel())


def _relocate_section(name: str) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        obj = read_object(seeds.with_section(seeds.small_object(), name, data))
        _ask(obj)
        relocate(obj, _kernel())
        relocate(obj, obj.btf or _kernel())

    return run


def _relocate_kernel(data: bytes) -> None:
    relocate(_object(), parse_btf(data))


def _minimise(data: bytes) -> None:
    target = parse_btf(data)
    small = parse_btf(minimise([_object()], target))
    before, after = relocate(_object(), target), relocate(_object(), small)
    # An object that libbpf refuses with the whole BTF needs nothing of it.
    if not any(o.fatal for o in before):
        assert [_told(o) for o in before] == [_told(o) for o in after], "relocates otherwise with the minimised BTF"


def _told(outcome: RelocationOutcome) -> tuple[str, bool, int | None]:
    return outcome.outcome, outcome.found, outcome.value


def show(obj: BpfObject, btf: Btf) -> None:
    """Check *obj* on a kernel of that BTF, and write what is said of it in every form."""
    checked = check_object("x.bpf.o", obj, KernelBtf(btf, "0" * 64, "6.1.0", architecture(btf)))
    document([checked], relocations=True)
    for line in check_page.render([check_page.row(checked, relocations=True)]):
        assert line.isprintable() and len(line) < 1000, f"not fit for a terminal: {line[:100]!r}"


def _check_object(data: bytes) -> None:
    show(read_object(data), _kernel())


def _check_kernel(data: bytes) -> None:
    show(_object(), parse_btf(data))


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))


def _read_file(data: bytes) -> None:
    path = _folder() / "section 1.btf.tar.xz"  # its name is in every message, as a place
    path.write_bytes(data)
    assert len(read_btf_file(path, limit=1 << 24)) <= 1 << 24
    assert [p.name for p in _folder().iterdir()] == [path.name], "something else was written"


def _unpack(data: bytes) -> None:
    assert len(unpack(data, limit=1 << 24)) <= 1 << 24


def _kernel_image(data: bytes) -> None:
    read = read_kernel_image(data)
    assert read.btf is not None or read.why
    for text in (read.release, read.version, read.arch, read.build_id, *read.layers):
        assert text is None or text.isprintable(), f"not fit for a terminal: {text!r}"


def _module_file(data: bytes) -> None:
    module = read_module(data, name="type_1")  # its name is in every message, as a place
    assert re.fullmatch(r"[A-Za-z0-9_]{1,64}", module.name) and (module.release or "").isprintable()
    look_at(parse_module(module, _kernel()))


def _difference(data: bytes) -> None:
    for change in difference(parse_btf(data), _kernel()):
        assert change.change in ("added", "removed", "changed")


def _section_seeds(name: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [seeds.section(seeds.small_object(), name)]


TARGETS: tuple[Target, ...] = (
    Target("types", seeds.btf_seeds, mutations.btf, _types),
    Target("round-trip", seeds.btf_seeds, mutations.btf, _round_trip),
    Target("module", seeds.split_seeds, mutations.btf, _on_base),
    Target("base-of-module", seeds.btf_seeds, mutations.btf, _under_module),
    Target("extension", _section_seeds(".BTF.ext"), mutations.extension, _extension),
    Target("object", seeds.object_seeds, mutations.elf, _read_object),
    Target("relocate-object", seeds.object_seeds, mutations.elf, _relocate_object),
    Target("relocate-local-types", _section_seeds(".BTF"), mutations.btf, _relocate_section(".BTF")),
    Target("relocate-extension", _section_seeds(".BTF.ext"), mutations.extension, _relocate_section(".BTF.ext")),
    Target("relocate-kernel", seeds.btf_seeds, mutations.btf, _relocate_kernel),
    Target("minimise", seeds.btf_seeds, mutations.btf, _minimise),
    Target("check-object", seeds.object_seeds, mutations.elf, _check_object),
    Target("check-kernel", seeds.btf_seeds, mutations.btf, _check_kernel),
    Target("file", seeds.file_seeds, mutations.file, _read_file),
    Target("packed", seeds.packed_seeds, mutations.any_bytes, _unpack),
    Target("module-file", seeds.module_seeds, mutations.file, _module_file),
    Target("difference", seeds.btf_seeds, mutations.btf, _difference),
    Target("kernel-image", seeds.image_seeds, mutations.image, _kernel_image),
)
