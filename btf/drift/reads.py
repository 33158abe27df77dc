"""What a function does with an address: which bytes behind it it reads, and which relocated fields it looks for there.

Follows one address through copies, additions and the stack, along every path; it knows no values. What is done with it
out of sight (stored, handed to another function) is not seen, so nothing found proves nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from btf.objects.flow import successors
from btf.objects.insn import ALU, ALU64, CALL, CLASS_MASK, JMP, JMP32, LD, LDX, SIZE, SOURCE_REGISTER, ST, STX
from btf.objects.object import BpfFunction
from btf.objects.uapi import HELPERS, name_of

_BYTES = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}
_SIZE_MASK = 0x18
_OPERATION = 0xF0
_ADD, _MOV = 0x00, 0xB0
_MODE_MASK, _ATOMIC = 0xE0, 0xC0
# Helpers that write where their first argument points: they may overwrite an address that was put on the stack.
_WRITERS = ("probe_read", "copy_from_user", "get_current_comm")
_ADD_CONSTANT = 0x07
_CONSTANT = frozenset({0xB7, 0xB4})  # a register becomes a constant, in 64 or 32 bits
_STACK = 10
_MOST_STEPS = 1024  # places × what is known there; what is left after that is not looked at

# Helpers that read as many bytes as their second argument says from where their third points; the string readers stop
# at the end of the string and are none of them.
_READERS = frozenset({"probe_read", "probe_read_kernel", "probe_read_user", "copy_from_user"})


# By place (a register, or a stack slot): how far behind the address it points, or an offset's insn.
_Book = dict[int, int]


class Read(NamedTuple):
    """The instruction at byte ``insn`` reads ``size`` bytes at ``offset`` behind the address, into ``register`` if it
    is a load; by ``load`` or a helper's name."""

    insn: int
    offset: int
    size: int
    by: str
    register: int | None = None


class Based(NamedTuple):
    """The relocated instruction at byte ``insn`` takes its field from the address: the address is of its root type.

    ``register`` is where a load puts it, None when only the field's address is made."""

    insn: int
    register: int | None = None


_SLOT = 1 << 20  # places near it are stack slots, those below 16 registers


def uses(
    function: BpfFunction, start: int, register: int, relocated: Collection[int], *, exact: bool = False
) -> Iterator[Read | Based]:
    """Yield what becomes of the address that *register* holds before instruction number *start* of *function*.

    It may also hold what is only to be added to a base. *relocated* are the byte offsets of all relocated
    instructions: what such a one loads, and a read as long as one says, is in the kernel's size and no :class:`Read`.
    *exact*: the address is not followed past the addition of a number nobody knows.
    """
    insns = function.instructions
    seen: set[tuple[int, frozenset[tuple[int, int]], frozenset[tuple[int, int]]]] = set()
    before = ((r, _relocated(function, start, r, relocated)) for r in range(_STACK) if r != register)
    waiting = [(start, {register: 0}, {r: at for r, at in before if at is not None})]
    while waiting and len(seen) < _MOST_STEPS:
        index, held, offsets = waiting.pop()
        key = index, frozenset(held.items()), frozenset(offsets.items())
        if not held or not 0 <= index < len(insns) or key in seen:
            continue
        seen.add(key)
        yield from _at(function, index, held, offsets, relocated)
        held, offsets = _after(function, index, held, offsets, relocated, exact=exact)
        waiting += [(successor, held, offsets) for successor in successors(insns, index)]


def _at(
    function: BpfFunction, index: int, held: _Book, offsets: _Book, relocated: Collection[int]
) -> Iterator[Read | Based]:
    """Yield what the instruction at *index* does with what is held before it."""
    insn, at = function.instructions[index], function.start + SIZE * index
    cls = insn.code & CLASS_MASK
    if cls == LDX and insn.src in held:
        if at in relocated:
            yield Based(at, insn.dst)
        else:
            yield Read(at, held[insn.src] + insn.offset, _BYTES[insn.code & _SIZE_MASK], "load", insn.dst)
    elif insn.is_call and name_of(insn.imm, HELPERS) in _READERS and 3 in held:
        before = _written(function, index, 2)
        if before is not None and function.start + SIZE * before not in relocated:
            length = function.instructions[before]
            if length.code in _CONSTANT:
                yield Read(at, held[3], length.imm, name_of(insn.imm, HELPERS))
    elif cls == ALU64 and insn.code & _OPERATION == _ADD:
        if insn.code & SOURCE_REGISTER:
            for address, offset in ((insn.dst, insn.src), (insn.src, insn.dst)):
                if held.get(address) == 0 and offset in offsets:
                    yield Based(offsets[offset])
        elif at in relocated and held.get(insn.dst) == 0:
            yield Based(at)


