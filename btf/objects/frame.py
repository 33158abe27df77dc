"""How much stack a program takes: what its functions store to and hand out below the frame pointer, call by call."""

from __future__ import annotations

from btf.objects.insn import ALU64, CLASS_MASK, LDX, SIZE, SOURCE_REGISTER, ST, STX, Insn, heads
from btf.objects.object import BpfFunction, BpfObject, BpfProgram

LIMIT = 512  # bytes, of all frames of a chain of calls together
STEPS = (16, 32)  # each frame counts in steps of so many bytes: of newer kernels where they compile to machine code
_FRAME_POINTER = 10
_ADD_IMMEDIATE, _MOVE = ALU64 | 0x00, ALU64 | 0xB0 | SOURCE_REGISTER


def frame_size(function: BpfFunction) -> int:
    """Return how many bytes below its frame pointer *function* names, by offset or by an address it takes."""
    lowest = 0
    addresses: set[int] = {_FRAME_POINTER}  # registers that were last set to the frame pointer
    for _, insn in heads(function.instructions):
        cls = insn.code & CLASS_MASK
        if (cls in (ST, STX) and insn.dst == _FRAME_POINTER) or (cls == LDX and insn.src == _FRAME_POINTER):
            lowest = min(lowest, insn.offset)
        elif insn.code == _ADD_IMMEDIATE and insn.dst in addresses:
            lowest = min(lowest, insn.imm)
        if _writes(insn):
            addresses.discard(insn.dst)
            if insn.code == _MOVE and insn.src == _FRAME_POINTER and not insn.offset:
                addresses.add(insn.dst)
    return -lowest


def _writes(insn: Insn) -> bool:
    return insn.dst != _FRAME_POINTER and insn.code & CLASS_MASK not in (ST, STX) and insn.code & 0x07 not in (5, 6)


def stack_depth(obj: BpfObject, program: BpfProgram, step: int) -> int:
    """Return the deepest stack of *program* in bytes, over every chain of its calls, as the verifier counts it.

    Each frame takes at least one *step*. A function whose address is taken counts as called from there; one that calls
    itself, which every verifier refuses, counts once.
    """
    sizes = {(f.section, f.start): max(frame_size(f), 1) for f in program.functions}
    deepest: dict[tuple[str, int], int] = {}

    def depth(function: BpfFunction, above: frozenset[tuple[str, int]]) -> int:
        place = function.section, function.start
        if place not in deepest:
            own = -(-sizes[place] // step) * step
            below = [
                depth(obj.by_start[call.callee], above | {place})
                for call in function.calls
                if call.callee in sizes and call.callee not in above and call.callee != place and len(above) < SIZE
            ]
            deepest[place] = own + max(below, default=0)
        return deepest[place]

    return depth(program.function, frozenset())
