"""A BPF object from types and relocations, without a compiler: one program whose instructions are all relocated.

What clang cannot write, or not in every form, is written here: kinds newer than it, and every form of instruction.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from btf.format.encode import encode_btf
from btf.format.kinds import BtfType, Func, FuncProto, Typedef
from btf.objects.insn import ALU, ALU64, CALL, LD_IMM64, LDX, ST, STX

SECTION = "raw_tp/invented"
_SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
_MEM, _MOV, _ADD = 0x60, 0xB0, 0x00

# form: (code, whether the value is the offset); those with a size have it added
_FORMS = {
    "mov": (ALU64 | _MOV, False), "mov32": (ALU | _MOV, False), "add": (ALU64 | _ADD, False),
    "load": (LDX | _MEM, True), "store": (STX | _MEM, True), "set": (ST | _MEM, True),
    "wide": (LD_IMM64, False), "register": (ALU64 | _MOV | 0x08, False), "call": (CALL, False),
}  # fmt: skip
FORMS = tuple(_FORMS)


@dataclass(frozen=True)
class Asked:
    """A relocation: *kind* of *access* into *type*, of an instruction of *form* that now holds *value*."""

    kind: int
    type: int
    access: str
    form: str = "mov"
    value: int = 0
    size: int = 8


def assemble(
    types: Sequence[BtfType], asked: Iterable[Asked], *, big_endian: bool = False, section: str = SECTION
) -> bytes:
    """Return the object: in *section* the program ``prog``, an instruction for each of *asked*, then idle ones."""
    order = ">" if big_endian else "<"
    rows, code = [], bytearray()
    for row in asked:
        rows.append((len(code), row))
        code += _instruction(order, row)
    code += (len(rows) + 1) * _slot(order, ALU64 | _MOV, 0, 0) + _slot(order, 0x95, 0, 0)
    # Names and access strings are kept by types that nothing refers to.
    strings = list(dict.fromkeys([section, "0", *(row.access for _, row in rows)]))
    proto = FuncProto(0, "", 0, ())
    holders = [Typedef(0, text, 0) for text in strings]
    extra: list[BtfType] = [proto, Func(0, "prog", len(types) + 1, 1), *holders]
    btf = encode_btf([*types, *extra], big_endian=big_endian)
    at = {text: _string(btf, order, text) for text in strings}
    core = struct.pack(f"{order}III", 16, at[section], len(rows)) + b"".join(
        struct.pack(f"{order}4I", insn, row.type, at[row.access], row.kind) for insn, row in rows
    )
    functions = struct.pack(f"{order}IIIII", 8, at[section], 1, 0, len(types) + 2)
    extension = (
        struct.pack(f"{order}HBBI6I", 0xEB9F, 1, 0, 32, 0, len(functions), len(functions), 0, len(functions), len(core))
        + functions
        + core
    )
    return _elf(order, section, bytes(code), btf, extension)


def _instruction(order: str, row: Asked) -> bytes:
    code, in_offset = _FORMS[row.form]
    if in_offset:
        return _slot(order, code | _SIZES[row.size], row.value, 0)
    low = _slot(order, code, 0, row.value)
    return low + _slot(order, 0, 0, row.value >> 32) if row.form == "wide" else low


def _slot(order: str, code: int, offset: int, imm: int) -> bytes:
    registers = 0x10 if order == ">" else 0x01
    offset, imm = offset & 0xFFFF, imm & 0xFFFFFFFF
    if code in (0, LD_IMM64, 0x95, CALL):
        registers = 0
    return struct.pack(f"{order}BBHI", code, registers, offset, imm)


def _string(btf: bytes, order: str, text: str) -> int:
    header, _, _, offset, _ = struct.unpack_from(f"{order}5I", btf, 4)
    start = header + offset
    return btf.index(b"\0" + text.encode() + b"\0", start) + 1 - start if text else 0


def _elf(order: str, section: str, code: bytes, btf: bytes, extension: bytes) -> bytes:
    names = bytearray(b"\0")

    def name(text: str) -> int:
        names.extend(text.encode() + b"\0")
        return len(names) - len(text) - 1

    function, symbols_at = name("prog"), 24
    symbols = bytes(symbols_at) + struct.pack(f"{order}IBBHQQ", function, 0x12, 0, 1, 0, len(code))
    bodies = [  # name, type, flags, link, info, align, entry, bytes
        (section, 1, 6, 0, 0, 8, 0, code),
        ("license", 1, 3, 0, 0, 1, 0, b"GPL\0"),
        (".BTF", 1, 0, 0, 0, 4, 0, btf),
        (".BTF.ext", 1, 0, 0, 0, 4, 0, extension),
        (".symtab", 2, 0, 6, 1, 8, 24, symbols),
        (".strtab", 3, 0, 0, 0, 1, 0, None),
    ]
    numbers = [name(row[0]) for row in bodies]
    out, table = bytearray(64), [bytes(64)]
    for number, (_, type_, flags, link, info, align, entry, held) in zip(numbers, bodies, strict=True):
        out += bytes(-len(out) % 8)
        body = bytes(names) if held is None else held
        table.append(
            struct.pack(f"{order}IIQQQQIIQQ", number, type_, flags, 0, len(out), len(body), link, info, align, entry)
        )
        out += body
    out += bytes(-len(out) % 8)
    ident = b"\x7fELF\x02" + (b"\x02" if order == ">" else b"\x01") + b"\x01" + bytes(9)
    header = struct.pack(
        f"{order}HHIQQQIHHHHHH", 1, 247, 1, 0, 0, len(out), 0, 64, 0, 0, 64, len(table), len(table) - 1
    )
    out[:64] = ident + header
    return bytes(out) + b"".join(table)
