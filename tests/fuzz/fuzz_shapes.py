"""Inputs built to be costly: one row per shape that would be quadratic, exponential or a bomb for a naive reader.

A row's function builds its input, asks what the shape is about, and returns; a Fault is as good. What it may cost is
the test's business.
"""

from __future__ import annotations

import lzma
import struct
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import fuzz_seeds as seeds
import kernel_images as images
from fuzz_targets import show

from btf.archive.archive import read_btf_file
from btf.archive.kernel_image import read_kernel_image
from btf.core.minimise import minimise
from btf.core.relocate import relocate
from btf.elf import SHF_EXECINSTR, SHT_PROGBITS, SHT_SYMTAB
from btf.fault import Fault
from btf.format.architecture import architecture
from btf.format.encode import encode_btf
from btf.format.kinds import (
    Array,
    BtfType,
    Datasec,
    Enum,
    Func,
    FuncProto,
    Int,
    Kind,
    Member,
    Ptr,
    Struct,
    Typedef,
    Var,
)
from btf.format.parse import parse_btf
from btf.objects.elf_object import read_object
from btf.objects.extension import RelocationKind

MB = 1 << 20
INT = Int(1, "int", 4, 1, 0, 32)
_EXIT = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)


def raw_btf(types: bytes, strings: bytes) -> bytes:
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings


def records(kind: int, names: Iterable[int], third: int = 1) -> bytes:
    """Three-word records of one kind, one per name offset."""
    return b"".join(struct.pack("<III", name, kind << 24, third) for name in names)


def extension(
    rows: list[tuple[int, int, int, int]], section: int, lines: list[tuple[int, int, int, int]] = ()
) -> bytes:  # type: ignore[assignment]  # none is none
    """``.BTF.ext`` with relocations (byte, type, access, kind) and lines (byte, file, text, where) of one section."""
    tables = []
    for table in (lines, rows):
        body = b"".join(struct.pack("<4I", *row) for row in table)
        tables.append(struct.pack("<III", 16, section, len(table)) + body if table else b"")
    line, core = tables
    head = struct.pack("<HBBI6I", 0xEB9F, 1, 0, 32, 0, 0, 0, len(line), len(line), len(core))
    return head + line + core


def bpf_object(
    code: bytes, functions: list[tuple[str, int, int]], btf: bytes = b"", ext: bytes = b"", section: str = "xdp"
) -> bytes:
    """An object with one code section and these functions in it: (name, start, size)."""
    strings = bytearray(b"\0")
    symbols = bytearray(24)
    for name, start, size in functions:
        symbols += struct.pack("<IBBHQQ", len(strings), 0x12, 0, 1, start, size)
        strings += name.encode() + b"\0"
    content = {section: code, ".symtab": bytes(symbols), ".strtab": bytes(strings), ".BTF": btf, ".BTF.ext": ext}
    data = bytearray(images.elf(content, machine=247))
    (table,) = struct.unpack_from("<Q", data, 40)
    struct.pack_into("<IQ", data, table + 64 + 4, SHT_PROGBITS, SHF_EXECINSTR)
    struct.pack_into("<I", data, table + 2 * 64 + 4, SHT_SYMTAB)
    struct.pack_into("<I", data, table + 2 * 64 + 40, 3)
    struct.pack_into("<Q", data, table + 2 * 64 + 56, 24)
    return bytes(data)


def asking(types: list[BtfType], asked: list[tuple[int, str, RelocationKind]]) -> bytes:
    """An object with these types whose only program asks (type, access, kind), each by one instruction."""
    btf = encode_btf(types)
    strings = bytearray(btf[24 + struct.unpack_from("<I", btf, 12)[0] :])
    offsets: dict[str, int] = {}
    for text in ("xdp", *(access for _, access, _ in asked)):
        if text not in offsets:
            offsets[text] = len(strings)
            strings += text.encode() + b"\0"
    body = btf[24 : 24 + struct.unpack_from("<I", btf, 12)[0]]
    rows = [(8 * n, type_, offsets[access], int(kind)) for n, (type_, access, kind) in enumerate(asked)]
    code = struct.pack("<BBhi", 0xB7, 1, 0, 0) * len(asked) + _EXIT
    return bpf_object(code, [("p", 0, len(code))], raw_btf(body, bytes(strings)), extension(rows, offsets["xdp"]))


# -- BTF ---------------------------------------------------------------------------------------------------------------


