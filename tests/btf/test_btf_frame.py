"""How deep the stack gets, judged by the verifier: it loads what fits, and says how much is too much."""

from __future__ import annotations

import re

import pytest
from libbpf_truth import ask_libbpf

from btf.objects.elf_object import read_object
from btf.objects.frame import LIMIT, STEPS, stack_depth

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "GPL";
static __attribute__((noinline)) int last(void *c)
{{ char b[{last}]; bpf_skb_load_bytes(c, 0, b, sizeof(b)); return b[1] + b[sizeof(b) - 1]; }}
static __attribute__((noinline)) int between(void *c)
{{ char b[{between}]; bpf_skb_load_bytes(c, 0, b, sizeof(b)); return b[1] + last(c) + b[sizeof(b) - 1]; }}
SEC("tc") int p(void *c)
{{ char b[{first}]; bpf_skb_load_bytes(c, 0, b, sizeof(b)); return b[2] + between(c) + last(c) + b[sizeof(b) - 1]; }}
"""


@pytest.mark.kernel
@pytest.mark.parametrize("cpu", ["v1", "v3"])
@pytest.mark.parametrize(
    "sizes", [(16, 16, 16), (256, 128, 96), (256, 128, 112), (256, 160, 128), (200, 200, 200), (304, 16, 304)]
)
def test_as_the_verifier_counts(compile_bpf, sizes, cpu) -> None:
    text = SOURCE.format(first=sizes[0], between=sizes[1], last=sizes[2])
    path = compile_bpf(f"frame_{'_'.join(map(str, sizes))}.bpf.c", cpu=cpu, text=text)
    obj = read_object(path.read_bytes())
    depth = stack_depth(obj, obj.programs[0], STEPS[0])
    assert depth >= sum(sizes)
    truth = ask_libbpf(path, None)
    assert (truth.loaded is None) == (depth <= LIMIT), truth.log[-12:]
    if truth.loaded is not None:
        (theirs,) = re.findall(r"combined stack size of \d+ calls is (\d+)", "\n".join(truth.log))[-1:]
        assert int(theirs) == depth


def test_a_bigger_step_takes_no_less(compile_bpf) -> None:
    obj = read_object(compile_bpf("tracing.bpf.c").read_bytes())
    for program in obj.programs:
        fine, coarse = (stack_depth(obj, program, step) for step in STEPS)
        assert fine <= coarse and fine >= STEPS[0] * bool(program.subprograms)