def _after(
    function: BpfFunction, index: int, held: _Book, offsets: _Book, relocated: Collection[int], *, exact: bool
) -> tuple[_Book, _Book]:
    """Return what is held after the instruction at *index*, and where relocated offsets are."""
    insn, at = function.instructions[index], function.start + SIZE * index
    cls, operation = insn.code & CLASS_MASK, insn.code & _OPERATION
    by_register = bool(insn.code & SOURCE_REGISTER)
    held, offsets = dict(held), dict(offsets)
    if insn.code == CALL:
        low, high = _filled(function, index)
        held = {place: v for place, v in held.items() if place > 5 and not low < place < high}
        return held, {place: v for place, v in offsets.items() if place > 5}
    if cls == ALU64 and operation == _MOV and by_register and insn.offset == 0:
        _copy(insn.src, insn.dst, held, offsets)
    elif insn.code in _CONSTANT and at in relocated:
        _copy(None, insn.dst, held, offsets)
        offsets[insn.dst] = at
    elif cls == ALU64 and operation == _ADD and by_register:
        moved = held.get(insn.dst, held.get(insn.src))
        strange = insn.dst in offsets or insn.src in offsets  # another field's address from here on
        _copy(None, insn.dst, held, offsets)
        if moved is not None and not strange and not exact:
            held[insn.dst] = moved
    elif cls == ALU64 and operation == _ADD and insn.dst in held and at not in relocated:
        held[insn.dst] += insn.imm
    elif cls in (ALU, ALU64):
        _copy(None, insn.dst, held, offsets)
    elif cls in (LDX, LD):
        whole = cls == LDX and insn.src == _STACK and _BYTES[insn.code & _SIZE_MASK] == 8
        _copy(_SLOT + insn.offset if whole else None, insn.dst, held, offsets)
    elif cls == STX and insn.code & _MODE_MASK == _ATOMIC:  # it may write a register
        _copy(None, insn.src, held, offsets)
        _copy(None, 0, held, offsets)
    elif cls in (ST, STX) and insn.dst == _STACK:
        _copy(insn.src if cls == STX else None, _SLOT + insn.offset, held, offsets)
    return held, offsets


def _filled(function: BpfFunction, call: int) -> tuple[int, int]:
    """Return between which places a call may write to the stack: where its first argument points, when it reads."""
    insn = function.instructions[call]
    if not insn.is_call or not name_of(insn.imm, HELPERS).startswith(_WRITERS):
        return 0, 0
    added = _written(function, call, 1)
    length = _written(function, call, 2)
    if added is None or function.instructions[added].code != _ADD_CONSTANT:
        return 0, 0
    first = _SLOT + function.instructions[added].imm
    size = function.instructions[length].imm if length is not None else 0
    known = length is not None and function.instructions[length].code in _CONSTANT
    return first - 8, first + size if known else _SLOT + 1


def _copy(source: int | None, target: int, *books: _Book) -> None:
    for book in books:
        value = book.get(source) if source is not None else None
        book.pop(target, None)
        if value is not None:
            book[target] = value


def _written(function: BpfFunction, index: int, register: int) -> int | None:
    """Return the number of the instruction in straight line before *index* that last wrote *register*, or None."""
    for before in range(index - 1, -1, -1):
        insn = function.instructions[before]
        cls = insn.code & CLASS_MASK
        if cls in (JMP, JMP32) and (insn.code != CALL or register < 6):
            return None
        if insn.dst == register and cls in (ALU, ALU64, LDX, LD):
            return before
    return None


def _relocated(function: BpfFunction, index: int, register: int, relocated: Collection[int]) -> int | None:
    """Return the byte of the relocated instruction that put a field's offset into *register* before *index*."""
    before = _written(function, index, register)
    at = None if before is None else function.start + SIZE * before
    return at if before is not None and at in relocated and function.instructions[before].code in _CONSTANT else None