def _most_types() -> None:
    btf = parse_btf(raw_btf(records(Kind.PTR, [0], 0) * (27 * MB // 12), b"\0"))
    btf.by_name("task_struct")
    for _ in btf:
        pass


def _overlapping_names() -> None:
    """Every type is called by what is left of one long string: as many bytes of names as the square of the types."""
    count = 500_000
    btf = parse_btf(raw_btf(records(Kind.TYPEDEF, range(1, count)), b"\0" + b"a" * count + b"\0"))
    btf.by_name("a")
    for _ in btf:
        pass


def _long_flavours() -> None:
    """A million types of one name of a megabyte, which has a flavour."""
    name = b"_" * MB + b"a___b"
    btf = parse_btf(raw_btf(records(Kind.TYPEDEF, [1]) * 1_000_000, b"\0" + name + b"\0"))
    btf.flavours(name[:-4].decode())


def _many_strings() -> None:
    strings = b"\0" + b"".join(b"%x\0" % n for n in range(2_000_000))
    btf = parse_btf(raw_btf(records(Kind.TYPEDEF, [1, 3, 5]), strings))
    for n in range(3000):
        btf.by_name(f"x{n}")
        btf.flavours(f"{n:x}")


def _many_marks() -> None:
    """Flavours wherever one looks, none of which is the name of a type."""
    btf = parse_btf(raw_btf(records(Kind.TYPEDEF, [1, 2, 3]), b"\0" + b"a___" * 4_000_000 + b"\0"))
    for n in range(2000):
        btf.flavours("a" if n == 7 else f"a{n}")
        btf.flavours("a___" * (n % 50) + "a")


def _names_inside_names() -> None:
    strings = b"\0" + b"".join(b"name_%x\0" % n for n in range(1_000_000))
    btf = parse_btf(raw_btf(records(Kind.TYPEDEF, range(1, 200_000)), strings))
    for n in range(5000):
        btf.by_name(f"ame_{n:x}")
        btf.flavours(f"me_{n:x}")


def _chain_of_typedefs() -> None:
    count = 500_000
    body = b"".join(struct.pack("<III", 1, Kind.TYPEDEF << 24, n + 1) for n in range(1, count))
    btf = parse_btf(raw_btf(body + struct.pack("<IIII", 1, Kind.INT << 24, 4, 32), b"\0a\0"))
    for id_ in range(1, len(btf), 50):
        btf.resolve(id_)


def _registers_in_registers() -> None:
    """``pt_regs`` has no member but a hundred thousand anonymous ones of its own type."""
    own = Struct(1, "pt_regs", 8, tuple(Member("", 1, 0) for _ in range(100_000)))
    architecture(parse_btf(encode_btf([own])))


# -- relocation --------------------------------------------------------------------------------------------------------


def _fields(count: int) -> tuple[Struct, list[tuple[int, str, RelocationKind]]]:
    members = tuple(Member(f"m{n}", 1, 32 * n) for n in range(count))
    return Struct(2, "task", 4 * count, members), [(2, f"0:{n}", RelocationKind.FIELD_EXISTS) for n in range(count)]


def _one_name_for_all() -> None:
    """A hundred thousand structs of one name, asked for a thousand fields each."""
    task, asked = _fields(1000)
    kernel = [
        INT,
        *(Struct(n, "task", 8, (Member(f"m{n % 7}", 1, 0), Member(f"x{n}", 1, 32))) for n in range(2, 100_000)),
    ]
    relocate(read_object(asking([INT, task], asked)), parse_btf(encode_btf(kernel)))


def _nested(levels: int, width: int, name: str) -> list[BtfType]:
    """``task`` whose members, *width* of one type and called *name*, are structs like it, *levels* deep."""
    types: list[BtfType] = [INT]
    for level in range(levels):
        below = level + 3 if level + 1 < levels else 1
        own = "task" if level == 0 else "" if not name else "s"
        types.append(Struct(level + 2, own, 8, tuple(Member(name, below, 0) for _ in range(width))))
    return types


def _anonymous_in_anonymous() -> None:
    """Two anonymous members in each of sixty levels: two to the sixty places to look for a name that is not there."""
    task, asked = _fields(3)
    relocate(read_object(asking([INT, task], asked)), parse_btf(encode_btf(_nested(60, 2, ""))))
    relocate(read_object(asking([INT, task], asked)), parse_btf(encode_btf(_nested(3, 1000, ""))))


def _match_in_match() -> None:
    """Three members of one name in each of thirty levels, the last of which differs."""
    ours, theirs = _nested(30, 3, "m"), _nested(30, 3, "m")
    theirs[0] = Int(1, "long", 8, 1, 0, 64)
    obj = read_object(asking(ours, [(2, "0", RelocationKind.TYPE_MATCHES)]))
    relocate(obj, parse_btf(encode_btf(theirs)))


def _wide_match() -> None:
    """Twenty thousand members, each looked for among twenty thousand."""
    ours = Struct(2, "task", 8, tuple(Member(f"m{n}", 1, 0) for n in range(20_000)))
    theirs = Struct(2, "task", 8, tuple(reversed(ours.members)))
    obj = read_object(asking([INT, ours], [(2, "0", RelocationKind.TYPE_MATCHES)]))
    relocate(obj, parse_btf(encode_btf([INT, theirs])))


def _signatures_in_signatures() -> None:
    """Every function takes pointers to two functions like it."""
    types: list[BtfType] = [INT, Typedef(2, "call", 3)]
    for level in range(40):
        here = 3 + 2 * level
        types += [Ptr(here, "", here + 1), FuncProto(here + 1, "", 1, (("", here + 2), ("", here + 2), ("", here + 2)))]
    types.append(INT)
    asked = [(2, "0", RelocationKind.TYPE_EXISTS), (2, "0", RelocationKind.TYPE_MATCHES)]
    relocate(read_object(asking(types, asked)), parse_btf(encode_btf(types)))


def _enumerators() -> None:
    """An enum of a hundred thousand values under a thousand names, asked for a hundred that are not there."""
    local = Enum(2, "e", 4, False, tuple((f"gone{n}", n) for n in range(100)))
    asked = [(2, str(n), RelocationKind.ENUMVAL_EXISTS) for n in range(100)]
    values = tuple((f"v{n}", n) for n in range(100_000))
    kernel = [INT, *(Enum(n, "e", 4, False, values if n == 2 else values[:3]) for n in range(2, 1000))]
    relocate(read_object(asking([INT, local], asked)), parse_btf(encode_btf(kernel)))


def _many_relocations() -> None:
    """As many relocations as an object has room for, of names as long as may be."""
    name = "n" * 4000
    types = [INT, Struct(2, name, 4, (Member(name, 1, 0),))]
    obj = read_object(asking(types, [(2, "0:0", RelocationKind.BYTE_OFF)] * 300_000))
    relocate(obj, parse_btf(encode_btf(types)))


def _arrays_in_arrays() -> None:
    types: list[BtfType] = [INT, *(Array(n, "", n + 1, n + 1, 1) for n in range(2, 5000)), Typedef(5000, "t", 2)]
    kernel = parse_btf(encode_btf(types))
    obj = read_object(asking([INT, Typedef(2, "t", 1)], [(2, "0", RelocationKind.TYPE_EXISTS)]))
    relocate(obj, kernel)
    minimise([obj], kernel)
    types[1] = Array(2, "", 1, 2, 1)  # counted by itself
    kernel = parse_btf(encode_btf(types))
    local = read_object(
        asking([INT, Array(2, "", 1, 1, 1), Typedef(3, "t", 2)], [(3, "0", RelocationKind.TYPE_EXISTS)])
    )
    relocate(local, kernel)
    minimise([local], kernel)


# -- objects -----------------------------------------------------------------------------------------------------------


def _ask(data: bytes) -> None:
    obj = read_object(data)
    for program in obj.programs:
        obj.helpers(program)
    btf = parse_btf(encode_btf(seeds.all_kinds()))
    show(obj, btf)


def _programs_that_call_on() -> None:
    """Each of many programs calls the next one: together they reach the square of their number."""
    count = 40_000
    call = struct.pack("<BBhi", 0x85, 0x10, 0, 1)  # two further: past the end of this function
    code = (call + _EXIT[8:]) * (count - 1) + _EXIT
    _ask(bpf_object(code, [(f"f{n}", 16 * n, 16) for n in range(count)]))


def _functions_over_each_other() -> None:
    code = _EXIT * 100_000
    _ask(bpf_object(code, [(f"f{n}", 0, len(code)) for n in range(50_000)]))


def _programs_of_one_function() -> None:
    """Two thousand programs that call one function of a hundred thousand instructions."""
    size, count = 100_000, 2000
    body = struct.pack("<BBhi", 0xB7, 0, 0, 0) * (size - 1) + _EXIT[8:]
    entries = b"".join(struct.pack("<BBhi", 0x85, 0x10, 0, -(size + 2 * n + 1)) + _EXIT[8:] for n in range(count))
    rows = [("big", 0, len(body)), *((f"p{n}", len(body) + 16 * n, 16) for n in range(count))]
    _ask(bpf_object(body + entries, rows))


def _stores() -> None:
    """A program that fills the stack, and what is beside it, with different constants over and over."""
    code = b"".join(struct.pack("<BBhi", 0x7A, 10, -(n % 4000) * 8, n) for n in range(150_000)) + _EXIT
    _relocated_program(code)


def _branches() -> None:
    """Every instruction jumps, on what nobody knows, backwards or forwards."""
    jumps = b"".join(struct.pack("<BBhi", 0x15, n % 10, (n * 7919) % 200 - 100, n) for n in range(60_000))
    _relocated_program(jumps + _EXIT)


def _endless() -> None:
    _relocated_program(struct.pack("<BBhi", 0x05, 0, -1, 0) + _EXIT)
    # Into the second slot of a load, where nothing starts, and back.
    inside = (
        struct.pack("<BBhi", 0x05, 0, 1, 0) + struct.pack("<BBhi", 0x18, 1, 0, 0) + struct.pack("<BBhi", 0x05, 0, -1, 0)
    )
    _relocated_program(inside + _EXIT)


def _relocated_program(code: bytes) -> None:
    """Check *code* behind an instruction that no kernel has the field for, so that what is reached matters."""
    whole = struct.pack("<BBhi", 0xB7, 1, 0, 0) + code
    strings = b"\0gone\0int\0x\0xdp\x000:0\0"
    types = struct.pack("<IIII", 6, Kind.INT << 24, 4, 32) + struct.pack("<III", 1, Kind.STRUCT << 24 | 1, 4)
    types += struct.pack("<III", 10, 1, 0)
    rows = [(0, 2, strings.index(b"0:0"), int(RelocationKind.BYTE_OFF))]
    ext = extension(rows, strings.index(b"xdp"))
    _ask(bpf_object(whole, [("p", 0, len(whole))], raw_btf(types, strings), ext))


def _lines() -> None:
    """As many lines as relocations, each of which is reported with its line."""
    count = 15_000
    task, _ = _fields(2)
    types = [INT, task]
    btf = encode_btf(types)
    size = struct.unpack_from("<I", btf, 12)[0]
    strings = btf[24 + size :] + b"xdp\x000:0\0file.c\0 a = b;\0"
    at = {text: strings.index(text + b"\0") for text in (b"xdp", b"0:0", b"file.c", b" a = b;")}
    rows = [(8 * n, 2, at[b"0:0"], int(RelocationKind.BYTE_OFF)) for n in range(count)]
    lines = [(8 * n, at[b"file.c"], at[b" a = b;"], n << 10 | 1) for n in range(count)]
    code = struct.pack("<BBhi", 0xB7, 1, 0, 0) * count + _EXIT
    ext = extension(rows, at[b"xdp"], lines)
    _ask(bpf_object(code, [("p", 0, len(code))], raw_btf(btf[24 : 24 + size], strings), ext))


def _fields_that_are_not_there() -> None:
    """Eight thousand fields, for each of which the likest of eight thousand others is sought."""
    task, _ = _fields(8000)
    theirs = Struct(2, "task", task.size, tuple(m._replace(name=f"x{m.name}") for m in task.members))
    obj = read_object(asking([INT, task], [(2, f"0:{n}", RelocationKind.BYTE_OFF) for n in range(8000)]))
    show(obj, parse_btf(encode_btf([INT, theirs])))


def _helpers_that_nobody_has() -> None:
    """Fifty thousand of them, each with its one call."""
    code = b"".join(struct.pack("<BBhi", 0x85, 0, 0, 1000 + n) for n in range(50_000)) + _EXIT
    _ask(bpf_object(code, [("p", 0, len(code))]))


def _programs_alone() -> None:
    """As many programs as may be."""
    _ask(bpf_object(_EXIT * 4096, [(f"p{n}", 16 * n, 16) for n in range(4096)]))


def _maps() -> None:
    """Fifty thousand maps of one definition of fifty thousand members."""
    definition = Struct(2, "", 8, tuple(Member("type", 1, 0) for _ in range(50_000)))
    variables = [Var(n, f"m{n}", 2, 1) for n in range(3, 50_000)]
    section = Datasec(50_000, ".maps", 8, tuple((v.id, 0, 8) for v in variables))
    _ask(bpf_object(_EXIT, [("p", 0, 16)], encode_btf([INT, definition, *variables, section])))


def _externs() -> None:
    """A hundred thousand kernel symbols, each of which is asked for, of a kernel with as many functions."""
    functions = [Func(n, f"f{n}", 2, 2) for n in range(3, 50_000)]
    section = Datasec(50_000, ".ksyms", 0, tuple((f.id, 0, 0) for f in functions))
    proto = FuncProto(2, "", 1, ())
    _ask(bpf_object(_EXIT, [("p", 0, 16)], encode_btf([INT, proto, *functions, section])))


# -- files -------------------------------------------------------------------------------------------------------------


def _file(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.btf.tar.xz"
        path.write_bytes(data)
        read_btf_file(path)


def _tar_block(name: bytes, kind: bytes, size: int) -> bytes:
    head = bytearray(name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"0" * 11 + b"\0")
    head += b" " * 8 + kind + bytes(100) + b"ustar\x0000" + bytes(247)
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def _zeros(size: int) -> bytes:
    """*size* zero bytes as xz, some thousand times smaller."""
    return lzma.compress(bytes(size), preset=0)


def _bomb_of_zeros() -> None:
    _file(_zeros(64 * MB) * 40)  # streams behind each other are one


def _bomb_in_a_name() -> None:
    """A tar member whose name is said to be gigabytes long."""
    for kind in (b"L", b"K", b"x", b"g"):
        _file(lzma.compress(_tar_block(b"x.btf", kind, 4 << 30), preset=0) + _zeros(64 * MB) * 64)


def _names_of_names() -> None:
    """Long names for long names for long names: a reader that recurses runs out of stack."""
    _file(lzma.compress(_tar_block(b"x", b"L", 0) * 20_000 + bytes(1024), preset=0))


def _image(data: bytes) -> None:
    read_kernel_image(data)


def _btf_headers() -> None:
    """An image of nothing but headers of BTF, each of which claims the rest."""
    count = 500_000
    out = bytearray(24 * count + 1)
    for n in range(count):
        struct.pack_into("<HBBIIIII", out, 24 * n, 0xEB9F, 1, 0, 24, 0, 12, 12, max(len(out) - 24 * n - 36, 1))
    _image(bytes(out))
    _image(bytes(out[: 24 * count]) + bytes(100))


def _banners() -> None:
    _image(b"Linux version 1 (" * 2_000_000)
    _image(b"Linux version 1 (a) (#" * 2_000_000)
    _image(b"Linux version " + b"1" * 40_000_000)


def _streams() -> None:
    """An image full of places that look packed, and some that are: bombs."""
    _image((b"\x1f\x8b\x08\0" + bytes(28)) * 1_000_000)
    _image(_zeros(64 * MB) * 300)


def _one_stream(size: int) -> bytes:
    packer = lzma.LZMACompressor(preset=0)
    return b"".join(packer.compress(bytes(MB)) for _ in range(size // MB)) + packer.flush()


def _bomb_in_an_image() -> None:
    """Gigabytes of zeros, packed as a kernel is; and just so many as may be."""
    for size in (600 * MB, 255 * MB):
        with suppress(Fault):
            _image(images.bzimage(_one_stream(size)))


def _bomb_after_bomb() -> None:
    """A bare image with sixty bombs in it, none of which is a kernel."""
    _image(bytes(64) + _one_stream(100 * MB) * 60)


def _elf_files_inside() -> None:
    head = b"\x7fELF\x02\x01" + bytes(58)
    note = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0" + bytes(20)
    _image(images.BANNER + (head + note) * 300_000)


SHAPES: tuple[Callable[[], None], ...] = (
    _most_types, _overlapping_names, _long_flavours, _many_strings, _many_marks, _names_inside_names,
    _chain_of_typedefs, _registers_in_registers, _one_name_for_all, _anonymous_in_anonymous, _match_in_match,
    _wide_match, _signatures_in_signatures, _enumerators, _many_relocations, _arrays_in_arrays,
    _programs_that_call_on, _functions_over_each_other, _programs_of_one_function, _stores, _branches, _endless,
    _lines, _fields_that_are_not_there, _helpers_that_nobody_has, _programs_alone, _maps, _externs, _bomb_of_zeros,
    _bomb_in_a_name, _names_of_names, _btf_headers, _banners, _streams,
    _bomb_in_an_image, _bomb_after_bomb,
    _elf_files_inside,
)  # fmt: skip

__all__ = ["SHAPES", "asking", "bpf_object", "raw_btf"]
