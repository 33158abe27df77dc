"""The judge opens objects of its own byte order only; of the other one, what is computed must read the right bits."""

from __future__ import annotations

import pytest
from assemble import Asked, assemble
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rules import HEAD, RULES

from btf.core.relocate import relocate
from btf.format.encode import encode_btf
from btf.format.kinds import Int, Member, Struct
from btf.format.parse import parse_btf
from btf.objects.elf_object import read_object
from btf.objects.extension import RelocationKind

_READ = ("BYTE_OFF", "BYTE_SZ", "LSHIFT_U64", "RSHIFT_U64")


@settings(max_examples=200, deadline=None)
@given(
    st.booleans(),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(0, 120),
    st.integers(1, 64),
    st.binary(min_size=32, max_size=32),
)
def test_a_bitfield_is_read_as_it_lies_in_memory(big, size, offset, width, memory) -> None:
    assume(width <= 8 * size)
    types = [
        Int(0, "unsigned", size, 0, 0, 8 * size),
        Struct(0, "s", 24, (Member("b", 1, offset, width),), kind_flag=True),
    ]
    asked = [Asked(RelocationKind[kind], 2, "0:0", value=64 - width) for kind in _READ]
    target = parse_btf(encode_btf(types, big_endian=big))
    results = relocate(read_object(assemble(types, asked, big_endian=big)), target)
    assume(results[0].outcome == "value")  # not when no load of 64 bits covers it
    start, length, left, right = (result.value for result in results)
    order = "big" if big else "little"
    # Bits count from the lowest of the first byte in little-endian memory, from its highest in big-endian memory.
    shift = 8 * len(memory) - offset - width if big else offset
    lies = int.from_bytes(memory, order) >> shift & (1 << width) - 1
    loaded = int.from_bytes(memory[start : start + length], order)
    assert (loaded << left & (1 << 64) - 1) >> right == lies


# Where a bitfield lies, and so the code that reads it, depends on the order.
PLAIN = [name for name, (kernel, program, _) in RULES.items() if " : " not in kernel + program]


@pytest.mark.parametrize("rule", PLAIN, ids=lambda name: name.replace(" ", "-"))
def test_a_rule_is_the_same_in_both_byte_orders(compile_bpf, btf_bytes, rule) -> None:
    kernel, program, _ = RULES[rule]
    slug = rule.replace(" ", "_").replace("'", "")
    both = []
    for big in (False, True):
        data = btf_bytes(f"{slug}.kernel.c", text=f"typedef unsigned long long u64; {kernel}", big=big)
        obj = read_object(compile_bpf(f"{slug}.bpf.c", text=HEAD + program, big=big).read_bytes())
        both.append([(r.program, r.kind, r.local, r.outcome, r.value) for r in relocate(obj, parse_btf(data))])
    assert both[0] == both[1]
