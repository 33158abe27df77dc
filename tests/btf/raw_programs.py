"""Programs made of bare instructions: written at random, and loaded by bpf() itself to hear what the verifier says."""

from __future__ import annotations

import ctypes
import os
import struct
from random import Random

from btf.insn import CALL, EXIT, Insn
from btf.patch import POISON

_BPF, _PROG_LOAD = 321, 5  # on x86-64
_SOCKET_FILTER = 1
_REGISTERS = (0, 2, 3, 4, 5, 7)
_NUMBERS = (0, 1, 2, 3, 7, 255, -1, -2, 256, 65535, 65536, 0x7FFFFFFF, -0x80000000)
_ALU = (0x00, 0x10, 0x20, 0x40, 0x50, 0x60, 0x70, 0xA0, 0xB0, 0xC0)
_SHIFTS = (0x60, 0x70, 0xC0)
_COMPARISONS = (0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xA0, 0xB0, 0xC0, 0xD0)
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}
_PRANDOM = 7


def refusal(insns: list[Insn]) -> str | None:
    """Load a socket filter; return the end of what the verifier says when it refuses it. Needs root."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(
        b"".join(struct.pack("<BBhi", i.code, i.dst | i.src << 4, i.offset, i.imm) for i in insns)
    )
    words, licence = ctypes.create_string_buffer(1 << 16), ctypes.create_string_buffer(b"GPL")
    attributes = ctypes.create_string_buffer(144)
    struct.pack_into(
        "<IIQQIIQ", attributes, 0, _SOCKET_FILTER, len(insns), ctypes.addressof(code), ctypes.addressof(licence),
        1, len(words), ctypes.addressof(words),
    )  # fmt: skip
    descriptor = libc.syscall(_BPF, _PROG_LOAD, attributes, 144)
    if descriptor < 0:
        return words.value.decode(errors="replace")
    os.close(descriptor)
    return None


def poisoned_program(random: Random) -> tuple[list[Insn], int]:
    """Return a program of constants, comparisons, packet lengths and stack, with poison somewhere, and where."""
    insns = [Insn(0xBF, 6, 1, 0, 0), *(Insn(0xB7, r, 0, 0, random.choice(_NUMBERS)) for r in _REGISTERS)]
    insns += [Insn(0xBF, 8, 10, 0, 0), Insn(0x07, 8, 0, 0, -16)]
    insns += [Insn(0x7B, 10, random.choice(_REGISTERS), -8 * n, 0) for n in (1, 2, 3)]
    head, length = len(insns), random.randint(6, 28)
    end, poison = head + length, head + random.randint(2, length - 1)
    while len(insns) < end:
        insns.append(POISON if len(insns) == poison else _instruction(random, end - len(insns)))
        if insns[-1].imm == _PRANDOM and insns[-1].code == CALL:  # its arguments are gone
            rest = [Insn(0xB7, r, 0, 0, random.choice(_NUMBERS)) for r in (2, 3, 4, 5)]
            if poison in range(len(insns), len(insns) + 4) or len(insns) + 4 > end:
                insns.pop()
            else:
                insns += rest
    return [*insns, Insn(0xB7, 0, 0, 0, 0), Insn(EXIT, 0, 0, 0, 0)], poison


def _instruction(random: Random, room: int) -> Insn:
    a, b = random.choice(_REGISTERS), random.choice(_REGISTERS)
    match random.randint(0, 9):
        case 0 | 1 | 2:
            operation, cls = random.choice(_ALU), random.choice((4, 7))
            if random.random() < 0.5:
                number = random.randint(0, 31) if operation in _SHIFTS else random.choice(_NUMBERS)
                return Insn(operation | cls, a, 0, 0, number)
            return Insn((0xB0 if operation in _SHIFTS else operation) | cls | 8, a, b, 0, 0)
        case 3 | 4 | 5:
            operation, cls = random.choice(_COMPARISONS), random.choice((5, 6))
            offset = random.randint(0, room)
            if random.random() < 0.7:
                return Insn(operation | cls, a, 0, offset, random.choice(_NUMBERS))
            return Insn(operation | cls | 8, a, b, offset, 0)
        case 6:
            return Insn(0x61, a, 6, random.choice((0, 4, 8, 16)), 0)
        case 7 | 8:
            bits = random.choice(tuple(_SIZES))
            size = _SIZES[bits]
            base, low, high = random.choice(((10, -24, 0), (8, -8, 16)))
            offset = low + size * random.randint(0, (high - low) // size - 1)
            match random.randint(0, 3):
                case 0:
                    return Insn(0x62 | bits, base, 0, offset, random.choice(_NUMBERS))
                case 1:
                    return Insn(0x63 | bits, base, a, offset, 0)
            return Insn(0x61 | bits, a, base, offset, 0)
    return Insn(CALL, 0, 0, 0, _PRANDOM) if random.random() < 0.3 else Insn(0xB7, a, 0, 0, random.choice(_NUMBERS))
