"""Programs made of bare instructions: written at random, and loaded by bpf() itself to hear what the verifier says."""

from __future__ import annotations

import ctypes
import os
import struct
from random import Random

from btf.core.patch import POISON
from btf.objects.insn import CALL, EXIT, Insn

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


def poisoned_calls(random: Random) -> tuple[list[Insn], list[int], int]:
    """Return a program that calls a function of its own, where it calls it, and where the function begins.

    It passes a number in r2 and an address of its stack in r3; the function reads and writes there, and returns what it
    likes. Poison is in the one or the other.
    """
    inside = random.random() < 0.5
    program, calls = _caller(random, poisoned=not inside)
    begin = len(program)
    program = [i._replace(imm=begin - n - 1) if n in calls else i for n, i in enumerate(program)]
    return program + _callee(random, poisoned=inside), calls, begin


def _caller(random: Random, *, poisoned: bool) -> tuple[list[Insn], list[int]]:
    insns = [Insn(0xBF, 6, 1, 0, 0), *(Insn(0xB7, r, 0, 0, random.choice(_NUMBERS)) for r in _REGISTERS)]
    insns += [Insn(0xBF, 8, 10, 0, 0), Insn(0x07, 8, 0, 0, -16)]
    insns += [Insn(0x7B, 10, random.choice(_REGISTERS), -8 * n, 0) for n in (1, 2, 3)]
    calls = []
    for _ in range(random.randint(1, 3)):
        for _ in range(random.randint(0, 4)):
            insns.append(_plain(random, 0))
        insns += [Insn(0xBF, 1, 6, 0, 0), Insn(0xB7, 2, 0, 0, random.randint(0, 3)), Insn(0xBF, 3, 10, 0, 0)]
        insns += [Insn(0x07, 3, 0, 0, random.choice((-8, -16, -24))), Insn(CALL, 0, 1, 0, 0)]
        calls.append(len(insns) - 1)
        insns += [Insn(0xB7, r, 0, 0, random.choice(_NUMBERS)) for r in (2, 3, 4, 5)]
    return insns + _end(random, poisoned=poisoned), calls


def _callee(random: Random, *, poisoned: bool) -> list[Insn]:
    insns = [Insn(0xBF, 6, 1, 0, 0), Insn(0xBF, 7, 3, 0, 0), Insn(0xBF, 8, 10, 0, 0), Insn(0x07, 8, 0, 0, -16)]
    insns += [Insn(0xB7, r, 0, 0, random.choice(_NUMBERS)) for r in (0, 3, 4, 5)]
    insns += [Insn(0x7B, 10, random.choice((0, 2, 4)), -8 * n, 0) for n in (1, 2, 3)]
    through = Insn(0x7B, 7, random.choice((0, 2, 4)), 0, 0), Insn(0x79, 4, 7, 0, 0), Insn(0x62, 7, 0, 0, 1)
    insns += random.sample(through, random.randint(0, 2))
    return insns + _end(random, poisoned=poisoned, keep=7)


def _end(random: Random, *, poisoned: bool, keep: int | None = None) -> list[Insn]:
    """Return some instructions, poison among them when asked for, and the way out."""
    length = random.randint(3, 10)
    poison = random.randint(1, length - 1) if poisoned else -1
    insns = [POISON if n == poison else _plain(random, length - n, keep) for n in range(length)]
    if random.random() < 0.5:
        insns.append(Insn(0xB7, 0, 0, 0, random.randint(0, 2)))
    return [*insns, Insn(EXIT, 0, 0, 0, 0)]


def _plain(random: Random, room: int, keep: int | None = None) -> Insn:
    """Return an instruction that is no call, jumps at most *room* ahead and leaves the register *keep* alone."""
    insn = _instruction(random, max(room - 1, 0))
    touches = keep is not None and (keep in (insn.dst, insn.src) or insn.code & 0x07 == 3)
    return Insn(0xB7, 4, 0, 0, random.choice(_NUMBERS)) if insn.code == CALL or touches else insn


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
