"""How much comparing of types one relocation of an object may cost: hostile types could ask for more than a lifetime.

Thousands of structs of one name, or two anonymous members of one type in each of sixty levels, multiply. What real
objects and kernels need is a thousandth of the bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from btf.fault import EXIT_USAGE, Fault

MAX_STEPS = 1_000_000  # types and members compared; some seconds

_left: ContextVar[list[int] | None] = ContextVar("left", default=None)


class TooMuchEffort(Fault):
    """Comparing the types of an object and a kernel would take for ever."""

    code = "COR-BTF-003"
    exit = EXIT_USAGE
    remedy = "No compiler makes such types: look at `bpftool btf dump` of the object and of the kernel's BTF."


@contextmanager
def bounded_effort(times: int = 1) -> Iterator[None]:
    """Let what is inside, and what it calls, spend *times* MAX_STEPS together."""
    before = _left.set([times * MAX_STEPS])
    try:
        yield
    finally:
        _left.reset(before)


def spend(steps: int, type_: int) -> None:
    """Count *steps* at kernel type *type_*; raise TooMuchEffort when they are used up. Unbounded outside a bound."""
    left = _left.get()
    if left is not None:
        left[0] -= steps
        if left[0] < 0:
            raise TooMuchEffort(f"millions of comparisons of types: given up at type {type_} of the kernel")
