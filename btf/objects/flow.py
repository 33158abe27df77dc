"""Where one function's instructions may go next, knowing no values: enough to tell a loop from straight code."""

from __future__ import annotations

from collections.abc import Sequence

from btf.objects.insn import CALL, CLASS_MASK, EXIT, JA, JA32, JMP, JMP32, LD_IMM64, Insn


def successors(insns: Sequence[Insn], index: int) -> tuple[int, ...]:
    """Return the indices that may follow *index*; calls return to the next instruction."""
    insn = insns[index]
    if insn.code == EXIT:
        return ()
    if insn.code == JA:
        return (index + 1 + insn.offset,)
    if insn.code == JA32:
        return (index + 1 + insn.imm,)
    if insn.code & CLASS_MASK in (JMP, JMP32) and insn.code != CALL:
        return (index + 1, index + 1 + insn.offset)
    return (index + (2 if insn.code == LD_IMM64 else 1),)


def has_loop(insns: Sequence[Insn]) -> bool:
    """Whether some path through *insns* comes back to where it was; kernels before bounded loops refuse such code."""
    done: set[int] = set()
    path: set[int] = set()
    stack: list[tuple[int, bool]] = [(0, False)]
    while stack:
        index, leaving = stack.pop()
        if leaving:
            path.discard(index)
            done.add(index)
            continue
        if index in done or index in path or not 0 <= index < len(insns):
            continue
        path.add(index)
        stack.append((index, True))
        for successor in successors(insns, index):
            if successor in path:
                return True
            stack.append((successor, False))
    return False
